"""Matrix products on packed operands: which device has which, and whether it computes what it should.

FP8: ``torch._scaled_mm`` with float8_e4m3fn operands and one float32 scale each, on compute capability 8.9 and above.

NVFP4: ``torch._scaled_mm`` with float4_e2m1fn_x2 operands and 128x4-swizzled float8_e4m3fn block scales, on compute
capability 10.0 and above; the two global scales multiply the result. **Not yet run on such a device**: it is written
against the documented interface, and its packing, swizzle and scales are proven with an emulated product. That is why
no kernel is used before it has multiplied two random operands on this very device as the dequantized path does.
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
"""Tokens, N, K."""
ScaledMM = Callable[..., torch.Tensor]
FP8_SINCE, NVFP4_SINCE = (8, 9), (10, 0)
SCALED_MM = "torch._scaled_mm"
CHECK_TOLERANCE = 0.01
"""Largest relative error of a row or a column of the self-check. Both ways multiply the same quantized operands and
differ by the rounding of the result to bfloat16 only (2**-9); a wrong layout or nibble order is off by far more."""
FEWEST = 16
"""Values below which a row or a column is not looked at alone: few may cancel to next to nothing."""


def scaled_mm(*operands: Any, **options: Any) -> torch.Tensor:
    """torch's product of scaled operands; one place to find it by."""
    return torch._scaled_mm(*operands, **options)


def fp8_matmul(
    x: torch.Tensor, weight: torch.Tensor, weight_scale: torch.Tensor, input_scale: torch.Tensor, product: ScaledMM
) -> torch.Tensor:
    """``x @ W.T`` [M, N] in bfloat16, without bias: x is quantized with ``input_scale``, then multiplied in FP8.

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
    """``x @ W.T`` [M, N] in bfloat16, without bias: x is quantized to NVFP4, then both are multiplied in FP4.

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
    """How the modules of one format are multiplied on one device."""

    product: ScaledMM | None
    """The product of quantized operands, or ``None``: dequantize."""
    note: str = ""
    """Why not native, where the device should have had it."""
    kernel: str = SCALED_MM
    """Name of the product in receipts."""


def choose(form: Format, device: torch.device, policy: Policy, product: ScaledMM = scaled_mm) -> Choice:
    """Decide once for a device; native only after the self-check.

    On a CPU ``auto`` means to dequantize: weights are multiplied in the compute dtype (weight-only), and activations
    are not quantized. ``emulate`` quantizes them as the native product asks, on every device.
    """
    if policy == "emulate":
        return Choice(emulated.scaled_mm, kernel=emulated.NAME)
    if policy == "dequantize" or device.type != "cuda":
        return Choice(None)
    return decide(form, torch.cuda.get_device_capability(device), device, product)


def decide(form: Format, capability: tuple[int, int], device: torch.device, product: ScaledMM) -> Choice:
    """The decision for a compute capability. ``product`` is tried on ``device``."""
    since = FP8_SINCE if form == "fp8" else NVFP4_SINCE
    if capability < since:
        needed, has = (".".join(map(str, pair)) for pair in (since, capability))
        return Choice(None, f"native {form} needs compute capability {needed}, this is {has}")
    try:
        error = self_check(form, device, product)
    except (RuntimeError, NotImplementedError, TypeError, ValueError) as failure:
        said = next(iter(str(failure).splitlines()), type(failure).__name__)
        return Choice(None, f"native {form} refused: {said[:200]}")
    if not error <= CHECK_TOLERANCE:
        return Choice(None, f"native {form} refused: relative error {error:.3g} against dequantized operands")
    return Choice(product)


def self_check(form: Format, device: torch.device, product: ScaledMM) -> float:
    """Relative error of the native product against the product of the dequantized operands: the worst row or column.

    One row or column that is wrong must not drown in the others. Counts that are no multiples of 128 and of 4 make the
    padding of the swizzle part of the check, and a single token is what the time embedding multiplies.
    """
    return max(_check(form, device, product, *sides) for sides in CHECK_SHAPES)


def _check(form: Format, device: torch.device, product: ScaledMM, tokens: int, rows: int, columns: int) -> float:
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
