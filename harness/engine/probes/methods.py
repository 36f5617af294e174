"""The methods ``record_probes`` and ``probe`` of a backend with a WanPipeline."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import torch

from harness.definitions.case import Case
from harness.engine.backend import Emit, Method
from harness.engine.probes import run
from harness.engine.probes.points import InputWatch
from harness.records.base import Json


class Host(Protocol):
    """Interface that these methods need from a backend."""

    @property
    def experts(self) -> dict[str, torch.nn.Module]:
        """Loaded transformers by role."""

    @property
    def compute(self) -> tuple[torch.device, torch.dtype]:
        """Device and compute dtype of the transformers."""

    def denoise(self, case: Case) -> Any:
        """Run the case up to the last latents, without decoding."""


def probe_methods(host: Host) -> Mapping[str, Method]:
    """Return the methods by name. Both take and return JSON:

    ``record_probes``: ``{"case", "out"}``; generates the case without decoding, keeps inputs of each expert, and writes
    them to ``out`` with this engine's sketches for them.
    ``probe``: ``{"inputs", "out"}``; feeds the inputs of a recording in, and writes the observed sketches to ``out``.
    Both return ``{"seconds": ..., "probes": ...}``; seconds are those of the probe passes.
    """

    def record(params: dict[str, Json], _emit: Emit) -> Json:
        case, watch = Case.model_validate(params["case"]), InputWatch()
        began = time.perf_counter()
        with watch.watching(host.experts):
            host.denoise(case)
        inputs = watch.chosen()
        device, dtype = host.compute
        index, tensors = run.observe(host.experts, inputs, device, dtype)
        for number, item in enumerate(inputs):
            tensors[f"latents.{number}"], tensors[f"text.{number}"] = item.latents.contiguous(), item.text
            if item.timesteps is not None:
                tensors[f"timesteps.{number}"] = item.timesteps.contiguous()
        run.write(Path(str(params["out"])), index, tensors)
        return {"seconds": index.seconds, "probes": len(inputs), "denoise_seconds": time.perf_counter() - began}

    def probe(params: dict[str, Json], _emit: Emit) -> Json:
        recorded, inputs = run.read_inputs(Path(str(params["inputs"])))
        device, dtype = host.compute
        index, tensors = run.observe(host.experts, inputs, device, dtype, dict(recorded.amplitudes))
        run.write(Path(str(params["out"])), index, tensors)
        return {"seconds": index.seconds, "probes": len(inputs)}

    return {"record_probes": record, "probe": probe}
