"""Matrix products on packed operands: select the product of a device, and check that it computes correctly.

FP8: ``torch._scaled_mm`` with float8_e4m3fn operands and one float32 scale each, on compute capability 8.9 and above.

NVFP4: ``torch._scaled_mm`` with float4_e2m1fn_x2 operands and 128x4-swizzled float8_e4m3fn block scales, on compute
capability 10.0 and above; the two global scales multiply the result. **Not yet run on such a device**: it is written
against the documented interface, and its packing, swizzle and scales are proven with an emulated product. So no kernel
is used before it has multiplied two random operands on the device with the same result as the dequantized path.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch

from harness.engine.quantized import fp8, nvfp4
from harness.engine.quantized import nvfp4 as emulated

Format = Literal["fp8", "nvfp4"]
Policy = Literal["auto", "dequantize", "emulate"]
CHECK_SHAPES = ((192, 320, 256), (1, 16, 96), (129, 112, 96))
"""Tokens, N, K of the products in the self-check."""
ScaledMM = Callable[..., torch.Tensor]
FP8_SINCE, NVFP4_SINCE = (8, 9), (10, 0)
SCALED_MM = "torch._scaled_mm"
CHECK_TOLERANCE = 0.01
"""Largest relative error of a row or a column of the self-check. Both paths multiply the same quantized operands, so
they differ only by the rounding of the result to bfloat16 (2**-9). A wrong layout or nibble order differs far more."""
FEWEST = 16
"""Rows or columns with fewer values are not checked alone: few values may cancel to almost zero."""


def scaled_mm(*operands: Any, **options: Any) -> torch.Tensor:
    """Call torch's product of scaled operands. All native products go through this function."""
    return torch._scaled_mm(*operands, **options)


def fp8_matmul(
    x: torch.Tensor, weight: torch.Tensor, weight_scale: torch.Tensor, input_scale: torch.Tensor, product: ScaledMM
) -> torch.Tensor:
    """Return ``x @ W.T`` [M, N] in bfloat16, without bias: quantize x with ``input_scale``, multiply in FP8.

    Args:
        x: [M, K].
        weight: float8_e4m3fn [N, K]; N and K multiples of 16.
        weight_scale: float32, one value.
        input_scale: float32, one value.
        product: ``torch._scaled_mm`` or an emulation.
    """
    one = (1,)
    return product(
        fp8.quantize(x, input_scale).contiguous(),
        weight.t(),
        scale_a=input_scale.reshape(one),
        scale_b=weight_scale.reshape(one),
        out_dtype=torch.bfloat16,
    )


def nvfp4_matmul(
    x: torch.Tensor,
    packed: torch.Tensor,
    swizzled_scale: torch.Tensor,
    weight_scale_2: torch.Tensor,
    input_scale: torch.Tensor,
    product: ScaledMM,
) -> torch.Tensor:
    """Return ``x @ W.T`` [M, N] in bfloat16, without bias: quantize x to NVFP4, multiply in FP4.

    Args:
        x: [M, K].
        packed: uint8 [N, K/2], low nibble first; N a multiple of 16, K of 32.
        swizzled_scale: float8_e4m3fn, ``nvfp4.swizzle`` of the block scales.
        weight_scale_2: float32, one value.
        input_scale: float32, one value, ``amax / (6 * 448)`` of the activations.
        product: ``torch._scaled_mm`` or an emulation.
    """
    x_packed, x_scale = nvfp4.quantize(x.contiguous(), input_scale)
    result = product(
        x_packed.view(torch.float4_e2m1fn_x2),
        packed.view(torch.float4_e2m1fn_x2).t(),
        scale_a=nvfp4.swizzle(x_scale).flatten(),
        scale_b=swizzled_scale.flatten(),
        out_dtype=torch.bfloat16,
    )
    return (result.to(torch.float32) * (input_scale * weight_scale_2)).to(torch.bfloat16)


@dataclass(frozen=True)
class Choice:
    """The way in which the modules of one format are multiplied on one device."""

    product: ScaledMM | None
    """The product of quantized operands, or ``None``: dequantize."""
    note: str = ""
    """Reason for not using a native product that the device should have; else empty."""
    kernel: str = SCALED_MM
    """Name of the product in receipts."""


def choose(form: Format, device: torch.device, policy: Policy, product: ScaledMM = scaled_mm) -> Choice:
    """Select the product for a device. A native product is selected only after the self-check.

    On a CPU ``auto`` means dequantization: weights are multiplied in the compute dtype (weight-only), and activations
    are not quantized. ``emulate`` quantizes them as the native product requires, on every device.
    """
    if policy == "emulate":
        return Choice(emulated.scaled_mm, kernel=emulated.NAME)
    if policy == "dequantize" or device.type != "cuda":
        return Choice(None)
    return decide(form, torch.cuda.get_device_capability(device), device, product)


def decide(form: Format, capability: tuple[int, int], device: torch.device, product: ScaledMM) -> Choice:
    """Select the product for a compute capability. ``product`` is checked on ``device``."""
    since = FP8_SINCE if form == "fp8" else NVFP4_SINCE
    if capability < since:
        needed, has = (".".join(map(str, pair)) for pair in (since, capability))
        return Choice(None, f"native {form} needs compute capability {needed}, this is {has}")
    try:
        error = self_check(form, device, product)
    except (RuntimeError, NotImplementedError, TypeError, ValueError) as failure:
        said = next(iter(str(failure).splitlines()), type(failure).__name__)
        return Choice(None, f"native {form} refused: {said[:200]}")
    # `not <=` instead of `>`: a NaN error must refuse the product too
    if not error <= CHECK_TOLERANCE:
        return Choice(None, f"native {form} refused: relative error {error:.3g} against dequantized operands")
    return Choice(product)


def self_check(form: Format, device: torch.device, product: ScaledMM) -> float:
    """Return the relative error of the native product compared with dequantized operands, of the worst row or column.

    The worst is taken so that one wrong row or column does not drown in the others. Sizes that are no multiples of 128
    and 4 include the swizzle's padding in the check. The time embedding multiplies a single token, so that is included.
    """
    return max(_check(form, device, product, *sides) for sides in CHECK_SHAPES)


def _check(form: Format, device: torch.device, product: ScaledMM, tokens: int, rows: int, columns: int) -> float:
    # fixed seed: the decision must be the same in every process
    generator = torch.Generator("cpu").manual_seed(20260101)
    x = torch.randn(tokens, columns, generator=generator).to(device)
    sizes = torch.logspace(-2, 1, rows).unsqueeze(1)
    weight = (torch.randn(rows, columns, generator=generator) * sizes).to(device)
    if form == "fp8":
        x_scale, w_scale = fp8.dynamic_scale(x), fp8.dynamic_scale(weight)
        stored = fp8.quantize(weight, w_scale)
        got = fp8_matmul(x, stored, w_scale, x_scale, product)
        wanted = fp8.dequantize(fp8.quantize(x, x_scale), x_scale) @ fp8.dequantize(stored, w_scale).t()
    else:
        unit = nvfp4.E2M1_MAX * nvfp4.E4M3_MAX
        x_scale, w_scale = x.abs().amax() / unit, weight.abs().amax() / unit
        packed, scale = nvfp4.quantize(weight, w_scale)
        got = nvfp4_matmul(x, packed, nvfp4.swizzle(scale), w_scale, x_scale, product)
        again = nvfp4.dequantize(*nvfp4.quantize(x, x_scale), x_scale)
        wanted = again @ nvfp4.dequantize(packed, scale, w_scale).t()
    difference = got.to(torch.float64) - wanted.to(torch.float64)
    size = wanted.to(torch.float64)
    sides = [side for side in (0, 1) if size.shape[side] >= FEWEST]
    return max(float((difference.norm(dim=side) / size.norm(dim=side)).max()) for side in sides)
