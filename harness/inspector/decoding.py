"""Read rows of one Linear and decode them under every reading of its format, scales included."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from harness.formats.codecs import F32, FP8_TABLES, U8, decode_floats
from harness.formats.decode import (
    MX_BLOCK,
    NF4_CODES,
    ROTATIONS,
    decode_blocks,
    decode_gguf,
    decode_mx4,
    decode_mx8,
    decode_nf4,
    expand,
    rotated_name,
    undo_rotation,
)
from harness.formats.header import TensorEntry
from harness.formats.hypotheses import NIBBLE_ORDERS, admits, offsets
from harness.formats.modules import Module
from harness.formats.spec import known_formats
from harness.inspector.sampling import row_range
from harness.inspector.sources import Source

MAX_SCALE_BYTES = 1 << 26
FP4_CODES = (
    0.0, 0.005208333333333333, 0.6666666666666666, 1.0, 0.3333333333333333, 0.5, 0.16666666666666666, 0.25,
    -0.0, -0.005208333333333333, -0.6666666666666666, -1.0, -0.3333333333333333, -0.5, -0.16666666666666666, -0.25,
)  # fmt: skip
"""The 16 values of bitsandbytes' FP4 (``functional.get_4bit_type``)."""


def decode_module(source: Source, module: Module, rows: NDArray[np.int64]) -> dict[str, F32]:
    """Decode rows of one Linear. Return reading to rows [R, K].

    Args:
        source: of the checkpoint.
        module: a quantized Linear whose format is decoded by ``harness.formats.decode``.
        rows: consecutive row numbers.

    Raises:
        ValueError, KeyError, IndexError: tensors do not fit together.
        NotImplementedError: the ``gguf`` library does not decode this type.
        SourceError: bytes could not be fetched.
    """
    registered = known_formats()[module.format].decode
    if registered is not None:
        parts = {name: source.read(entry.file, entry.start, entry.nbytes) for name, entry in _small_parts(module)}
        values = registered(_rows(source, module, rows), parts, module.shape, rows)
        return {module.code: np.asarray(values, np.float32).reshape(len(rows), module.shape[1])}
    if module.format in ("mxfp8", "mxfp4"):
        return _mx(source, module, rows)
    if module.format == "nf4":
        return {module.code: _bitsandbytes(source, module, rows)}
    weight = _rows(source, module, rows)
    if module.format == "gguf":
        return {module.code: decode_gguf(weight, module.code, module.shape[1])}
    codes = np.frombuffer(weight, np.uint8).reshape(len(rows), -1)
    if module.kind in ("block", "group"):
        assert module.scale is not None  # noqa: S101 - a kind follows from a scale
        scales = _floats(source, module.scale).reshape(module.scale.shape)
        if module.rotation:
            values = decode_blocks(codes, "int8", scales, rows, module.block)
            return _rotations(values, module.rotation)
        if module.zero_point is None:
            return {module.code: decode_blocks(codes, module.code, scales, rows, module.block)}
        zeros = _zero_point(source, module).reshape(module.scale.shape)
        values = FP8_TABLES[module.code][codes] - expand(zeros[rows], codes.shape[1], module.block[1])
        return {module.code: np.asarray(values * expand(scales[rows], codes.shape[1], module.block[1]))}
    scale = np.ones((1, 1), np.float32) if module.scale is None else _floats(source, module.scale).reshape(-1, 1)
    zero = np.zeros((1, 1)) if module.zero_point is None else _zero_point(source, module).reshape(-1, 1)
    own, nil = (item[rows] if len(item) == module.shape[0] else item[:1] for item in (scale, zero))
    if module.rotation:
        return _rotations(np.asarray((FP8_TABLES["int8"][codes] - nil) * own, dtype=np.float32), module.rotation)
    return {module.code: np.asarray((FP8_TABLES[module.code][codes] - nil) * own, dtype=np.float32)}


def _rotations(values: F32, size: int) -> dict[str, F32]:
    """Return INT8 rows [R, K] with the declared rotation undone, with each other usual one undone, and as stored."""
    sizes = {size, *(item for item in ROTATIONS if values.shape[1] % item == 0)}
    return {rotated_name(item): undo_rotation(values, item) for item in sorted(sizes)} | {"int8": values}


def declared_rule(module: Module) -> str:
    """Return the reading that the dialect defines, such as ``low_first/any``; ``any``: it leaves that part open."""
    if module.format == "mxfp4":
        return "high_first/any" if module.dialect == "comfy" else "low_first/any"
    if module.format == "mxfp8":
        return f"{module.code}/any"
    return module.code


def _small_parts(module: Module) -> Iterator[tuple[str, TensorEntry]]:
    """Yield the tensors beside the weight and its bias.

    Raises:
        ValueError: a tensor is larger than ``MAX_SCALE_BYTES``.
    """
    for name, entry in module.parts.items():
        if entry is module.weight or name == "bias":
            continue
        if entry.nbytes > MAX_SCALE_BYTES:
            raise ValueError(f"{entry.name} has {entry.nbytes} bytes")
        yield name, entry


def _rows(source: Source, module: Module, rows: NDArray[np.int64]) -> bytes:
    start, length = row_range(module.weight, rows)
    return source.read(module.weight.file, start, length)


def _floats(source: Source, entry: TensorEntry) -> F32:
    if entry.nbytes > MAX_SCALE_BYTES:
        raise ValueError(f"{entry.name} has {entry.nbytes} bytes")
    values = decode_floats(source.read(entry.file, entry.start, entry.nbytes), entry.dtype)
    return values / np.float32(127 if entry.name.endswith(".SCB") else 1)


def _zero_point(source: Source, module: Module) -> F32:
    entry = module.zero_point
    assert entry is not None  # noqa: S101 - the callers ask for it before
    return decode_floats(source.read(entry.file, entry.start, entry.nbytes), entry.dtype)


def _mx(source: Source, module: Module, rows: NDArray[np.int64]) -> dict[str, F32]:
    scale = module.scale
    assert scale is not None  # noqa: S101 - the format follows from its scale
    if len(scale.shape) != 2:
        raise ValueError(f"{scale.name} has {len(scale.shape)} axes")
    weight: U8 = np.frombuffer(_rows(source, module, rows), np.uint8).reshape(len(rows), -1)
    columns = -(-module.shape[1] // MX_BLOCK)
    data = np.frombuffer(source.read(scale.file, scale.start, scale.nbytes), np.uint8)
    decoded: dict[str, F32] = {}
    for layout in ("linear", "swizzled"):
        if layout == "linear" and tuple(scale.shape) != (module.shape[0], columns) and scale.shape[1] % 4:
            continue
        if not admits(layout, module.shape[0], columns, scale.shape):
            continue
        own = data[offsets(layout, rows, columns, scale.shape[1])]
        if module.format == "mxfp8":
            decoded[f"{module.code}/{layout}"] = decode_mx8(weight, own, module.code)
        else:
            for order in NIBBLE_ORDERS:
                decoded[f"{order}/{layout}"] = decode_mx4(weight, own, order)
    return decoded


def _bitsandbytes(source: Source, module: Module, rows: NDArray[np.int64]) -> F32:
    size, columns = int(module.state["blocksize"]), module.shape[1]
    # blocks run over the flat tensor, across row ends: rows can be cut out only if they begin with a block and a byte
    first, count = int(rows[0]) * columns, len(rows) * columns
    if first % size or first % 2 or module.weight.elements * 2 < first + count:
        raise ValueError("the rows that were chosen do not begin with a block")
    weight = np.frombuffer(source.read(module.weight.file, module.weight.start + first // 2, -(-count // 2)), np.uint8)
    blocks = slice(first // size, -(-(first + count) // size))
    table = NF4_CODES if module.code == "nf4" else FP4_CODES
    return decode_nf4(weight, _absmax(source, module)[blocks], table, size, columns)


def _absmax(source: Source, module: Module) -> F32:
    """Return scales per block. With double quantization they are stored as 8-bit codes of a table, in own blocks."""
    entry = module.parts["weight.absmax"]
    raw = source.read(entry.file, entry.start, entry.nbytes)
    if entry.dtype != "U8":
        return decode_floats(raw, entry.dtype)
    inner = _floats(source, module.parts["weight.nested_absmax"])
    table = _floats(source, module.parts["weight.nested_quant_map"])
    size, offset = int(module.state["nested_blocksize"]), np.float32(module.state.get("nested_offset", 0.0))
    codes = table[np.frombuffer(raw, np.uint8)]
    return np.asarray(codes * np.repeat(inner, size)[: codes.size] + offset, dtype=np.float32)
