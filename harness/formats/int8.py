"""INT8: 8-bit integers with a scale per tensor, per row or per group."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from harness.formats.codecs import F32
from harness.formats.damage import PLAIN
from harness.formats.decode import ROTATIONS, rotated_name, undo_rotation
from harness.formats.int4 import readings as packed_readings
from harness.formats.scaled import readings
from harness.formats.spec import Format, Gate, Scale, StoredLinear


def encode(values: F32) -> dict[str, NDArray[Any]]:
    """Return the tensors of a Linear [N, K] with one scale per row: codes within -127 and 127."""
    scale = np.abs(values).max(axis=1, keepdims=True).astype(np.float32) / np.float32(127)
    scale[scale == 0] = 1.0
    return {"weight": np.rint(values / scale).astype(np.int8), "weight_scale": scale}


def rotated_readings(stored: StoredLinear) -> dict[str, F32]:
    """Return the values [rows, K]. A declared rotation is undone; each usual one, and none, are further readings."""
    if stored.packing:
        return packed_readings(stored)
    if not stored.rotation:
        return readings(stored)
    (values,) = readings(replace(stored, code="int8")).values()
    sizes = {stored.rotation, *(size for size in ROTATIONS if values.shape[1] % size == 0)}
    return {rotated_name(size): undo_rotation(values, size) for size in sorted(sizes)} | {"int8": values}


INT8: Final = Format(
    name="int8",
    title="INT8",
    stored="I8; scale per tensor, per channel or per group; zero point; rotated in groups of columns (ConvRot)",
    proof="base",
    gate=Gate(0.999, 0.95, 0.03, 0.01),
    noise=0.02,
    source="weight = code * scale",
    readings=rotated_readings,
    algorithms=r"^(INT8|INT_QUANTIZED|INT8_.*|W8A8(?!.*FP8).*|W8A16(?!.*FP8).*|LLM\.INT8)$",
    scales=(Scale("weight_scale", absent="scale_missing"),),
    encode=encode,
    faults=PLAIN,
)
