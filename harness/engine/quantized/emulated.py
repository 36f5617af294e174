"""``torch._scaled_mm`` in plain torch: the result of the native product, for devices that do not have it."""

from __future__ import annotations

from collections.abc import Callable

import torch

NAME = "emulated _scaled_mm"
OPERANDS: dict[torch.dtype, Callable[[torch.Tensor, torch.Tensor], torch.Tensor]] = {}
"""Operand dtype to the function that returns float32 values [M, K] of an operand and its scale. Formats fill it."""


def scaled_mm(
    a: torch.Tensor, b: torch.Tensor, *, scale_a: torch.Tensor, scale_b: torch.Tensor, out_dtype: torch.dtype
) -> torch.Tensor:
    """Return ``a @ b`` [M, N].

    Args:
        a: quantized [M, K], for example float8_e4m3fn, or float4_e2m1fn_x2 [M, K/2].
        b: the same dtype, [K, N] or [K/2, N], a transposed view.
        scale_a: float32 [1], or float8_e4m3fn block scales of M rows, swizzled and flat.
        scale_b: the same for N rows.
        out_dtype: dtype of the result.

    Raises:
        TypeError: operands of another dtype.
    """
    decode = OPERANDS.get(a.dtype)
    if decode is None or a.dtype != b.dtype:
        raise TypeError(f"no product of {a.dtype} and {b.dtype}")
    left, right = decode(a, scale_a), decode(b.t(), scale_b)
    return (left @ right.t()).to(out_dtype)
