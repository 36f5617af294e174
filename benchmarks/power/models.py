"""The embedded models that the benchmark generates with: from text, and from a picture (``--model i2v``, ``ti2v``)."""

from __future__ import annotations

import hashlib
import io
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image

from benchmarks.faults.conditioning import CONDITIONING, alters
from benchmarks.power.design import GENERATED, PROMPTS, Engine, Task

ModelName = Literal["t2v", "i2v", "ti2v"]
TINY = Path(__file__).resolve().parents[2] / "tiny"
_ONE_EXPERT_HAS_NO = ("boundary", "experts_swapped", "expert_", "guidance-low", "loader-scales")


@dataclass(frozen=True)
class Model:
    """One embedded model.

    Attributes:
        name: as in ``--model``.
        weights: folder with its committed weights.
        experts: number of transformers.
        scheduler: settings of the case that are not the defaults.
    """

    name: ModelName
    weights: str
    experts: int = 2
    scheduler: tuple[tuple[str, float], ...] = ()

    @property
    def takes_picture(self) -> bool:
        """Whether a case has a first frame."""
        return self.name != "t2v"

    @property
    def manifest(self) -> Path:
        """File that states the digests of the weights."""
        return TINY / self.weights / "manifest.json"

    def quantization(self, form: str) -> dict[str, str]:
        """``quantization`` of a case whose experts all have one format."""
        return dict.fromkeys(("transformer", "transformer_2")[: self.experts], form)

    def export(self, form: str, out: Path) -> Path:
        """Write the model as a repository below ``out``. ``form``: ``bf16`` or ``nvfp4``. Returns its folder."""
        from tiny import export, export_variants

        if self.takes_picture:
            return export_variants.export(self.name if form == "bf16" else f"{self.name}-{form}", out)
        return TINY / self.weights if form == "bf16" else export.export(form, out)

    def alters(self, task: Task, prompt: int) -> bool:
        """Return whether a task changes anything for the picture of this prompt; if not, it is no fault there."""
        return not task.condition or alters(CONDITIONING[task.condition], _pixels(prompt))

    def faults(self) -> tuple[Task, ...]:
        """The faults that are generated: those of every model, and those of the conditioning."""
        if not self.takes_picture:
            return GENERATED
        chosen = [_at_shift_5(task) for task in GENERATED]
        if self.experts == 1:
            chosen = [task for task in chosen if not task.name.startswith(_ONE_EXPERT_HAS_NO) and _in_first(task)]
        conditioning = [
            Task(Engine(), "fault", f"condition {name}", "conditioning", causes=("image_condition_differs",),
                 condition=name)
            for name, fault in CONDITIONING.items()
            if self.name in fault.models
        ]  # fmt: skip
        return (*chosen, *conditioning)


MODELS: dict[ModelName, Model] = {
    "t2v": Model("t2v", "weights"),
    "i2v": Model("i2v", "weights_i2v", scheduler=(("flow_shift", 5.0), ("boundary_ratio", 0.9))),
    "ti2v": Model("ti2v", "weights_ti2v", experts=1, scheduler=(("flow_shift", 5.0), ("boundary_ratio", 0.9))),
}


def _at_shift_5(task: Task) -> Task:
    """The fault for a model whose shift is 5: there ``flow-shift-5`` would be no fault."""
    if not task.name.startswith("flow-shift"):
        return task
    value = {"flow-shift-5": 3.0, "flow-shift-2": 2.0, "flow-shift-3.3": 5.5}[task.name]
    return replace(task, name=f"flow-shift-{value:g}", request=(("scheduler", (("flow_shift", value),)),))


def _in_first(task: Task) -> bool:
    return "transformer" in task.engine.experts


@cache
def picture(prompt: int) -> bytes:
    """The first frame that goes with a prompt, as PNG, 96x64 RGB: its object where it could move in any direction."""
    from tiny.evaluate import Asked
    from tiny.evaluate_variants import first_frame
    from tiny.measure import Seen

    words = PROMPTS[prompt].split()
    seen = Seen(colour=words[1], shape=words[2], direction=words[4], background=words[7])
    file = io.BytesIO()
    first_frame(Asked(seen, seed=1000 + prompt)).save(file, "png")
    return file.getvalue()


@cache
def _pixels(prompt: int) -> torch.Tensor:
    """The picture of a prompt as a pipeline prepares it: [1, 3, H, W] in -1..1."""
    pixels = np.asarray(Image.open(io.BytesIO(picture(prompt))).convert("RGB"), dtype=np.float32)
    return torch.from_numpy(pixels / 127.5 - 1).permute(2, 0, 1)[None]


def image_of(prompt: int) -> dict[str, Any]:
    """``sampling.image`` of a case: the picture of its prompt."""
    return {"path": f"./pictures/prompt-{prompt}.png", "sha256": hashlib.sha256(picture(prompt)).hexdigest()}
