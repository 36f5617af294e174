"""One folder a format: weights, export, golden, limits; and copies of the export that entries break."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from benchmarks.unseen.design import Entry, Form
from benchmarks.unseen.engine import SWITCHES
from harness.calibrate.apply import apply
from harness.calibrate.regenerate import Plan, measure
from harness.definitions.case import Case, Located
from harness.definitions.runner import load_runners, match_runner
from harness.goldens.folder import FolderStore
from harness.goldens.workspace import Workspace
from harness.machine.devices import cpu_device
from harness.machine.leases import device_environment
from harness.records.base import write_text_atomic
from harness.session.context import SessionContext
from harness.session.perturbation import Perturbation, by_name, cpu_flags, plan

ROOT = Path(__file__).resolve().parents[2]
PROMPTS: dict[Form, str] = {
    "nvfp4": "a red circle moving right on a blue background",
    "fp8": "a yellow square moving down on a purple background",
}
ENGINE = "benchmarks.unseen.engine:UnseenBackend"


@dataclass(frozen=True)
class Bench:
    """A healthy case with its golden and limits."""

    form: Form
    context: SessionContext
    located: Located

    @property
    def switches(self) -> Path:
        """The file that the engine reads at every call."""
        return self.context.root / "switches.json"

    def switch(self, entry: Entry | None) -> None:
        """Inject what ``entry`` names from the next call on; ``None``: nothing."""
        os.environ[SWITCHES] = str(self.switches)
        names = {"running": entry.running, "frames": entry.frames} if entry else {}
        write_text_atomic(self.switches, json.dumps(names))

    def copy(self, entry: Entry, edit: Callable[[Path], None]) -> Bench:
        """The same case in a repository whose export was edited; the path in the case stays the same."""
        root = self.context.root / "copies" / entry.id
        shutil.rmtree(root, ignore_errors=True)
        (root / "tiny" / "exports").mkdir(parents=True)
        (root / "tiny" / "weights").symlink_to(self.context.root / "tiny" / "weights")
        target = root / "tiny" / "exports" / self.form
        shutil.copytree(self.context.root / "tiny" / "exports" / self.form, target)
        edit(target)
        context = replace(self.context, root=root)
        return CopyBench(self.form, context, self.located, self.switches)

    def changed(self, sections: dict[str, Any]) -> Located:
        """The case with other values."""
        data = self.located.case.model_dump(mode="json")
        for name, values in sections.items():
            data[name] = {**data[name], **values} if isinstance(values, dict) and data.get(name) else values
        return self.located.model_copy(update={"case": Case.model_validate(data)})


@dataclass(frozen=True)
class CopyBench(Bench):
    """A bench whose export is a copy; the switches stay where they are."""

    _switches: Path = Path()

    @property
    def switches(self) -> Path:
        """See ``Bench``."""
        return self._switches


def prepare(folder: Path, form: Form) -> Bench:
    """Copy weights and export, measure golden and limits below ``folder``; what is there is used again."""
    folder = folder.resolve()
    tiny = folder / "tiny"
    tiny.mkdir(parents=True, exist_ok=True)
    _checkpoints(tiny, form)
    device = cpu_device()
    profile = match_runner(device, load_runners(ROOT / "runners"))
    context = SessionContext(
        root=folder,
        run="unseen",
        runs_dir=folder / "runs",
        runner=profile,
        device=device,
        store=FolderStore(folder / "goldens"),
        thresholds=folder / "thresholds",
        device_env=device_environment(device),
        leave_candidates=False,
        allow_python_backend=True,
    )
    bench = Bench(form, context, Located(case=_case(form, profile.name), path=folder / "case.yaml", line=1))
    bench.switch(None)
    if not context.store.find(profile.name, form):
        _measure(bench)
    return bench


def _checkpoints(tiny: Path, form: Form) -> None:
    from tiny.export import CALIBRATION, WEIGHTS, export

    if not (tiny / "weights").exists():
        shutil.copytree(WEIGHTS, tiny / "weights")
        shutil.copy(CALIBRATION, tiny / "calibration.json")
    if not (tiny / "exports" / form).exists():
        export(form, tiny / "exports", tiny / "weights", tiny / "calibration.json")


def _case(form: Form, runner: str) -> Case:
    data: dict[str, Any] = {
        "id": form,
        "runners": [runner],
        "backend": ENGINE,
        "model": {"path": f"./tiny/exports/{form}"},
        "base": {"path": "./tiny/weights"},
        "quantization": {"transformer": form, "transformer_2": form},
        "pass_env": [SWITCHES],
        "sampling": {
            "prompt": PROMPTS[form],
            "negative_prompt": "",
            "width": 96,
            "height": 64,
            "num_frames": 17,
            "num_inference_steps": 8,
            "guidance_scale": 3.0,
            "guidance_scale_2": 3.0,
            "max_sequence_length": 64,
            "seed": 0,
        },
        "scheduler": {"name": "UniPCMultistepScheduler", "flow_shift": 3.0, "boundary_ratio": 0.875},
        "precision": {"transformer": "bf16", "text_encoder": "bf16", "vae": "fp32"},
        "timeouts": {"load": 300, "generate": 300},
    }
    return Case.model_validate(data)


def _measure(bench: Bench) -> None:
    """Golden and limits, as ``quantgate regenerate`` measures them."""
    healthy: tuple[Perturbation, ...] = plan(bench.context.runner, cpu_flags())
    chosen = (by_name("isa-default"), *(change for change in healthy if change.name == "threads-2"))
    wanted = Plan(perturbations=chosen, repeats=12, controls="frames", reason="unseen list", report_line=print)
    (proposal,) = measure(bench.context, (bench.located,), wanted, lambda _event: None)
    apply(Workspace(bench.context.root), proposal, reason="unseen list", author="benchmark")
