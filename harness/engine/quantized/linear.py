"""Linears that keep their weights packed as on disk, and write a receipt for every call."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable

import torch

from harness.engine.quantized import fp8, native, nvfp4
from harness.records.generation import DEQUANTIZE

Write = Callable[[str, str, str, str], None]
"""Called with format, kernel, note and fallback of each call."""


class ReceiptHandle:
    """Stops the writing of receipts."""

    def __init__(self, owner: QuantizedLinear) -> None:
        self._owner = owner

    def remove(self) -> None:
        """Stop writing."""
        self._owner.write = None


class QuantizedLinear(torch.nn.Module):
    """``y = x W.T + b`` with packed W. ``forward`` takes [..., K] and returns [..., N] in the dtype of x."""

    weight: torch.Tensor
    bias: torch.Tensor | None

    def __init__(self, in_features: int, out_features: int, bias: torch.Tensor | None, choice: native.Choice) -> None:
        super().__init__()
        self.in_features, self.out_features, self.choice = in_features, out_features, choice
        self.register_parameter("bias", None if bias is None else torch.nn.Parameter(bias, requires_grad=False))
        self.write: Write | None = None

    def register_receipts(self, write: Write) -> ReceiptHandle:
        """Write a receipt for every call until the handle is removed."""
        self.write = write
        return ReceiptHandle(self)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Multiply natively if that was chosen and the shape allows it, else dequantize."""
        note, fallback = self._fallback()
        if self.choice.product is not None and not note:
            flat = x.reshape(-1, self.in_features)
            product = self._native(flat, self.choice.product).to(x.dtype)
            result = product if self.bias is None else product + self.bias.to(x.dtype)
            kernel = self.choice.kernel
            result = result.reshape(*x.shape[:-1], self.out_features)
        else:
            bias = None if self.bias is None else self.bias.to(x.dtype)
            result = torch.nn.functional.linear(x, self.dequantized(x.dtype), bias)
            kernel = DEQUANTIZE
        if self.write is not None:
            self.write(self.stored_format(), kernel, note, fallback)
        return result

    def _fallback(self) -> tuple[str, str]:
        """Return why the native product does not run and the cause; both empty if it runs or was not requested."""
        if self.choice.product is None and not self.choice.note:
            return "", ""
        # report the module's own obstacle first: it exists on every device
        if obstacle := self.obstacle():
            return obstacle, "module"
        return self.choice.note, "device" if self.choice.note else ""

    def stored_format(self) -> str:
        """Return the format by the weight's dtype and width, not by its class."""
        if self.weight.dtype == torch.uint8 and self.weight.shape[-1] * 2 == self.in_features:
            return "nvfp4"
        names = {torch.float8_e4m3fn: "fp8", torch.bfloat16: "bf16", torch.float16: "fp16", torch.float32: "fp32"}
        return names.get(self.weight.dtype, str(self.weight.dtype))

    @abstractmethod
    def dequantized(self, dtype: torch.dtype) -> torch.Tensor:
        """Return the weight [N, K] in ``dtype``."""

    @abstractmethod
    def obstacle(self) -> str:
        """Return why the native product cannot take this module; empty if it can."""

    @abstractmethod
    def _native(self, x: torch.Tensor, product: native.ScaledMM) -> torch.Tensor:
        """Return ``x W.T`` for x [M, K], without bias."""

    def extra_repr(self) -> str:
        """Return the sizes and the format for the printed model."""
        return f"{self.in_features}, {self.out_features}, {self.stored_format()}"


class Fp8Linear(QuantizedLinear):
    """W in float8_e4m3fn [N, K] with a float32 scale; native: activations in FP8 too (W8A8), as ModelOpt calibrated."""

    weight_scale: torch.Tensor
    input_scale: torch.Tensor | None

    def __init__(
        self,
        weight: torch.Tensor,
        weight_scale: torch.Tensor,
        input_scale: torch.Tensor | None,
        bias: torch.Tensor | None,
        choice: native.Choice,
    ) -> None:
        super().__init__(weight.shape[1], weight.shape[0], bias, choice)
        self.register_buffer("weight", weight)
        self.register_buffer("weight_scale", weight_scale)
        self.register_buffer("input_scale", input_scale)

    def dequantized(self, dtype: torch.dtype) -> torch.Tensor:
        """Return the weight [N, K] in ``dtype``."""
        return fp8.dequantize(self.weight, self.weight_scale, dtype)

    def largest_input(self) -> float | None:
        """Return the largest input that the static scale can represent; ``None`` without one."""
        return None if self.input_scale is None else 448.0 * float(self.input_scale.float().max())

    def obstacle(self) -> str:
        """Return why the native product cannot take this module; empty if it can."""
        if self.in_features % 16 or self.out_features % 16:
            return f"native fp8 needs sides that are multiples of 16, not {self.out_features} x {self.in_features}"
        return "" if self.weight_scale.numel() == 1 else "native fp8 is used with one scale a tensor only"

    def _native(self, x: torch.Tensor, product: native.ScaledMM) -> torch.Tensor:
        scale = fp8.dynamic_scale(x) if self.input_scale is None else self.input_scale
        return native.fp8_matmul(x, self.weight, self.weight_scale, scale, product)


class Nvfp4Linear(QuantizedLinear):
    """W as packed E2M1 [N, K/2] with block scales; native: activations in NVFP4 too (W4A4), not yet run on a device."""

    weight_scale: torch.Tensor
    weight_scale_2: torch.Tensor
    input_scale: torch.Tensor | None

    def __init__(
        self,
        weight: torch.Tensor,
        weight_scale: torch.Tensor,
        weight_scale_2: torch.Tensor,
        input_scale: torch.Tensor | None,
        bias: torch.Tensor | None,
        choice: native.Choice,
    ) -> None:
        super().__init__(weight.shape[1] * 2, weight.shape[0], bias, choice)
        self.register_buffer("weight", weight)
        self.register_buffer("weight_scale", weight_scale)
        self.register_buffer("weight_scale_2", weight_scale_2)
        self.register_buffer("input_scale", input_scale)
        self._swizzled: torch.Tensor | None = None

    def dequantized(self, dtype: torch.dtype) -> torch.Tensor:
        """Return the weight [N, K] in ``dtype``."""
        return nvfp4.dequantize(self.weight, self.weight_scale, self.weight_scale_2, dtype)

    def largest_input(self) -> float | None:
        """Return the largest input that the static scale can represent (6 x 448 times it); ``None`` without one."""
        return None if self.input_scale is None else 6.0 * 448.0 * float(self.input_scale.float().max())

    def obstacle(self) -> str:
        """Return why the native product cannot take this module; empty if it can."""
        if self.in_features % 32 or self.out_features % 16:
            return f"native nvfp4 needs K % 32 == 0 and N % 16 == 0, not {self.out_features} x {self.in_features}"
        return "" if self.input_scale is not None else "native nvfp4 needs a stored input_scale"

    def _native(self, x: torch.Tensor, product: native.ScaledMM) -> torch.Tensor:
        if self.input_scale is None:
            raise RuntimeError("no input_scale")
        if self._swizzled is None or self._swizzled.device != self.weight_scale.device:
            self._swizzled = nvfp4.swizzle(self.weight_scale)
        return native.nvfp4_matmul(x, self.weight, self._swizzled, self.weight_scale_2, self.input_scale, product)
