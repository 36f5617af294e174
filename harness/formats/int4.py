"""Integers of 4 or 8 bits in packed words: compressed-tensors, GPTQ, AWQ, ModelOpt, quanto, and ComfyUI's layouts.

A packing is the order of the codes in the stored words. Every packing decodes to ``(code - zero) * scale``, with a
scale per group of columns or per row.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from harness.formats.codecs import F32, U8, unpack_nibbles
from harness.formats.decode import undo_rotation
from harness.formats.header import TensorEntry
from harness.formats.scaled import readings as scaled_readings
from harness.formats.spec import Format, Gate, Scale, StoredLinear

I64 = NDArray[np.int64]
AWQ_ORDER: Final = (0, 2, 4, 6, 1, 3, 5, 7)
"""Column of the eight in a word that each of its nibbles holds, lowest first (AutoAWQ ``WQLinear_GEMM``)."""
WORD: Final = 32


def unpack_words(words: NDArray[np.uint32], bits: int) -> I64:
    """Return the codes of 32-bit words, lowest bits first: [..., W] gives [..., W * 32 / bits], unsigned."""
    shifts = np.arange(0, WORD, bits, dtype=np.uint32)
    codes = (words[..., None] >> shifts) & np.uint32((1 << bits) - 1)
    return codes.reshape(*words.shape[:-1], -1).astype(np.int64)


def signed_nibbles(packed: U8) -> F32:
    """Return the two's complement codes of bytes [R, K / 2] as float32 [R, K], the low nibble first."""
    codes = unpack_nibbles(packed, "low_first").astype(np.int16)
    return np.where(codes > 7, codes - 16, codes).astype(np.float32)


def _spread(values: F32, columns: int, index: I64 | None = None) -> F32:
    """Return values per group [R, G] per column [R, ``columns``]; ``index``: the group of each column."""
    if index is not None:
        return np.asarray(values[:, index])
    if columns % values.shape[1]:
        raise ValueError(f"{values.shape[1]} groups do not divide {columns} columns")
    return np.repeat(values, columns // values.shape[1], axis=1)


def _of_rows(stored: StoredLinear, entry: TensorEntry) -> F32:
    """Return the values per group of the wanted rows, [R, G], of a tensor [N, G], [N] or a single value."""
    values = stored.floats(entry).reshape(entry.shape[0] if entry.shape else 1, -1)
    return values[stored.rows] if len(values) == stored.shape[0] else np.repeat(values[:1], len(stored.rows), axis=0)


def _of_columns(stored: StoredLinear, entry: TensorEntry) -> F32:
    """Return the values per group of the wanted rows, [R, G], of a tensor [G, N]."""
    return np.ascontiguousarray(stored.floats(entry).reshape(entry.shape)[:, stored.rows].T)


def _group_index(stored: StoredLinear, suffix: str) -> I64 | None:
    """Return the group of each column if a tensor states it; ``None`` if the groups follow each other."""
    entry = stored.parts.get(suffix)
    return None if entry is None else np.frombuffer(stored.whole(entry), "<i4").astype(np.int64)


def _words_of(stored: StoredLinear, entry: TensorEntry, first: int, count: int) -> NDArray[np.uint32]:
    """Return the columns ``first`` to ``first + count`` of a tensor of 32-bit words [A, B], as [A, count]."""
    height, width = entry.shape
    spans = [(4 * (row * width + first), 4 * count) for row in range(height)]
    data = b"".join(stored.read_many(entry, spans))
    return np.frombuffer(data, "<u4").reshape(height, count)


def compressed(stored: StoredLinear) -> F32:
    """Return the rows of compressed-tensors' ``weight_packed`` [N, K * bits / 32] (``pack_to_int32``)."""
    bits, columns = int(stored.state["bits"]), stored.shape[1]
    offset = 1 << (bits - 1)
    codes = unpack_words(np.frombuffer(stored.row_bytes(), "<u4").reshape(len(stored.rows), -1), bits)
    values = (codes[:, :columns] - offset).astype(np.float32)
    index, scale = _group_index(stored, "weight_g_idx"), stored.scale
    assert scale is not None  # noqa: S101 - a Linear without a scale is not decoded
    if (zero := stored.parts.get("weight_zero_point")) is not None:
        # zero points are packed along the rows: [ceil(N * bits / 32), G]
        words = np.frombuffer(stored.whole(zero), "<u4").reshape(zero.shape)
        zeros = (unpack_words(words.T, bits)[:, : stored.shape[0]].T - offset).astype(np.float32)
        zeros += np.float32(stored.state.get("shift", 0))
        values -= _spread(np.ascontiguousarray(zeros[stored.rows]), columns, index)
    return values * _spread(_of_rows(stored, scale), columns, index)


def gptq(stored: StoredLinear) -> F32:
    """Return the rows of GPTQ's ``qweight`` [K * bits / 32, N]: zero points are stored less 1 but in ``gptq_v2``."""
    bits, columns = int(stored.state["bits"]), stored.shape[1]
    words = _words_of(stored, stored.weight, int(stored.rows[0]), len(stored.rows))
    codes = unpack_words(np.ascontiguousarray(words.T), bits)
    entry = stored.parts["qzeros"]
    packed = np.frombuffer(stored.whole(entry), "<u4").reshape(entry.shape)
    zeros = unpack_words(packed, bits)[:, stored.rows].T + (0 if stored.state.get("zeros") == "v2" else 1)
    return _affine(stored, codes, zeros, columns, _group_index(stored, "g_idx"))


def awq(stored: StoredLinear) -> F32:
    """Return the rows of AWQ's ``qweight`` [K, N / 8]: eight rows per word in the order of `AWQ_ORDER`."""
    first, last = int(stored.rows[0]) // 8, int(stored.rows[-1]) // 8 + 1
    inside = stored.rows - 8 * first
    order = np.argsort(AWQ_ORDER)

    def rows_of(words: NDArray[np.uint32]) -> I64:
        codes = unpack_words(words, 4).reshape(len(words), -1, 8)[:, :, order]
        return np.ascontiguousarray(codes.reshape(len(words), -1)[:, inside].T)

    weight, zeros = (_words_of(stored, entry, first, last - first) for entry in (stored.weight, stored.parts["qzeros"]))
    return _affine(stored, rows_of(weight), rows_of(zeros), stored.shape[1], None)


def _affine(stored: StoredLinear, codes: I64, zeros: I64, columns: int, index: I64 | None) -> F32:
    """Return ``(code - zero) * scale`` with ``scales`` [G, N]; codes [R, K], zeros [R, G].

    ``shift`` of the Linear's state is added to the zero points: the inspector tries it if they do not fit as they are.
    """
    scales = _of_columns(stored, stored.parts["scales"])
    shift = np.float32(stored.state.get("shift", 0))
    zero_points = _spread(zeros.astype(np.float32) + shift, columns, index)
    return np.asarray((codes[:, :columns] - zero_points) * _spread(scales, columns, index), np.float32)


def row_pairs(stored: StoredLinear) -> F32:
    """Return the rows of ModelOpt's INT4 [N / 2, K]: a byte has row 2 i in its low nibble and row 2 i + 1 above."""
    first, last = int(stored.rows[0]) // 2, int(stored.rows[-1]) // 2 + 1
    width = stored.weight.shape[1]
    data = np.frombuffer(stored.read(stored.weight, first * width, (last - first) * width), np.uint8)
    pairs = data.reshape(-1, width).T  # [K, byte rows]
    values = signed_nibbles(np.ascontiguousarray(pairs)).T[stored.rows - 2 * first]
    assert stored.scale is not None  # noqa: S101 - a Linear without a scale is not decoded
    return np.asarray(values * _spread(_of_rows(stored, stored.scale), stored.shape[1]), np.float32)


def quanto(stored: StoredLinear) -> F32:
    """Return the rows of quanto's ``qint4`` [groups / 2, group]: high nibbles hold the second half of the groups."""
    scale, shift = stored.scale, stored.parts["weight_zero_point"]
    assert scale is not None  # noqa: S101 - a Linear without a scale is not decoded
    half, width = stored.weight.shape
    per_row = stored.shape[1] // width
    groups = np.arange(int(stored.rows[0]) * per_row, (int(stored.rows[-1]) + 1) * per_row)
    packed = np.frombuffer(stored.whole(stored.weight), np.uint8).reshape(half, width)[groups % half]
    codes = np.where((groups < half)[:, None], packed & 15, packed >> 4).astype(np.float32)
    scales, shifts = (stored.floats(entry)[groups][:, None] for entry in (scale, shift))
    # an integer shift is in steps of the code, a float shift is in units of the weight
    values = codes * scales - shifts if shift.dtype in ("F32", "F16", "BF16") else (codes - shifts) * scales
    return np.asarray(values.reshape(len(stored.rows), -1), np.float32)


def comfy_rotated(stored: StoredLinear) -> F32:
    """Return the rows of comfy-kitchen's ConvRot W4A4 [N, K / 2] with their rotation undone."""
    assert stored.scale is not None  # noqa: S101 - a Linear without a scale is not decoded
    values = signed_nibbles(stored.codes()) * _of_rows(stored, stored.scale)[:, :1]
    return undo_rotation(values, int(stored.state["group"]))


def comfy_awq(stored: StoredLinear) -> F32:
    """Return the rows of comfy-kitchen's AWQ W4A16 [N, K / 2]: ``(code - 8) * scale + zero``, both [G, N]."""
    assert stored.scale is not None  # noqa: S101 - a Linear without a scale is not decoded
    codes = unpack_nibbles(stored.codes(), "low_first").astype(np.float32) - 8
    scale, zero = (_of_columns(stored, entry) for entry in (stored.scale, stored.parts["weight_zeros"]))
    return np.asarray(codes * _spread(scale, stored.shape[1]) + _spread(zero, stored.shape[1]), np.float32)


def comfy_svdquant(stored: StoredLinear) -> F32:
    """Return the effective rows of comfy-kitchen's SVDQuant W4A4 [N, K / 2]: ``Q / smooth + up down^T``."""
    assert stored.scale is not None  # noqa: S101 - a Linear without a scale is not decoded
    codes, scale = signed_nibbles(stored.codes()), _of_columns(stored, stored.scale)
    smooth = stored.floats(stored.parts["weight_smooth_factor"])
    up, down = (stored.parts[f"weight_proj_{name}"] for name in ("up", "down"))
    low = stored.floats(up).reshape(up.shape)[stored.rows] @ stored.floats(down).reshape(down.shape).T
    return np.asarray(codes * _spread(scale, stored.shape[1]) / smooth + low, np.float32)


def whole_bytes(stored: StoredLinear) -> F32:
    """Return the rows of 4-bit codes that are stored in a byte each (torchao's ``IntxUnpackedToInt8Tensor``)."""
    return scaled_readings(replace(stored, code="int8"))["int8"]


PACKINGS: Final[Mapping[str, Callable[[StoredLinear], F32]]] = {
    "compressed": compressed,
    "gptq": gptq,
    "awq": awq,
    "row_pairs": row_pairs,
    "quanto": quanto,
    "comfy_rotated": comfy_rotated,
    "comfy_awq": comfy_awq,
    "comfy_svdquant": comfy_svdquant,
    "whole_bytes": whole_bytes,
}


def readings(stored: StoredLinear) -> dict[str, F32]:
    """Return the values [rows, K]. The packing is the order of codes that the dialect defines."""
    return {stored.code: PACKINGS[stored.packing](stored)}


INT4: Final = Format(
    name="int4",
    title="INT4",
    stored="I32, U8 or I8 packed groups (compressed-tensors, GPTQ, AWQ, ModelOpt, quanto, ConvRot W4A4, SVDQuant)",
    proof="base",
    gate=Gate(0.975, 0.90, 0.03, 0.05),
    noise=0.15,
    source="compressed-tensors, AutoAWQ, GPTQModel, nvidia-modelopt, optimum-quanto, comfy-kitchen",
    readings=readings,
    scales=(Scale("weight_scale", absent="scale_missing"),),
)
