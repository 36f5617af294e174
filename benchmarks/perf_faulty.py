"""The diffusers backend with one fault of time or memory, for `benchmarks.perf_gpu`. Named by ``QUANTGATE_PERF_FAULT``.

``block:SECONDS``
    one block of each expert takes so much longer at every call;
``sync``
    the host waits for the device after every Linear (on a CPU: it reads one value and waits a little);
``leak:MB``
    every generation keeps so many megabytes, on the GPU or, without one, on the host.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from harness.definitions.case import Case
from harness.engine.backend import Emit
from harness.engine.backends.diffusers_backend import DiffusersBackend
from harness.records.generation import Generation

VARIABLE = "QUANTGATE_PERF_FAULT"
BLOCK = 1
_LINEAR_WAIT = 1e-3


class FaultyBackend(DiffusersBackend):
    """A backend that does everything right, and one thing slowly."""

    def __init__(self) -> None:
        super().__init__()
        self._fault, _, self._amount = os.environ.get(VARIABLE, "").partition(":")
        self._kept: list[Any] = []

    def load(self, case: Case, paths: Mapping[str, Path], device: str, emit: Emit) -> None:
        """See ``Backend``."""
        super().load(case, paths, device, emit)
        for model in self.experts.values():
            if self._fault == "block":
                model.blocks[BLOCK].register_forward_hook(self._take_longer(float(self._amount)))  # type: ignore[index,union-attr]
            if self._fault == "sync":
                for module in model.modules():
                    if type(module).__name__.endswith("Linear"):
                        module.register_forward_hook(self._synchronize)

    def generate(self, case: Case, out_dir: Path, emit: Emit) -> Generation:
        """See ``Backend``."""
        if self._fault == "leak":
            count = int(float(self._amount) * 1e6)
            on_gpu = self.compute[0].type == "cuda"
            self._kept.append(torch.ones(count, dtype=torch.uint8, device=self.compute[0] if on_gpu else "cpu"))
        return super().generate(case, out_dir, emit)

    def _take_longer(self, seconds: float) -> Any:
        def hook(*_: Any) -> None:
            if self.compute[0].type == "cuda":
                torch.cuda.synchronize()  # else the sleep would hide behind what is queued already
            until = time.perf_counter() + seconds
            while time.perf_counter() < until:
                pass

        return hook

    def _synchronize(self, _module: Any, _inputs: Any, output: torch.Tensor) -> None:
        if output.is_cuda:
            torch.cuda.synchronize()
        else:
            output.flatten()[0].item()
            time.sleep(_LINEAR_WAIT)
