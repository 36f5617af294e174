"""Find out how an engine read a Linear's weight, by comparing its output with outputs computed from the stored bytes.

Decode the stored weight in every plausible way (numpy), feed it the same fixed signal, and compare its sketch with the
engine's sketch. The reading that fits up to rounding is the reading that loader and kernel used.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from harness.definitions.case import Loader
from harness.engine.probes.stimulus import sketch_array, stimulus
from harness.formats.codecs import F32, as_bfloat16, decode_floats
from harness.formats.header import TensorEntry
from harness.formats.registry import stored_format
from harness.formats.spec import StoredLinear
from harness.inspector.assemble import assemble
from harness.inspector.index import Component
from harness.inspector.sources import Meter
from harness.judge.observation import Observation, gain
from harness.limits.probes import relative_error
from harness.records.attribution import Reading
from harness.records.generation import Expert

Components = Mapping[str, Component]


def open_experts(paths: Mapping[str, Path]) -> Components:
    """Open the experts' tensors as the engine loads them, from the folders by role."""
    with ThreadPoolExecutor(4) as pool:
        overrides = {role: paths[role] for role in ("transformer", "transformer_2") if role in paths}
        return assemble(paths["model"], Meter(), pool, overrides).experts


def read_as(
    expert: Expert, module: str, observed: Observation, subject: Components, base: Components, loader: Loader
) -> tuple[Reading, ...]:
    """Return every reading of one module's bytes with its error against the engine's output, best first.

    Args:
        expert, module: the Linear.
        observed: the engine's sketches.
        subject: the checkpoint that was loaded.
        base: the BF16 anchor; empty if there is no base.
        loader: the byte layout that the case declares.
    """
    answer = observed.modules(expert).get(module)
    amplitude = observed.index.amplitudes.get(expert, {}).get(module)
    if answer is None or amplitude is None:
        return ()
    readings: list[Reading] = []
    signals = _signals(expert, module, subject, amplitude)
    for name, weight, bias in _weights(expert, module, subject, base, loader):
        rows = [
            _reading(name, answer, signal, weight, bias) for signal in signals if signal.shape[1] == weight.shape[1]
        ]
        # the engine multiplied one of the signals, so only the better fit counts
        readings += sorted(rows, key=lambda reading: reading.error)[:1]
    return tuple(sorted(readings, key=lambda reading: reading.error))


def _signals(expert: Expert, module: str, subject: Components, amplitude: float) -> tuple[F32, ...]:
    """Return the inputs that the engine may have multiplied: bfloat16, and quantized as a native kernel does."""
    modules = subject.get(expert)
    weight = modules.tensors.get(f"{module}.weight") if modules is not None else None
    if modules is None or weight is None:
        return ()
    recognised = stored_format(weight, _parts(modules, module), modules.declaration.raw)
    columns = weight.shape[-1] if recognised is None else recognised[1][1]
    plain = as_bfloat16(stimulus(columns, amplitude))
    if recognised is None or recognised[0].activations is None:
        return (plain,)
    stored = _floats(modules, f"{module}.input_scale")
    scale = None if stored is None else float(stored.reshape(-1)[0])
    return plain, recognised[0].activations(plain, scale)


def _reading(name: str, answer: F32, signal: F32, weight: F32, bias: F32 | None) -> Reading:
    # wrong readings may overflow; their infinite error is a valid result
    with np.errstate(all="ignore"):
        product = signal @ weight.T
        sketch = sketch_array(product if bias is None else product + bias)
        return Reading(name=name, error=relative_error(answer, sketch), gain=_gain_of_product(answer, product, bias))


def _gain_of_product(answer: F32, product: F32, bias: F32 | None) -> float | None:
    """Return the factor on the weight that fits the output best. The bias is subtracted, since it keeps its size."""
    rest = answer if bias is None else answer - sketch_array(np.broadcast_to(bias, product.shape))
    return gain(rest, sketch_array(product))


def _weights(
    expert: Expert, module: str, subject: Components, base: Components, loader: Loader
) -> Iterator[tuple[str, F32, F32 | None]]:
    modules = subject.get(expert)
    if modules is not None:
        bias = _floats(modules, f"{module}.bias")
        for name, weight in _stored(modules, module, loader):
            yield name, weight, bias
    # a loader may have exchanged the experts, so the other expert's weight is a candidate too
    other = next((component for role, component in subject.items() if role != expert), None)
    if other is not None:
        bias = _floats(other, f"{module}.bias")
        for name, weight in _stored(other, module, loader):
            # one reading is enough to show that the experts are exchanged
            if name == "declared":
                yield "other_expert", weight, bias
    anchor = base.get(expert)
    plain = None if anchor is None else _floats(anchor, f"{module}.weight")
    if anchor is not None and plain is not None:
        yield "base", plain, _floats(anchor, f"{module}.bias")


def _stored(component: Component, module: str, loader: Loader) -> Iterator[tuple[str, F32]]:
    entry = component.tensors.get(f"{module}.weight")
    if entry is None:
        return
    parts = _parts(component, module)
    recognised = stored_format(entry, parts, component.declaration.raw)
    if recognised is None:
        plain = _floats(component, f"{module}.weight")
        if plain is not None:
            yield "declared", plain
        return
    form, shape = recognised

    def read(tensor: TensorEntry, start: int, length: int) -> bytes:
        return component.source.read(tensor.file, tensor.start + start, length)

    rows = np.arange(shape[0], dtype=np.int64)
    stored = StoredLinear(entry, parts, shape, rows, read, scale=parts.get("weight_scale"), code=form.name)
    yield from form.misread(stored, loader.model_dump())


def _parts(component: Component, module: str) -> dict[str, TensorEntry]:
    prefix = f"{module}."
    parts = {name.removeprefix(prefix): entry for name, entry in component.tensors.items() if name.startswith(prefix)}
    return {suffix: entry for suffix, entry in parts.items() if suffix not in ("weight", "bias")}


def _floats(component: Component, name: str) -> F32 | None:
    entry = component.tensors.get(name)
    if entry is None:
        return None
    data = component.source.read(entry.file, entry.start, entry.nbytes)
    return decode_floats(data, entry.dtype).reshape(entry.shape)
