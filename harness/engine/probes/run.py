"""Run probes: feed recorded inputs into the loaded experts, and collect sketches of everything inside."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, cast

import torch

from harness.engine.dtypes import DtypeWatch
from harness.engine.held import held_weights
from harness.engine.probes.points import PointWatch, Recorded, is_linear, is_norm, projection_of
from harness.engine.probes.stimulus import stimulus
from harness.engine.quantized.linear import QuantizedLinear
from harness.engine.sketch import sketch
from harness.records.base import write_bytes_atomic
from harness.records.generation import Expert
from harness.records.probe import BROKEN, METADATA_KEY, ObservationIndex, Point

# Feed every Linear and norm of an expert alone, so that its output depends only on its own weights and kernel.


NORM = "norm"
"""Format of a norm in the list of modules."""
ACTIVATION = "activation"
"""Format of an activation with its own projection, such as the GELU of a feed-forward."""
NORM_AMPLITUDE = 0.01
"""Norms get a faint signal: at the size of real activations an epsilon of 1e-2 hardly changes one, here 1e-5 does."""
_FORMATS = {torch.bfloat16: "bf16", torch.float16: "fp16", torch.float32: "fp32"}


def feed_alone(
    model: torch.nn.Module, amplitudes: Mapping[str, float], dtype: torch.dtype
) -> tuple[dict[str, tuple[float, ...]], dict[str, str]]:
    """Feed the fixed signal into every Linear that ``amplitudes`` names, into the activation around it, and every norm.

    Args:
        model: an expert.
        amplitudes: module to root mean square of its signal.
        dtype: compute dtype of packed Linears; a plain Linear is fed in the dtype of its weight.

    Returns:
        Sketch of the output by module, and the module's stored format.
    """
    sketches: dict[str, tuple[float, ...]] = {}
    formats: dict[str, str] = {}
    for name, module in model.named_modules():
        if is_norm(name, module):
            sketches[name] = sketch(_norm(module, dtype))
            formats[name] = NORM
        around = f"{name}.{projection_of(module)}"
        if around in amplitudes:
            sketches[name] = sketch(module(_signal(module.get_submodule("proj"), amplitudes[around], dtype)))
            formats[name] = ACTIVATION
        if name not in amplitudes or not is_linear(module):
            continue
        weight: torch.Tensor = module.weight
        sketches[name] = sketch(module(_signal(module, amplitudes[name], dtype)))
        formats[name] = (
            module.stored_format()
            if isinstance(module, QuantizedLinear)
            else _FORMATS.get(weight.dtype, str(weight.dtype))
        )
    return sketches, formats


def input_ranges(model: torch.nn.Module, amplitudes: Mapping[str, float]) -> dict[str, float]:
    """Return, per quantized Linear with a static input scale, the largest input that the scale can represent over the
    root mean square ``amplitudes`` of the input that the base's Linear gets. A Linear without input is left out.
    """
    ranges: dict[str, float] = {}
    for name, module in model.named_modules():
        largest = module.largest_input() if isinstance(module, QuantizedLinear) else None
        size = amplitudes.get(name, 0.0)
        if largest is not None and size > 0:
            ratio = largest / size
            ranges[name] = ratio if 0.0 <= ratio <= BROKEN else BROKEN
    return ranges


def _signal(linear: torch.nn.Module, amplitude: float, dtype: torch.dtype) -> torch.Tensor:
    weight = cast("torch.Tensor", linear.weight)
    signal = torch.from_numpy(stimulus(int(cast("Any", linear).in_features), amplitude)).to(weight.device)
    # The signal has 16 magnitudes. If one lies on a rounding boundary of FP8 or FP4, another compute dtype would
    # move a sixteenth of all values to the next code. So a packed Linear gets the same values in every dtype.
    return signal.to(torch.bfloat16).to(dtype) if isinstance(linear, QuantizedLinear) else signal.to(weight.dtype)


def _norm(module: torch.nn.Module, dtype: torch.dtype) -> torch.Tensor:
    shape = getattr(module, "normalized_shape", None)
    weight = getattr(module, "weight", None)
    columns = int(shape[-1]) if shape is not None else int(weight.shape[-1])  # type: ignore[union-attr]
    place = weight.device if weight is not None else torch.device("cpu")
    weight_dtype = weight.dtype if weight is not None else dtype
    signal = torch.from_numpy(stimulus(columns, NORM_AMPLITUDE)).to(device=place, dtype=weight_dtype)
    answer: torch.Tensor = module(signal)
    return answer


Amplitudes = dict[Expert, dict[str, float]]


def observe(
    experts: Mapping[str, torch.nn.Module],
    inputs: Sequence[Recorded],
    device: torch.device,
    dtype: torch.dtype,
    amplitudes: Amplitudes | None = None,
) -> tuple[ObservationIndex, dict[str, torch.Tensor]]:
    """Feed ``inputs`` into ``experts``, and sketch every pass inside.

    Args:
        experts: loaded transformers by role.
        inputs: recorded by ``points.InputWatch`` or read by ``read_inputs``.
        device: device that the inputs are moved to.
        dtype: compute dtype of the experts.
        amplitudes: signal size per Linear; ``None``: the sizes measured in this pass (a recording).

    Returns:
        The index and the tensors of an observation file, on the CPU.
    """
    began = time.perf_counter()
    tensors: dict[str, torch.Tensor] = {}
    points: list[tuple[Point, ...]] = []
    sizes: Amplitudes = {} if amplitudes is None else amplitudes
    dtypes: dict[Expert, dict[str, int]] = {}
    in_parts: dict[Expert, tuple[str, ...]] = {}
    for index, item in enumerate(inputs):
        model = experts.get(item.probe.expert)
        watch = PointWatch()
        if model is None:
            points.append(())
            continue
        # the recording stores the text without its padding; the model must get the padded length
        text = torch.nn.functional.pad(item.text, (0, 0, 0, item.probe.tokens - item.text.shape[1]))
        timestep = torch.tensor([item.probe.timestep], dtype=getattr(torch, item.probe.timestep_dtype), device=device)
        if item.timesteps is not None:
            timestep = item.timesteps.to(device)
        call: dict[str, Any] = {
            "hidden_states": item.latents.to(device=device, dtype=dtype),
            "timestep": timestep,
            "encoder_hidden_states": text.to(device=device, dtype=dtype),
            "return_dict": False,
        }
        first = item.probe.expert not in dtypes
        # every pass is watched inside, and not only the first: a value kept from an earlier call shows in the second
        with watch.watching(model), _counting(watch, first) as computed:
            output = model(**call)[0]
        in_parts[item.probe.expert] = tuple(sorted({*in_parts.get(item.probe.expert, ()), *watch.in_parts}))
        tensors[f"points.{index}"] = torch.tensor(watch.sketches, dtype=torch.float32)
        if computed is not None:
            dtypes[item.probe.expert] = computed.counts
            # a recording defines the signal sizes; a later probe must use the recorded sizes to be comparable
            if amplitudes is None:
                sizes[item.probe.expert] = watch.amplitudes
        points.append(watch.points)
        tensors[f"velocity.{index}"] = output[0].detach().to(device="cpu", dtype=torch.float32).contiguous()
    modules: dict[Expert, tuple[str, ...]] = {}
    formats: dict[Expert, dict[str, str]] = {}
    ranges: dict[Expert, dict[str, float]] = {}
    for role, model in experts.items():
        expert = cast("Expert", role)
        if expert in sizes:
            sketches, formats[expert] = feed_alone(model, sizes[expert], dtype)
            modules[expert] = tuple(sketches)
            ranges[expert] = input_ranges(model, sizes[expert])
            tensors[f"modules.{role}"] = torch.tensor(list(sketches.values()), dtype=torch.float32)
    observation = ObservationIndex(
        probes=tuple(item.probe for item in inputs),
        points=tuple(points),
        modules=modules,
        formats=formats,
        amplitudes=sizes,
        dtypes=dtypes,
        in_parts=in_parts,
        held=held_weights(experts),
        input_ranges=ranges,
        seconds=time.perf_counter() - began,
    )
    return observation, tensors


def _counting(watch: PointWatch, first: bool) -> AbstractContextManager[DtypeWatch | None]:
    return DtypeWatch(lambda: watch.busy) if first else nullcontext()


def write(path: Path, index: ObservationIndex, tensors: Mapping[str, torch.Tensor]) -> Path:
    """Write an observation atomically. Seconds are stored as 0, so that equal observations are equal bytes."""
    from safetensors.torch import save

    bare = index.model_copy(update={"seconds": 0.0}).model_dump(mode="json")
    text = json.dumps(bare, sort_keys=True, separators=(",", ":"))
    write_bytes_atomic(path, save(dict(tensors), metadata={METADATA_KEY: text}))
    return path


def read_inputs(path: Path) -> tuple[ObservationIndex, tuple[Recorded, ...]]:
    """Return the index and the inputs of a recording.

    Raises:
        safetensors.SafetensorError, UnreadableError: the file is no recording.
    """
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        index = ObservationIndex.parse((file.metadata() or {})[METADATA_KEY], str(path))
        names = frozenset(file.keys())
        inputs = tuple(
            Recorded(
                probe,
                file.get_tensor(f"latents.{number}"),
                file.get_tensor(f"text.{number}"),
                file.get_tensor(f"timesteps.{number}") if f"timesteps.{number}" in names else None,
            )
            for number, probe in enumerate(index.probes)
        )
    return index, inputs
