"""Quantize the base again and compare codes: the only way to see a base that changed by a fraction of a percent."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from harness.checkpoint.evidence import Exact
from harness.formats.codecs import F32, FP8_TABLES, U8, decode_e4m3, encode_e2m1, encode_e4m3

Flags = NDArray[np.bool_]
TIE = 4e-7
E2M1_MAX = 6.0
MIN_BLOCK_SCALE = 2.0**-9


def as_exported(base: F32) -> tuple[F32, ...]:
    """The base as it is stored and, where it is stored wider (Wan2.2's is in float32), as BF16: exporters load it so.

    Args:
        base: [R, K] values as stored.
    """
    rounded = base.astype(ml_dtypes.bfloat16).astype(np.float32)
    return (base,) if np.array_equal(base, rounded, equal_nan=True) else (base, rounded)


def closest(found: Iterable[Exact]) -> Exact:
    """The recomputation that agrees best with what is stored."""
    return max(found, key=lambda exact: (min(exact.codes, exact.scales), exact.unrounded))


def exact_nvfp4(base: F32, codes: U8, scales: U8, global_scale: float, block: int = 16) -> Exact:
    """Hold stored NVFP4 codes against a fresh max calibration of ``base``.

    The recipe is ModelOpt's (``NVFP4QTensor.get_weights_scaling_factor``): block scale = E4M3(clamp(amax / (6 ws2),
    2**-9, 448)), 1 for an all-zero block; code = E2M1(w / (block scale * ws2)).

    Args:
        base: [R, K] values that were quantized.
        codes: [R, K] stored codes in natural order.
        scales: [R, K / block] stored E4M3 bytes in linear order.
        global_scale: the stored factor (not its reciprocal).
    """
    blocks = base.reshape(len(base), -1, block)
    amax = np.abs(blocks).max(axis=2)
    mine = codes.reshape(blocks.shape)
    alive = amax > 0
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        wanted = (amax / np.float32(E2M1_MAX * global_scale)).astype(np.float32)
        lost = (decode_e4m3(scales) == 0) & (wanted >= MIN_BLOCK_SCALE)
        wanted[wanted == 0] = 1.0
        wanted = np.clip(np.nan_to_num(wanted, nan=0.0), MIN_BLOCK_SCALE, 448.0)
        fresh = encode_e4m3(wanted)
        stored = decode_e4m3(scales) * np.float32(global_scale)
        same_scales = _tolerant(fresh == scales, lambda factor: encode_e4m3(wanted * factor) == scales)
        scaled = blocks / stored[..., None]
        same_codes = _tolerant(
            _same(encode_e2m1(scaled), mine), lambda factor: _same(encode_e2m1(scaled * factor), mine)
        )
        with_unrounded = encode_e2m1(blocks / (wanted * np.float32(global_scale))[..., None])
    return Exact(
        codes=_share(same_codes[alive]),
        scales=_share(same_scales[alive]),
        near=_share((np.abs(fresh.astype(np.int16) - scales.astype(np.int16)) <= 1)[alive]),
        unrounded=_share(_same(with_unrounded, mine)[alive]),
        full_blocks=_share((mine & 7).max(axis=2)[alive] == 7),
        blocks=int(alive.sum()),
        lost=int(lost.sum()),
    )


def exact_fp8(base: F32, stored: U8, scale: F32) -> Exact:
    """Hold stored E4M3 bytes against ``base / scale``, divided in float32 and in bfloat16 (both are in use).

    Args:
        base: [R, K]; stored: [R, K] bytes; scale: broadcastable to [R, 1].
    """
    in_f32 = encode_e4m3(base / scale)
    half = ml_dtypes.bfloat16
    in_bf16 = encode_e4m3((base.astype(half) / scale.astype(half)).astype(np.float32))
    agree = max(_share(_equal_fp8(in_f32, stored)), _share(_equal_fp8(in_bf16, stored)))
    alive = base.size > 0
    return Exact(agree, 1.0, 1.0, agree, 1.0, int(stored.size if alive else 0))


def _tolerant(same: Flags, retry: Callable[[np.float32], Flags]) -> Flags:
    """Also accept what a last-bit difference of the divisor would have rounded: exact ties are common in BF16 weights,
    and dialects that store a reciprocal, or multiply instead of dividing, break them the other way."""
    if same.all():
        return same
    return np.asarray(same | retry(np.float32(1 - TIE)) | retry(np.float32(1 + TIE)))


def _equal_fp8(left: U8, right: U8) -> Flags:
    table = FP8_TABLES["e4m3"]
    return np.asarray(table[left] == table[right])


def _same(left: U8, right: U8) -> Flags:
    """Equal as values: 0 and -0 are the same number."""
    zero = ((left & 7) == 0) & ((right & 7) == 0)
    return np.asarray((left == right) | zero)


def _share(flags: Flags) -> float:
    return float(flags.mean()) if flags.size else 1.0
