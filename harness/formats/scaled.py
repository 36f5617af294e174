"""Decode 8-bit codes with a float scale per tensor, row, group or block: FP8 and INT8."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from harness.formats.codecs import F32, FP8_TABLES
from harness.formats.decode import decode_blocks, decode_e8m0, expand
from harness.formats.header import TensorEntry
from harness.formats.spec import StoredLinear


def zero_point_of(parts: Mapping[str, TensorEntry]) -> TensorEntry | None:
    """Return the tensor that is subtracted from the codes before they are scaled, if any, from a Linear's tensors."""
    return parts.get("weight_zero_point") or parts.get("weight_offset")


def per_code(values: F32, name: str) -> F32:
    """Return the value of one step of a code, from the values of the scale tensor ``name``.

    bitsandbytes stores the row's maximum (``SCB``), and its codes count steps of maximum / 127.
    """
    return values / np.float32(127 if name.endswith(".SCB") else 1)


def scale_values(stored: StoredLinear, entry: TensorEntry) -> F32:
    """Return a scale's values, flat; those of 8 bits are exponents (E8M0)."""
    if entry.dtype in ("U8", "F8_E8M0"):
        return decode_e8m0(np.frombuffer(stored.whole(entry), np.uint8))
    return per_code(stored.floats(entry), entry.name)


def readings(stored: StoredLinear) -> dict[str, F32]:
    """Return the values [rows, K] under the stored code table. ``shift`` of the state is added to the zero points."""
    codes = stored.codes()
    shift = np.float32(stored.state.get("shift", 0))
    zero_point = zero_point_of(stored.parts)
    if stored.kind in ("block", "group") and stored.scale is not None:
        shape = stored.scale.shape
        scales = scale_values(stored, stored.scale).reshape((shape[0], shape[2]) if len(shape) == 4 else shape)
        if zero_point is None:
            return {stored.code: decode_blocks(codes, stored.code, scales, stored.rows, stored.block)}
        columns, width = codes.shape[1], stored.block[1]
        zeros = stored.floats(zero_point).reshape(stored.scale.shape)
        values = FP8_TABLES[stored.code][codes] - expand(zeros[stored.rows] + shift, columns, width)
        return {stored.code: np.asarray(values * expand(scales[stored.rows], columns, width))}
    scale = np.ones((1, 1), np.float32) if stored.scale is None else scale_values(stored, stored.scale).reshape(-1, 1)
    zero = np.zeros((1, 1)) if zero_point is None else stored.floats(zero_point).reshape(-1, 1) + shift
    row_scales, nil = (item[stored.rows] if len(item) == stored.shape[0] else item[:1] for item in (scale, zero))
    return {stored.code: np.asarray((FP8_TABLES[stored.code][codes] - nil) * row_scales, dtype=np.float32)}
