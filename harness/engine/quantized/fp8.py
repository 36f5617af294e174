"""FP8 (float8_e4m3fn) in torch, with one scale per tensor or per output channel.

Native product: ``torch._scaled_mm`` with float8_e4m3fn operands and one float32 scale each, on compute capability 8.9
and above.
"""

from __future__ import annotations

from typing import Self

import torch

from harness.engine.quantized.emulated import OPERANDS
from harness.engine.quantized.linear import Choice, QuantizedLinear, ScaledMM, StoredTensors

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
    # the floor keeps an all-zero activation from a division by zero
    return x.detach().abs().amax().to(torch.float32).clamp(min=1e-12) / E4M3_MAX


def _operand(stored: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    return stored.to(torch.float32) * scale


OPERANDS[torch.float8_e4m3fn] = _operand


def matmul(
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
    single = (1,)
    return product(
        quantize(x, input_scale).contiguous(),
        weight.t(),
        scale_a=input_scale.reshape(single),
        scale_b=weight_scale.reshape(single),
        out_dtype=torch.bfloat16,
    )


class Fp8Linear(QuantizedLinear):
    """W in float8_e4m3fn [N, K] with a float32 scale; native: activations in FP8 too (W8A8), as ModelOpt calibrated."""

    form = "fp8"
    native_since = (8, 9)
    weight_scale: torch.Tensor
    input_scale: torch.Tensor | None

    def __init__(
        self,
        weight: torch.Tensor,
        weight_scale: torch.Tensor,
        input_scale: torch.Tensor | None,
        bias: torch.Tensor | None,
        choice: Choice,
    ) -> None:
        super().__init__(weight.shape[1], weight.shape[0], bias, choice)
        self.register_buffer("weight", weight)
        self.register_buffer("weight_scale", weight_scale)
        self.register_buffer("input_scale", input_scale)

    @classmethod
    def from_stored(cls, stored: StoredTensors, choice: Choice) -> Self:
        """Return the Linear of a checkpoint's tensors, with one scale per tensor or per row."""
        weight, scale = stored.get("weight"), stored.get("weight_scale")
        shape = [stored.rows, stored.columns]
        stored.expect(list(weight.shape) == shape, f"weight is {list(weight.shape)}, not {shape}")
        input_scale = stored.scalar("input_scale")
        fits = scale.numel() in (1, stored.rows)
        stored.expect(fits, f"weight_scale holds {scale.numel()} values, not 1 or {stored.rows}")
        return cls(weight, scale.to(torch.float32), input_scale, stored.tensors.get("bias"), choice)

    @classmethod
    def self_check(cls, weight: torch.Tensor, x: torch.Tensor, product: ScaledMM) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the product of quantized operands, and that of the same operands dequantized."""
        x_scale, w_scale = dynamic_scale(x), dynamic_scale(weight)
        stored = quantize(weight, w_scale)
        result = matmul(x, stored, w_scale, x_scale, product)
        return result, dequantize(quantize(x, x_scale), x_scale) @ dequantize(stored, w_scale).t()

    def holds_stored(self) -> bool:
        """Return whether the weight is 8-bit floats."""
        return self.weight.dtype == torch.float8_e4m3fn

    def dequantized(self, dtype: torch.dtype) -> torch.Tensor:
        """Return the weight [N, K] in ``dtype``."""
        return dequantize(self.weight, self.weight_scale, dtype)

    def largest_input(self) -> float | None:
        """Return the largest input that the static scale can represent; ``None`` without one."""
        return None if self.input_scale is None else E4M3_MAX * float(self.input_scale.float().max())

    def obstacle(self) -> str:
        """Return why the native product cannot take this module; empty if it can."""
        if self.in_features % 16 or self.out_features % 16:
            return f"native fp8 needs sides that are multiples of 16, not {self.out_features} x {self.in_features}"
        return "" if self.weight_scale.numel() == 1 else "native fp8 is used with one scale a tensor only"

    def _native(self, x: torch.Tensor, product: ScaledMM) -> torch.Tensor:
        scale = dynamic_scale(x) if self.input_scale is None else self.input_scale
        return matmul(x, self.weight, self.weight_scale, scale, product)
