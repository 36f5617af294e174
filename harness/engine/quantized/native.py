"""Select the matrix product of a device for packed operands, and check that it computes correctly.

Each number format brings its own native product (``self_check`` of its Linear). No kernel is used before it has
multiplied two random operands on the device with the same result as the dequantized path.
"""

from __future__ import annotations

import importlib
from functools import cache
from typing import Any, Literal

import torch

from harness.engine.quantized.decoded import decoded_linear
from harness.engine.quantized.linear import Choice, QuantizedLinear, ScaledMM
from harness.formats.registry import known_formats

Policy = Literal["auto", "dequantize", "emulate"]
CHECK_SHAPES = ((192, 320, 256), (1, 16, 96), (129, 112, 96))
"""Tokens, N, K of the products in the self-check."""
CHECK_TOLERANCE = 0.01
"""Largest relative error of a row or a column of the self-check. Both paths multiply the same quantized operands, so
they differ only by the rounding of the result to bfloat16 (2**-9). A wrong layout or nibble order differs far more."""
FEWEST = 16
"""Rows or columns with fewer values are not checked alone: few values may cancel to almost zero."""


def scaled_mm(*operands: Any, **options: Any) -> torch.Tensor:
    """Call torch's product of scaled operands. All native products go through this function."""
    return torch._scaled_mm(*operands, **options)


@cache
def linear_class(form: str) -> type[QuantizedLinear]:
    """Return the Linear of a number format.

    Raises:
        KeyError: no format of this name is installed.
        TypeError: ``Format.linear`` names no Linear.
    """
    spec = known_formats()[form]
    if not spec.linear:
        return decoded_linear(spec)
    module, _, name = spec.linear.partition(":")
    linear_type = getattr(importlib.import_module(module), name, None)
    if not (isinstance(linear_type, type) and issubclass(linear_type, QuantizedLinear)):
        raise TypeError(f"the format {form} names {spec.linear}, which is no QuantizedLinear")
    return linear_type


def choose(form: str, device: torch.device, policy: Policy, product: ScaledMM = scaled_mm) -> Choice:
    """Select the product for a device. A native product is selected only after the self-check.

    On a CPU ``auto`` means dequantization: weights are multiplied in the compute dtype (weight-only), and activations
    are not quantized. ``emulate`` quantizes them as the native product requires, on every device.
    """
    if policy == "emulate":
        return linear_class(form).emulation()
    if policy == "dequantize" or device.type != "cuda":
        return Choice(None)
    return decide(form, torch.cuda.get_device_capability(device), device, product)


def decide(form: str, capability: tuple[int, int], device: torch.device, product: ScaledMM) -> Choice:
    """Select the product for a compute capability. ``product`` is checked on ``device``."""
    since = linear_class(form).native_since
    if since is None:
        return Choice(None)
    if capability < since:
        needed, has = (".".join(map(str, pair)) for pair in (since, capability))
        return Choice(None, f"native {form} needs compute capability {needed}, this is {has}")
    try:
        error = self_check(form, device, product)
    except (RuntimeError, NotImplementedError, TypeError, ValueError) as failure:
        message = next(iter(str(failure).splitlines()), type(failure).__name__)
        return Choice(None, f"native {form} refused: {message[:200]}")
    # `not <=` instead of `>`: a NaN error must refuse the product too
    if not error <= CHECK_TOLERANCE:
        return Choice(None, f"native {form} refused: relative error {error:.3g} against dequantized operands")
    return Choice(product)


def self_check(form: str, device: torch.device, product: ScaledMM) -> float:
    """Return the relative error of the native product compared with dequantized operands, of the worst row or column.

    The worst is taken so that one wrong row or column does not drown in the others. Sizes that are no multiples of 128
    and 4 include the swizzle's padding in the check. The time embedding multiplies a single token, so that is included.
    """
    return max(_check(form, device, product, *sides) for sides in CHECK_SHAPES)


def _check(form: str, device: torch.device, product: ScaledMM, tokens: int, rows: int, columns: int) -> float:
    # fixed seed: the decision must be the same in every process
    generator = torch.Generator("cpu").manual_seed(20260101)
    x = torch.randn(tokens, columns, generator=generator).to(device)
    # rows of different size: an error in a small row must not hide behind large ones
    sizes = torch.logspace(-2, 1, rows).unsqueeze(1)
    weight = (torch.randn(rows, columns, generator=generator) * sizes).to(device)
    native, dequantized = linear_class(form).self_check(weight, x, product)
    difference = native.to(torch.float64) - dequantized.to(torch.float64)
    size = dequantized.to(torch.float64)
    sides = [side for side in (0, 1) if size.shape[side] >= FEWEST]
    return max(float((difference.norm(dim=side) / size.norm(dim=side)).max()) for side in sides)
