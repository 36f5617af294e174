"""Find out how an engine read a Linear's weight, by comparing its output with outputs computed from the stored bytes.

Decode the stored weight in every plausible way (numpy), feed it the same fixed signal, and compare its sketch with the
engine's sketch. The reading that fits up to rounding is the reading that loader and kernel used.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from harness.definitions.case import Loader
from harness.engine.probes.stimulus import sketch_array, stimulus
from harness.formats.activations import as_bfloat16, as_fp8, as_nvfp4
from harness.formats.codecs import (
    F32,
    FP8_TABLES,
    U8,
    NibbleOrder,
    decode_e4m3,
    decode_floats,
    dequantize_nvfp4,
    swizzle,
    unpack_nibbles,
    unswizzle,
)
from harness.formats.header import TensorEntry
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
    found: list[Reading] = []
    signals = _signals(expert, module, subject, amplitude)
    for name, weight, bias in _weights(expert, module, subject, base, loader):
        rows = [
            _reading(name, answer, signal, weight, bias) for signal in signals if signal.shape[1] == weight.shape[1]
        ]
        found += sorted(rows, key=lambda reading: reading.error)[:1]
    return tuple(sorted(found, key=lambda reading: reading.error))


def _signals(expert: Expert, module: str, subject: Components, amplitude: float) -> tuple[F32, ...]:
    """Return the inputs that the engine may have multiplied: bfloat16, and quantized as a native kernel does."""
    own = subject.get(expert)
    weight = own.tensors.get(f"{module}.weight") if own is not None else None
    if own is None or weight is None:
        return ()
    # U8 packs two values per byte, so the stored width is half of the real width
    columns = weight.shape[1] * (2 if weight.dtype == "U8" else 1)
    plain = as_bfloat16(stimulus(columns, amplitude))
    stored = _floats(own, f"{module}.input_scale")
    scale = None if stored is None else float(stored.reshape(-1)[0])
    if weight.dtype == "F8_E4M3":
        return plain, as_fp8(plain, scale)
    return (plain, as_nvfp4(plain, scale)) if weight.dtype == "U8" else (plain,)


def _reading(name: str, answer: F32, signal: F32, weight: F32, bias: F32 | None) -> Reading:
    # wrong readings may overflow; their infinite error is a valid result
    with np.errstate(all="ignore"):
        product = signal @ weight.T
        said = sketch_array(product if bias is None else product + bias)
        return Reading(name=name, error=relative_error(answer, said), gain=_gain_of_product(answer, product, bias))


def _gain_of_product(answer: F32, product: F32, bias: F32 | None) -> float | None:
    """Return the factor on the weight that fits the output best. The bias is subtracted, since it keeps its size."""
    rest = answer if bias is None else answer - sketch_array(np.broadcast_to(bias, product.shape))
    return gain(rest, sketch_array(product))


def _weights(
    expert: Expert, module: str, subject: Components, base: Components, loader: Loader
) -> Iterator[tuple[str, F32, F32 | None]]:
    own = subject.get(expert)
    if own is not None:
        bias = _floats(own, f"{module}.bias")
        for name, weight in _stored(own, module, loader):
            yield name, weight, bias
    # a loader may have exchanged the experts, so the other expert's weight is a candidate too
    other = next((component for role, component in subject.items() if role != expert), None)
    if other is not None:
        bias = _floats(other, f"{module}.bias")
        for name, weight in _stored(other, module, loader):
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
    if entry.dtype == "U8":
        yield from _nvfp4(component, module, entry, loader)
    elif entry.dtype == "F8_E4M3":
        scale = _floats(component, f"{module}.weight_scale")
        factor = np.float32(1.0) if scale is None else scale.reshape(-1, 1)
        codes = _bytes(component, entry)
        yield "declared", np.asarray(FP8_TABLES["e4m3"][codes] * factor, dtype=np.float32)
        yield "scale_missing", FP8_TABLES["e4m3"][codes]
        yield "scale_inverted", np.asarray(FP8_TABLES["e4m3"][codes] / factor, dtype=np.float32)
    else:
        plain = _floats(component, f"{module}.weight")
        if plain is not None:
            yield "declared", plain


def _nvfp4(component: Component, module: str, entry: TensorEntry, loader: Loader) -> Iterator[tuple[str, F32]]:
    scale_entry = component.tensors.get(f"{module}.weight_scale")
    outer = _floats(component, f"{module}.weight_scale_2")
    if scale_entry is None or outer is None:
        return
    packed, stored = _bytes(component, entry), _bytes(component, scale_entry)
    rows, blocks = packed.shape[0], packed.shape[1] * 2 // 16
    straight = unswizzle(stored, rows, blocks) if loader.scale_layout == "swizzled" else stored
    straight = straight[:rows, :blocks]
    wrong: NibbleOrder = "low_first" if loader.nibble_order == "high_first" else "high_first"
    codes, swapped = unpack_nibbles(packed, loader.nibble_order), unpack_nibbles(packed, wrong)
    # each layout below is a loader fault of its own: swizzled twice, not unswizzled, rows or columns shifted by one
    layouts: dict[str, U8] = {"": straight}
    tiled = swizzle(straight)
    layouts["scale_swizzled"] = tiled.reshape(-1)[: rows * blocks].reshape(rows, blocks)
    if tiled.shape == straight.shape:
        layouts["scale_unswizzled"] = unswizzle(straight, rows, blocks)
    for axis, word in ((0, "rows"), (1, "columns")):
        for by in (1, -1):
            layouts[f"scale_rolled_{word}_{by:+d}"] = np.roll(straight, by, axis=axis)
    factor = float(outer.reshape(-1)[0])
    for name, scales in layouts.items():
        decoded = decode_e4m3(scales)
        yield name or "declared", dequantize_nvfp4(codes, decoded, factor)
        if name in ("", "scale_swizzled"):
            yield f"nibble_swapped{'+' + name if name else ''}", dequantize_nvfp4(swapped, decoded, factor)
    yield "scale_missing", dequantize_nvfp4(codes, np.ones_like(decode_e4m3(straight)), factor)
    yield "scale_inverted", dequantize_nvfp4(codes, decode_e4m3(straight), 1.0 / factor if factor else 0.0)


def _bytes(component: Component, entry: TensorEntry) -> NDArray[np.uint8]:
    data = component.source.read(entry.file, entry.start, entry.nbytes)
    return np.frombuffer(data, dtype=np.uint8).reshape(entry.shape)


def _floats(component: Component, name: str) -> F32 | None:
    entry = component.tensors.get(name)
    if entry is None:
        return None
    data = component.source.read(entry.file, entry.start, entry.nbytes)
    return decode_floats(data, entry.dtype).reshape(entry.shape)
