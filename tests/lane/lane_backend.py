"""A backend for the tests of the lane: loads and generates nothing, in a real engine process."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

from harness.definitions.case import Case
from harness.engine.backend import Emit, Method
from harness.records.base import Json
from harness.records.generation import FloatStats, Generation, Receipts, Trace

SLEEPER = "import time; time.sleep(600)"


class LaneBackend:
    """The prompt says what to do: ``wait`` never comes back, and ``hang`` starts a child and never comes back."""

    def load(self, case: Case, paths: Mapping[str, Path], device: str, emit: Emit) -> None:
        emit({"stage": "load", "step": 1, "steps": 1})

    def generate(self, case: Case, out_dir: Path, emit: Emit) -> Generation:
        if case.sampling.prompt == "hang":
            child = subprocess.Popen([sys.executable, "-c", SLEEPER], start_new_session=True)
            (out_dir / "pids").write_text(f"{os.getpid()}\n{child.pid}\n")
            time.sleep(600)
        if case.sampling.prompt == "wait":
            (out_dir / "pids").write_text(f"{os.getpid()}\n")
            time.sleep(600)
        if case.sampling.prompt == "die":
            os._exit(9)
        (out_dir / "clip.safetensors").write_bytes(b"frames")
        return Generation(
            clip="clip.safetensors",
            clip_sha256="0" * 64,
            shape=(1, 16, 16, 3),
            float_stats=FloatStats(nan=0, inf=0, minimum=0.0, maximum=1.0),
            trace=Trace(steps=()),
            receipts=Receipts(modules=()),
        )

    def close(self) -> None:
        """Nothing to let go of."""

    def quantized_modules(self) -> dict[str, dict[str, str]]:
        return {}

    def methods(self) -> Mapping[str, Method]:
        return {"device": self._device}

    @staticmethod
    def _device(_params: dict[str, Json], _emit: Emit) -> Json:
        return os.environ.get("CUDA_VISIBLE_DEVICES")
