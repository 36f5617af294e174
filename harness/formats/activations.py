"""Round activations as a native kernel does before it multiplies: to the number format of the weight."""

from __future__ import annotations

import numpy as np

from harness.formats.codecs import E2M1_VALUES, F32, decode_e4m3, encode_e2m1, encode_e4m3

E4M3_MAX, E2M1_MAX, E4M3_TINY, BLOCK = 448.0, 6.0, 2.0**-9, 16


def as_bfloat16(signal: F32) -> F32:
    """Return the signal rounded to bfloat16."""
    import ml_dtypes

    rounded: F32 = signal.astype(ml_dtypes.bfloat16).astype(np.float32)
    return rounded


def as_fp8(signal: F32, scale: float | None) -> F32:
    """Return the signal rounded to E4M3 with the stored input scale, or with ``amax / 448`` if ``scale`` is ``None``.

    A scale that is not positive leaves the signal unchanged.
    """
    factor = np.float32(scale if scale is not None else float(np.abs(signal).max()) / E4M3_MAX)
    if not factor > 0:
        return signal
    return decode_e4m3(encode_e4m3(signal / factor)) * factor


def as_nvfp4(signal: F32, scale: float | None) -> F32:
    """Return the signal [R, K] rounded to NVFP4 with the stored input scale.

    It is returned unchanged if there is no positive scale or K is no multiple of 16.
    """
    if scale is None or not scale > 0 or signal.shape[1] % BLOCK:
        return signal
    factor = np.float32(scale)
    blocks = signal.reshape(len(signal), -1, BLOCK)
    amax = np.abs(blocks).max(axis=-1)
    raw = np.clip(amax / (np.float32(E2M1_MAX) * factor), E4M3_TINY, E4M3_MAX).astype(np.float32)
    steps = decode_e4m3(encode_e4m3(np.where(amax == 0, np.float32(1.0), raw).astype(np.float32))) * factor
    values = E2M1_VALUES[encode_e2m1((blocks / steps[..., None]).astype(np.float32))] * steps[..., None]
    result: F32 = values.reshape(signal.shape).astype(np.float32)
    return result
