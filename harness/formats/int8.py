"""INT8: 8-bit integers with a scale per tensor, per row or per group."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from harness.formats.codecs import F32
from harness.formats.damage import PLAIN
from harness.formats.scaled import readings
from harness.formats.spec import Format, Gate, Scale


def encode(values: F32) -> dict[str, NDArray[Any]]:
    """Return the tensors of a Linear [N, K] with one scale per row: codes within -127 and 127."""
    scale = np.abs(values).max(axis=1, keepdims=True).astype(np.float32) / np.float32(127)
    scale[scale == 0] = 1.0
    return {"weight": np.rint(values / scale).astype(np.int8), "weight_scale": scale}


INT8: Final = Format(
    name="int8",
    title="INT8",
    stored="I8; scale per tensor, per channel or per group",
    proof="base",
    gate=Gate(0.999, 0.95, 0.03, 0.01),
    noise=0.02,
    source="weight = code * scale",
    readings=readings,
    algorithms=r"^(INT8|INT_QUANTIZED|INT8_TENSORWISE|INT8_ROWWISE)$",
    scales=(Scale("weight_scale", absent="scale_missing"),),
    encode=encode,
    faults=PLAIN,
)
