"""``torch._scaled_mm`` in plain torch: what a device without the product would have given, for any device.

Takes the operands as they go to the hardware, packed and swizzled, so that a case can run the whole native path
(quantized activations, `input_scale`, packing, swizzle) where there is no FP8 or FP4 unit. Products are exact in
float32; hardware sums them in another order. Slow: every call decodes both operands.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from harness.pipeline.quantized import nvfp4

NAME = "emulated _scaled_mm"


def scaled_mm(
    a: torch.Tensor, b: torch.Tensor, *, scale_a: torch.Tensor, scale_b: torch.Tensor, out_dtype: torch.dtype
) -> torch.Tensor:
    """``a @ b`` [M, N].

    Args:
        a: float8_e4m3fn [M, K], or float4_e2m1fn_x2 [M, K/2].
        b: the same dtype, [K, N] or [K/2, N], a transposed view.
        scale_a: float32 [1], or float8_e4m3fn block scales of M rows, swizzled and flat.
        scale_b: the same for N rows.
        out_dtype: of the result.

    Raises:
        TypeError: operands of another dtype.
    """
    decode = _DECODERS.get(a.dtype)
    if decode is None or a.dtype != b.dtype:
        raise TypeError(f"no product of {a.dtype} and {b.dtype}")
    left, right = decode(a, scale_a), decode(b.t(), scale_b)
    return (left @ right.t()).to(out_dtype)


def _fp8(stored: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    return stored.to(torch.float32) * scale


def _nvfp4(stored: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    packed = stored.contiguous().view(torch.uint8)
    rows, blocks = packed.shape[0], packed.shape[1] * 2 // nvfp4.BLOCK
    linear = nvfp4.unswizzle(scale.view(nvfp4.padded_shape(rows, blocks)), rows, blocks)
    return nvfp4.dequantize(packed, linear, torch.ones((), device=packed.device))


_DECODERS: dict[torch.dtype, Callable[[torch.Tensor, torch.Tensor], torch.Tensor]] = {
    torch.float8_e4m3fn: _fp8,
    torch.float4_e2m1fn_x2: _nvfp4,
}
