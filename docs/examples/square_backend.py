"""A backend: draws a square that moves to the right. It stands for a runtime that is called in Python."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from harness.definitions.case import Case
from harness.definitions.environment import EnvironmentRule
from harness.engine.backend import Emit, Method
from harness.frames.clip import Clip, write_clip
from harness.records.generation import FloatStats, Generation, Receipts, Trace

ENVIRONMENT = EnvironmentRule(names=frozenset({"SQUARE_SIZE"}))
"""The variables that this backend reads. A case may set them in `env`; any other name there is an error."""


class SquareBackend:
    """Lives in the engine's process. The model is loaded once, and `generate` is called once per case."""

    def load(self, case: Case, paths: Mapping[str, Path], device: str, emit: Emit) -> None:
        """Load the model from ``paths["model"]``; here there is nothing to load."""
        emit({"stage": "load", "step": 1, "steps": 1})

    def generate(self, case: Case, out_dir: Path, emit: Emit) -> Generation:
        """Write the frames, uint8 [T, H, W, 3], as the clip of the case."""
        sampling = case.sampling
        began = time.perf_counter()
        colour = np.random.default_rng(sampling.seed).integers(160, 240, 3).astype(np.uint8)
        frames = np.zeros((sampling.num_frames, sampling.height, sampling.width, 3), dtype=np.uint8)
        # A black background would be a finding of the sanity checks: most values would lie at the end of the range.
        frames += np.linspace(40, 120, sampling.width, dtype=np.uint8)[:, np.newaxis]
        size = sampling.height // 2
        for index, frame in enumerate(frames):
            frame[size // 2 : size // 2 + size, index : index + size] = colour
            emit({"stage": "denoise", "step": index + 1, "steps": len(frames)})
        clip = Clip(frames)
        write_clip(out_dir / "clip.safetensors", clip, "raw")
        return Generation(
            clip="clip.safetensors",
            clip_sha256=clip.digest,
            shape=clip.shape,
            float_stats=FloatStats(nan=0, inf=0, minimum=40 / 255, maximum=float(colour.max()) / 255),
            trace=Trace(steps=()),  # the steps that the runtime reports; without them no setting is compared
            receipts=Receipts(modules=()),  # required if a case asks for a quantized format
            generate_seconds=time.perf_counter() - began,
        )

    def close(self) -> None:
        """Release the model; here there is nothing to release."""

    def quantized_modules(self) -> dict[str, dict[str, str]]:
        """Return the Linears that the checkpoint stores quantized: expert to module to format."""
        return {}

    def methods(self) -> Mapping[str, Method]:
        """Return further methods by name. A backend that offers ``probe`` and ``record`` gets probes."""
        return {}
