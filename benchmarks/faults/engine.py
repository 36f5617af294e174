"""A backend that breaks itself as a file says: faults live in the engine, and leave no mark but their effect."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch

from benchmarks.faults.engine_faults import inside
from harness.definitions.case import Case
from harness.engine.backend import Emit, Method
from harness.engine.backends.diffusers_backend import DiffusersBackend
from harness.engine.noise import Noise
from harness.records.base import Json
from harness.records.generation import Generation

FAULT_FILE = "QUANTGATE_FAULT_FILE"
"""Environment variable: a JSON list of faults, read anew at every call."""


class FaultBackend(DiffusersBackend):
    """Wan2.2 through diffusers, with faults."""

    def __init__(self) -> None:
        super().__init__()
        self.overrides: dict[str, Any] = {}
        self._base: Path | None = None

    def load(self, case: Case, paths: Mapping[str, Path], device: str, emit: Emit) -> None:
        """See ``Backend``."""
        super().load(case, paths, device, emit)
        self._base = paths["model"].parent.parent / "weights"

    def plain_expert(self, role: str) -> Any:
        """The BF16 expert of the base."""
        from diffusers import WanTransformer3DModel

        device, dtype = self.compute
        kind: Any = WanTransformer3DModel
        model: Any = kind.from_pretrained(str(self._base), subfolder=role, torch_dtype=dtype, local_files_only=True)
        return model.eval().to(device)

    def generate(self, case: Case, out_dir: Path, emit: Emit) -> Generation:
        """See ``Backend``."""
        with self._faults():
            disturbed = self.overrides.get("disturbed")
            noise = Noise.model_validate(disturbed) if disturbed else None
            return super().generate_with(self._bent(case), out_dir, emit, noise)

    def scheduler(self, case: Case) -> Any:
        """The scheduler, with another solver order where a fault says so."""
        made = super().scheduler(case)
        order = self.overrides.get("solver_order")
        return made if order is None else type(made).from_config(made.config, solver_order=order)

    def methods(self) -> Mapping[str, Method]:
        """See ``Backend``."""
        return {name: self._bad(method) for name, method in super().methods().items()}

    def _bad(self, method: Method) -> Method:
        def call(params: dict[str, Json], emit: Emit) -> Json:
            with self._faults():
                return method(params, emit)

        return call

    @contextmanager
    def _faults(self) -> Iterator[None]:
        text = Path(os.environ[FAULT_FILE]).read_text(encoding="utf-8")
        with ExitStack() as stack, torch.no_grad():
            for spec in json.loads(text):
                stack.enter_context(inside(spec, self))
            yield

    def _bent(self, case: Case) -> Case:
        """The case as a runtime with other defaults would understand it."""
        sampling: dict[str, Any] = {}
        scheduler: dict[str, Any] = {}
        for name, value in self.overrides.items():
            if name == "guidance":
                sampling |= {"guidance_scale": value, "guidance_scale_2": value}
            elif name == "sequence_length":
                sampling["max_sequence_length"] = value
            elif name == "steps":
                sampling["num_inference_steps"] = value
            elif name in ("negative_prompt", "seed"):
                sampling[name] = value
            elif name == "boundary":
                scheduler["boundary_ratio"] = value
            elif name == "flow_shift":
                scheduler["flow_shift"] = value
        return case.model_copy(
            update={
                "sampling": case.sampling.model_copy(update=sampling),
                "scheduler": case.scheduler.model_copy(update=scheduler),
            }
        )
