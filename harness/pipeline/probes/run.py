"""Run probes: recorded inputs into the experts that stand here, and everything that was seen."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import torch

from harness.pipeline.dtypes import DtypeWatch
from harness.pipeline.probes.isolated import feed_alone
from harness.pipeline.probes.points import PointWatch
from harness.pipeline.probes.record import Recorded
from harness.records.base import write_bytes_atomic
from harness.records.generation import Expert
from harness.records.probe import METADATA_KEY, ObservationIndex, Point

Amplitudes = dict[Expert, dict[str, float]]


def observe(
    experts: Mapping[str, torch.nn.Module],
    inputs: Sequence[Recorded],
    device: torch.device,
    dtype: torch.dtype,
    amplitudes: Amplitudes | None = None,
) -> tuple[ObservationIndex, dict[str, torch.Tensor]]:
    """Feed ``inputs`` into ``experts`` and sketch what happens inside; the first probe of each expert is looked into.

    Args:
        experts: loaded transformers by role.
        inputs: recorded by ``record.InputWatch`` or read by ``read_inputs``.
        device: where the inputs go.
        dtype: compute dtype of the experts.
        amplitudes: sizes of the signals of single Linears; ``None``: those of this very pass (a recording).

    Returns:
        The index and the tensors of an observation file, on the CPU.
    """
    began = time.perf_counter()
    tensors: dict[str, torch.Tensor] = {}
    points: list[tuple[Point, ...]] = []
    sizes: Amplitudes = {} if amplitudes is None else amplitudes
    looked: set[str] = set()
    dtypes: dict[Expert, dict[str, int]] = {}
    in_parts: dict[Expert, tuple[str, ...]] = {}
    for index, item in enumerate(inputs):
        model = experts.get(item.probe.expert)
        watch = PointWatch()
        if model is None:
            points.append(())
            continue
        text = torch.nn.functional.pad(item.text, (0, 0, 0, item.probe.tokens - item.text.shape[1]))
        timestep = torch.tensor([item.probe.timestep], dtype=getattr(torch, item.probe.timestep_dtype), device=device)
        call: dict[str, Any] = {
            "hidden_states": item.latents.to(device=device, dtype=dtype),
            "timestep": timestep,
            "encoder_hidden_states": text.to(device=device, dtype=dtype),
            "return_dict": False,
        }
        if item.probe.expert in looked:
            output = model(**call)[0]
        else:
            looked.add(item.probe.expert)
            with watch.watching(model), DtypeWatch(lambda watch=watch: watch.busy) as computed:  # type: ignore[misc]
                output = model(**call)[0]
            dtypes[item.probe.expert] = computed.counts
            in_parts[item.probe.expert] = tuple(sorted(watch.in_parts))
            tensors[f"points.{index}"] = torch.tensor(watch.sketches, dtype=torch.float32)
            if amplitudes is None:
                sizes[item.probe.expert] = watch.amplitudes
        points.append(tuple(watch.points))
        tensors[f"velocity.{index}"] = output[0].detach().to(device="cpu", dtype=torch.float32).contiguous()
    modules: dict[Expert, tuple[str, ...]] = {}
    formats: dict[Expert, dict[str, str]] = {}
    for role, model in experts.items():
        expert = cast("Expert", role)
        if expert in sizes:
            sketches, formats[expert] = feed_alone(model, sizes[expert], dtype)
            modules[expert] = tuple(sketches)
            tensors[f"modules.{role}"] = torch.tensor(list(sketches.values()), dtype=torch.float32)
    found = ObservationIndex(
        probes=tuple(item.probe for item in inputs),
        points=tuple(points),
        modules=modules,
        formats=formats,
        amplitudes=sizes,
        dtypes=dtypes,
        in_parts=in_parts,
        seconds=time.perf_counter() - began,
    )
    return found, tensors


def write(path: Path, index: ObservationIndex, tensors: Mapping[str, torch.Tensor]) -> Path:
    """Write an observation atomically. The seconds are left out of the file: equal observations are equal bytes."""
    from safetensors.torch import save

    bare = index.model_copy(update={"seconds": 0.0}).model_dump(mode="json")
    text = json.dumps(bare, sort_keys=True, separators=(",", ":"))
    write_bytes_atomic(path, save(dict(tensors), metadata={METADATA_KEY: text}))
    return path


def read_inputs(path: Path) -> tuple[ObservationIndex, tuple[Recorded, ...]]:
    """The inputs of a recording.

    Raises:
        safetensors.SafetensorError, pydantic.ValidationError: the file is no recording.
    """
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        index = ObservationIndex.model_validate_json((file.metadata() or {})[METADATA_KEY])
        inputs = tuple(
            Recorded(probe, file.get_tensor(f"latents.{number}"), file.get_tensor(f"text.{number}"))
            for number, probe in enumerate(index.probes)
        )
    return index, inputs
