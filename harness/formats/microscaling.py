"""MXFP8 and MXFP4: 8-bit or 4-bit floats with a power of two (E8M0) per 32 values (OCP Microscaling Formats v1.0)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Final

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from harness.formats.codecs import F32, U8, encode_e2m1, encode_e4m3, pack_nibbles
from harness.formats.decode import E8M0_BIAS, MX_BLOCK, decode_mx4, decode_mx8
from harness.formats.hypotheses import NIBBLE_ORDERS, admits, offsets
from harness.formats.spec import Format, Gate, StoredLinear

E4M3_EXPONENT, E2M1_EXPONENT = 8, 2
"""Exponent of the largest power of two of each element format: 256 and 4."""


def _exponents(stored: StoredLinear) -> Iterator[tuple[str, U8]]:
    """Yield each layout that the shape of the scales admits, and the exponents [rows, K / 32] under it.

    Raises:
        ValueError: the scales are no matrix.
    """
    scale = stored.scale
    assert scale is not None  # noqa: S101 - the format follows from its scale
    if len(scale.shape) != 2:
        raise ValueError(f"{scale.name} has {len(scale.shape)} axes")
    columns = -(-stored.shape[1] // MX_BLOCK)
    data = np.frombuffer(stored.whole(scale), np.uint8)
    for layout in ("linear", "swizzled"):
        exact = tuple(scale.shape) == (stored.shape[0], columns)
        # columns that were padded to a multiple of 4 may be linear or tiled; any other width must be exact
        if layout == "linear" and not exact and scale.shape[1] % 4:
            continue
        if admits(layout, stored.shape[0], columns, scale.shape):
            yield layout, data[offsets(layout, stored.rows, columns, scale.shape[1])]


def eight_bits(stored: StoredLinear) -> dict[str, F32]:
    """Return the values [rows, K] of MXFP8 by ``code table/layout``."""
    codes = stored.codes()
    return {
        f"{stored.code}/{layout}": decode_mx8(codes, exponents, stored.code) for layout, exponents in _exponents(stored)
    }


def four_bits(stored: StoredLinear) -> dict[str, F32]:
    """Return the values [rows, K] of MXFP4 by ``nibble order/layout``."""
    packed = stored.codes()
    return {
        f"{order}/{layout}": decode_mx4(packed, exponents, order)
        for layout, exponents in _exponents(stored)
        for order in NIBBLE_ORDERS
    }


def _encode(values: F32, largest: int, element: Callable[[F32], U8]) -> tuple[U8, U8]:
    """Return codes [N, K] and exponents [N, K / 32] (section 6.3: the largest exponent less ``largest``)."""
    blocks = values.reshape(len(values), -1, MX_BLOCK)
    amax = np.abs(blocks).max(axis=-1)
    power = np.floor(np.log2(np.where(amax > 0, amax, 1))) - largest
    exponents = np.clip(power + E8M0_BIAS, 0, 254).astype(np.uint8)
    factor = np.ldexp(np.float32(1), exponents.astype(np.int32) - E8M0_BIAS)
    return element((blocks / factor[..., None]).astype(np.float32)).reshape(values.shape), exponents


def encode_eight(values: F32) -> dict[str, NDArray[Any]]:
    """Return the tensors of a Linear [N, K] in MXFP8 E4M3, linear exponents. K must be a multiple of 32."""
    codes, exponents = _encode(values, E4M3_EXPONENT, encode_e4m3)
    return {"weight": codes.view(ml_dtypes.float8_e4m3fn), "weight_scale": exponents}


def encode_four(values: F32) -> dict[str, NDArray[Any]]:
    """Return the tensors of a Linear [N, K] in MXFP4, low nibble first, linear exponents. 32 must divide K."""
    codes, exponents = _encode(values, E2M1_EXPONENT, encode_e2m1)
    return {"weight": pack_nibbles(codes), "weight_scale": exponents}


MXFP8: Final = Format(
    name="mxfp8",
    title="MXFP8",
    stored="F8_E4M3 or F8_E5M2; E8M0 exponent per 32 values",
    proof="base",
    gate=Gate(0.998, 0.95, 0.03, 0.02),
    noise=0.04,
    source="OCP MX v1.0 5.2 and 5.4",
    readings=eight_bits,
    declared_reading=lambda _dialect, code: f"{code}/any",
    algorithms="MXFP8",
    block=MX_BLOCK,
    scale_dtypes=("U8", "F8_E8M0"),
    encode=encode_eight,
)
MXFP4: Final = Format(
    name="mxfp4",
    title="MXFP4",
    stored="U8, two E2M1 codes per byte; E8M0 exponent per 32 values",
    proof="base",
    gate=Gate(0.975, 0.90, 0.03, 0.05),
    noise=0.16,
    source="OCP MX v1.0 5.2 and 5.3.3",
    readings=four_bits,
    declared_reading=lambda dialect, _code: "high_first/any" if dialect == "comfy" else "low_first/any",
    algorithms=r"^(?!.*MXFP8).*MXFP4",
    values_per_byte=2,
    block=MX_BLOCK,
    scale_dtypes=("U8", "F8_E8M0"),
    encode=encode_four,
)
