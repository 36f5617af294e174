"""The FP8 code (float8_e4m3fn) in torch, with one scale per tensor or per output channel."""

from __future__ import annotations

import torch

E4M3_MAX = 448.0


def dequantize(weight: torch.Tensor, scale: torch.Tensor, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """Return weights [N, K] in ``dtype``; computed in float32 and rounded once.

    Args:
        weight: float8_e4m3fn [N, K].
        scale: float32 [] or [1] for the tensor, [N] or [N, 1] for its rows.
        dtype: dtype of the result.
    """
    factor = scale if scale.numel() == 1 else scale.reshape(-1, 1)
    return (weight.to(torch.float32) * factor).to(dtype)


def quantize(x: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """Return ``x / scale`` in float8_e4m3fn, clipped at 448 as ModelOpt does. NaN stays NaN.

    The clip comes before the cast because some casts saturate and others return NaN.
    """
    return (x.to(torch.float32) / scale).clamp(-E4M3_MAX, E4M3_MAX).to(torch.float8_e4m3fn)


def dynamic_scale(x: torch.Tensor) -> torch.Tensor:
    """Return ``amax / 448``, float32 []: the activation scale for an export that stores none."""
    return x.detach().abs().amax().to(torch.float32).clamp(min=1e-12) / E4M3_MAX
