"""What a mutant looks like when the harness loads it: refused, visibly different, or no visible effect."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.corpus.exports import EXPERTS
from harness.definitions.case import Case, CheckpointRef, Sampling
from harness.errors import QuantgateError

REST = ("vae", "text_encoder", "tokenizer", "scheduler")
INVISIBLE_PSNR = 60.0
"""dB above which nobody sees a difference in 8-bit frames."""


class Symptoms:
    """Generates one video from each mutant and compares it with the same video from the right export."""

    def __init__(self, exports: Path, base: Path) -> None:
        self.exports = exports
        self.base = base
        self._right: dict[str, Any] = {}

    def __call__(self, mutant: Path, recipe: str) -> str:
        """One line: ``load refused: ...``, ``PSNR ...``, or ``no visible effect``."""
        try:
            frames = self.video(mutant)
        except QuantgateError as error:
            return f"load refused: {error.message[:70]}"
        except Exception as error:  # what a loader does with broken input is the measurement
            return f"load fails: {type(error).__name__}: {str(error)[:50]}"
        if recipe not in self._right:
            self._right[recipe] = self.video(self.exports / recipe)
        right = self._right[recipe]
        square = float(np.mean((frames.astype(np.float32) - right.astype(np.float32)) ** 2))
        if square == 0:
            return "no visible effect: the same video bit for bit"
        psnr = 10 * np.log10(255**2 / square)
        flat = " (flat)" if frames.std() < 2 else ""
        return f"PSNR {psnr:.1f} dB{flat}" if psnr < INVISIBLE_PSNR else f"no visible effect: PSNR {psnr:.0f} dB"

    def video(self, checkpoint: Path) -> np.ndarray[Any, np.dtype[np.uint8]]:
        """Frames [T, H, W, 3] of one prompt and seed; the mutant's own ``boundary_ratio`` is used."""
        import json

        from harness.engine.backends.diffusers_backend import DiffusersBackend
        from harness.frames.clip import read_clip
        from harness.records.run_folder import CLIP_FILE

        with tempfile.TemporaryDirectory() as name:
            whole = Path(name) / "model"
            whole.mkdir()
            shutil.copy(checkpoint / "model_index.json", whole / "model_index.json")
            for part in REST:
                (whole / part).symlink_to(self.base / part, target_is_directory=True)
            for expert in EXPERTS:
                (whole / expert).symlink_to((checkpoint / expert).resolve(), target_is_directory=True)
            index = json.loads((whole / "model_index.json").read_text(encoding="utf-8"))
            case = _case(whole, float(index.get("boundary_ratio") or 0.0))
            backend = DiffusersBackend()
            backend.load(case, {"model": whole}, "cpu", _quiet)
            try:
                backend.generate(case, Path(name), _quiet)
            finally:
                backend.close()
            return np.asarray(read_clip(Path(name) / CLIP_FILE).frames)


def _quiet(event: object) -> None:
    """Progress nobody watches."""
    del event


def _case(folder: Path, boundary: float) -> Case:
    return Case(
        id="symptom",
        runners=("cpu",),
        model=CheckpointRef(path=str(folder)),
        sampling=Sampling(
            prompt="a red circle moving right on a blue background",
            width=96,
            height=64,
            num_frames=17,
            num_inference_steps=8,
            guidance_scale=3.0,
            guidance_scale_2=3.0,
            max_sequence_length=64,
        ),
        scheduler={"boundary_ratio": boundary},
    )
