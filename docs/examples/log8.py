"""A number format: 8-bit logarithmic numbers, which divide each octave into eight steps.

Bit 7 of a code is the sign, bits 0 to 6 are e. The value is 0 for e = 0, else 2 ** ((e - 127) / 8), times the scale of
its row. On disk a Linear has `weight`, U8 [N, K], and `weight_scale`, F32 [N, 1].
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harness.formats.header import TensorEntry
from harness.formats.spec import Format, Gate

_MAGNITUDES = np.concatenate([[0.0], 2.0 ** ((np.arange(1, 128) - 127) / 8)]).astype(np.float32)
VALUES = np.concatenate([_MAGNITUDES, -_MAGNITUDES])
"""The value of each of the 256 codes, before the scale."""


def recognise(
    weight: TensorEntry, parts: Mapping[str, TensorEntry], declared: Mapping[str, Any]
) -> tuple[int, int] | None:
    """Return [N, K] if a Linear is LOG8. The declaration decides: other formats store bytes with a float scale too."""
    if declared.get("quant_method") != "log8" or weight.dtype != "U8" or "weight_scale" not in parts:
        return None
    return weight.shape[0], weight.shape[1]


def decode(
    weight: bytes, parts: Mapping[str, bytes], shape: tuple[int, int], rows: NDArray[np.int64]
) -> NDArray[np.float32]:
    """Return the values [rows, K] of some rows.

    Raises:
        ValueError: the scale has not one value per row.
    """
    codes = np.frombuffer(weight, np.uint8).reshape(len(rows), shape[1])
    scales = np.frombuffer(parts["weight_scale"], "<f4").reshape(shape[0], 1)
    return np.asarray(VALUES[codes] * scales[rows], np.float32)


def encode(values: NDArray[np.float32]) -> dict[str, NDArray[Any]]:
    """Return the tensors of a Linear [N, K] by suffix, as an exporter writes them: the nearest code of each value."""
    scale = np.abs(values).max(axis=1, keepdims=True).astype(np.float32)
    scale[scale == 0] = 1.0  # a row of zeros would divide by zero
    with np.errstate(divide="ignore"):
        steps = np.rint(np.log2(np.abs(values) / scale) * 8) + 127
    codes = np.where(values < 0, 128, 0) + np.clip(steps, 0, 127)
    return {"weight": codes.astype(np.uint8), "weight_scale": scale}


def sign_lost(tensors: Mapping[str, NDArray[Any]]) -> None:
    """Clear bit 7 of every code in place: the damage that calibration injects to place limits."""
    tensors["weight"] &= 127


LOG8 = Format(
    name="log8",
    title="LOG8",
    stored="U8, one logarithmic code per byte; F32 scale per row",
    proof="base",
    # Steps of 2 ** (1 / 8) leave a relative error of ln(2) / 8 / sqrt(12) = .025: a right export has a cosine of .9997.
    gate=Gate(cosine=0.999, unrelated=0.95, gap=0.03, gain=0.01),
    noise=0.025,
    source="an example",
    recognise=recognise,
    decode=decode,  # also runs it: the engine decodes the weight and multiplies floats
    encode=encode,
    faults={"sign_lost": sign_lost},
)
