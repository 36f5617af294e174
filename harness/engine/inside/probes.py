"""Record inputs of SGLang's experts, feed them in again, and sketch inner values under the checkpoint's names.

``write`` produces the file format of ``harness.records.probe.ObservationIndex``.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save

from harness.engine.inside.watch import stored_format
from harness.engine.probes import watching
from harness.engine.probes.stimulus import stimulus
from harness.engine.sketch import sketch

METADATA_KEY = "quantgate.probe"


@dataclass(frozen=True)
class Recorded:
    """One recorded input: description of the pass, latents [1, C, T, H, W], text [1, L, D] without trailing zeros."""

    probe: dict[str, Any]
    latents: torch.Tensor
    text: torch.Tensor


class InputWatch(watching.InputWatch):
    """Keeps the inputs of the experts for a recording."""

    def chosen(self) -> list[Recorded]:
        """Return the first and the last step of every expert, the ends of its noise range."""
        return [Recorded(item.facts(), item.latents.contiguous(), item.trimmed()) for item in self.ends()]


def points_of(
    model: Any, linears: Mapping[str, Any], names: Mapping[str, Sequence[str]]
) -> Iterator[tuple[str, str, torch.nn.Module]]:
    """Yield the Linears (under their checkpoint names), norms and blocks of an expert."""
    for name, module in model.named_modules():
        if name in linears:
            yield names[name][0], "linear", module
        elif kind := _kind(name, module):
            yield name, kind, module


def _kind(name: str, module: Any) -> str | None:
    head, _, leaf = name.rpartition(".")
    if "norm" in leaf and not list(module.children()):
        return "norm"
    if leaf.isdigit() and head.endswith("blocks"):
        return "block"
    return "other" if leaf == "patch_embedding" else None


def observe(
    experts: Mapping[str, Any],
    linears: Mapping[str, Mapping[str, Any]],
    names: Mapping[str, Mapping[str, Sequence[str]]],
    inputs: Sequence[Recorded],
    device: torch.device,
    call: Callable[[Any, dict[str, Any]], Any],
    amplitudes: Mapping[str, Mapping[str, float]] | None,
) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """Feed ``inputs`` into ``experts``. Sketch inside the first probe of each expert, and feed each Linear alone.

    Args:
        experts: loaded transformers by role.
        linears: expert to runtime name to module.
        names: expert to runtime name to checkpoint names.
        inputs: the recorded inputs.
        device: device that the inputs are moved to.
        call: calls an expert with keyword arguments inside the runtime's forward context.
        amplitudes: signal size per Linear, by checkpoint name; ``None``: the sizes measured in this pass.

    Returns:
        Index and tensors of an observation file.
    """
    began = time.perf_counter()
    tensors: dict[str, torch.Tensor] = {}
    points: list[list[dict[str, str]]] = []
    sizes: dict[str, Mapping[str, float]] = {} if amplitudes is None else dict(amplitudes)
    looked: set[str] = set()
    in_parts: dict[str, list[str]] = {}
    for number, item in enumerate(inputs):
        role = item.probe["expert"]
        model = experts.get(role)
        if model is None:
            points.append([])
            continue
        text = torch.nn.functional.pad(item.text, (0, 0, 0, item.probe["tokens"] - item.text.shape[1]))
        kind = getattr(torch, item.probe["timestep_dtype"])
        arguments = {
            "hidden_states": item.latents.to(device),
            "timestep": torch.tensor([item.probe["timestep"]], device=device).to(kind),
            "encoder_hidden_states": text.to(device),
        }
        watch = watching.SketchWatch()
        if role in looked:
            output = call(model, arguments)
        else:
            looked.add(role)
            with watch.hooked(points_of(model, linears[role], names[role])):
                output = call(model, arguments)
            in_parts[role] = sorted(watch.in_parts)
            tensors[f"points.{number}"] = torch.tensor(watch.sketches, dtype=torch.float32)
            if amplitudes is None:
                sizes[role] = watch.amplitudes
        points.append([{"name": name, "kind": form} for name, form in watch.names])
        output = output[0] if isinstance(output, tuple) else output
        tensors[f"velocity.{number}"] = output[0].detach().float().cpu().contiguous()
    modules: dict[str, list[str]] = {}
    formats: dict[str, dict[str, str]] = {}
    for role in experts:
        if role in sizes:
            sketches, formats[role] = feed_alone(experts[role], linears[role], names[role], sizes[role], device)
            modules[role] = list(sketches)
            tensors[f"modules.{role}"] = torch.tensor(list(sketches.values()), dtype=torch.float32)
    index = {
        "schema_version": 1,
        "probes": [item.probe for item in inputs],
        "points": points,
        "modules": modules,
        "formats": formats,
        "amplitudes": {role: dict(values) for role, values in sizes.items()},
        "dtypes": {},
        "in_parts": in_parts,
        "seconds": time.perf_counter() - began,
    }
    return index, tensors


def feed_alone(
    model: Any,
    linears: Mapping[str, Any],
    names: Mapping[str, Sequence[str]],
    amplitudes: Mapping[str, float],
    device: torch.device,
) -> tuple[dict[str, tuple[float, ...]], dict[str, str]]:
    """Return the sketch of every Linear's output for the fixed signal, and its stored format, by checkpoint name."""
    sketches: dict[str, tuple[float, ...]] = {}
    formats: dict[str, str] = {}
    compute = next((p.dtype for p in model.parameters() if p.dtype in (torch.bfloat16, torch.float16)), torch.float32)
    with torch.no_grad():
        for runtime_name, module in linears.items():
            name = names[runtime_name][0]
            if name not in amplitudes:
                continue
            packed = stored_format(module.weight) in ("fp8", "nvfp4")
            columns = int(
                getattr(module, "input_size", 0) or getattr(module, "in_features", 0) or module.weight.shape[1]
            )
            signal = torch.from_numpy(stimulus(columns, amplitudes[name])).to(device)
            output = module(signal.to(torch.bfloat16).to(compute) if packed else signal.to(module.weight.dtype))
            sketches[name] = sketch(output[0] if isinstance(output, tuple) else output)
            formats[name] = stored_format(module.weight)
    return sketches, formats


def write(path: Path, index: Mapping[str, Any], tensors: Mapping[str, torch.Tensor]) -> None:
    """Write an observation atomically. Seconds are stored as 0, so that equal observations are equal bytes."""
    text = json.dumps({**index, "seconds": 0.0}, sort_keys=True, separators=(",", ":"))
    part = path.with_name(f".{path.name}.part")
    part.write_bytes(save({name: value.contiguous() for name, value in tensors.items()}, metadata={METADATA_KEY: text}))
    part.replace(path)


def read_inputs(path: Path) -> tuple[dict[str, Any], list[Recorded]]:
    """Return the index and the inputs of a recording."""
    with safe_open(str(path), "pt") as file:
        index = json.loads(file.metadata()[METADATA_KEY])
        inputs = [
            Recorded(probe, file.get_tensor(f"latents.{number}"), file.get_tensor(f"text.{number}"))
            for number, probe in enumerate(index["probes"])
        ]
    return index, inputs
