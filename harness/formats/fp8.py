"""FP8: 8-bit floats (E4M3 or E5M2) with one scale per tensor, per row or per block, or none."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from harness.formats.codecs import F32, FP8_TABLES, decode_e4m3, encode_e4m3
from harness.formats.damage import PLAIN
from harness.formats.scaled import readings
from harness.formats.spec import Format, Gate, Scale, StoredLinear

E4M3_MAX: Final = 448.0


def encode(values: F32) -> dict[str, NDArray[Any]]:
    """Return the tensors of a Linear [N, K] with one scale per tensor, as ModelOpt writes them."""
    scale = np.float32(np.abs(values).max() / E4M3_MAX or 1.0)
    codes = encode_e4m3((values / scale).astype(np.float32))
    return {"weight": codes.view(ml_dtypes.float8_e4m3fn), "weight_scale": np.array(scale, np.float32)}


def round_activations(signal: F32, scale: float | None) -> F32:
    """Return activations rounded to E4M3 with the stored input scale, or with ``amax / 448`` if ``scale`` is ``None``.

    A scale that is not positive leaves them unchanged.
    """
    factor = np.float32(scale if scale is not None else float(np.abs(signal).max()) / E4M3_MAX)
    if not factor > 0:
        return signal
    return decode_e4m3(encode_e4m3(signal / factor)) * factor


def misreadings(stored: StoredLinear, _options: Mapping[str, str]) -> Iterator[tuple[str, F32]]:
    """Yield the declared values, then those without the scale and those with its reciprocal."""
    entry = stored.parts.get("weight_scale")
    factor = np.float32(1.0) if entry is None else stored.floats(entry).reshape(-1, 1)
    values = FP8_TABLES["e4m3"][stored.codes()]
    yield "declared", np.asarray(values * factor, dtype=np.float32)
    yield "scale_missing", values
    yield "scale_inverted", np.asarray(values / factor, dtype=np.float32)


FP8: Final = Format(
    name="fp8",
    title="FP8",
    stored="F8_E4M3 or F8_E5M2; scale per tensor, per channel, per block, or none (a cast)",
    proof="base",
    gate=Gate(0.999, 0.95, 0.03, 0.01),
    noise=0.027,
    source="OCP OFP8 v1.0; ml_dtypes",
    readings=readings,
    algorithms=r"^(?!.*(MXFP|NVFP4)).*FP8",
    group_bits=8,
    modelopt=True,
    weight_dtypes=("F8_E4M3",),
    scales=(
        Scale("weight_scale", absent="scale_missing"),
        Scale("input_scale", absent="input_scale_missing", required=False),
    ),
    encode=encode,
    activations=round_activations,
    misreadings=misreadings,
    faults=PLAIN,
    linear="harness.engine.quantized.fp8:Fp8Linear",
)
