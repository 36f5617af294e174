"""Linears that keep their weights packed as on disk, and write a receipt for every call."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import ClassVar, Self

import torch

from harness.engine.quantized import emulated
from harness.errors import CheckpointFaultError
from harness.records.generation import DEQUANTIZE

ScaledMM = Callable[..., torch.Tensor]
SCALED_MM = "torch._scaled_mm"

Write = Callable[[str, str, str, str], None]
"""Called with format, kernel, note and fallback of each call."""


@dataclass(frozen=True)
class Choice:
    """The way in which the modules of one format are multiplied on one device."""

    product: ScaledMM | None
    """The product of quantized operands, or ``None``: dequantize."""
    note: str = ""
    """Reason for not using a native product that the device should have; else empty."""
    kernel: str = SCALED_MM
    """Name of the product in receipts."""


@dataclass(frozen=True)
class StoredTensors:
    """The tensors of one Linear as read from its checkpoint, and the numbers that they must fit."""

    tensors: Mapping[str, torch.Tensor]
    """By suffix: ``weight``, ``bias``, ``weight_scale`` ..."""
    rows: int
    columns: int
    """N and K of the model's Linear."""
    place: str
    """File and module, for errors."""
    options: Mapping[str, str]
    """Fields of the case's ``loader:``."""
    absent: Mapping[str, str]
    """Suffix of a scale to the cause code of the fault if it is missing."""

    def get(self, suffix: str) -> torch.Tensor:
        """Return a tensor. Raises ``CheckpointFaultError`` if it is missing."""
        if suffix not in self.tensors:
            code = self.absent.get(suffix, "tensor_missing")
            raise CheckpointFaultError(f"{suffix} is missing", place=self.place, code=code)
        return self.tensors[suffix]

    def scalar(self, suffix: str) -> torch.Tensor | None:
        """Return a scale of one value as float32 []; ``None`` if it is absent."""
        value = self.tensors.get(suffix)
        if value is None:
            return None
        self.expect(value.numel() == 1, f"{suffix} holds {value.numel()} values, not 1")
        return value.to(torch.float32).reshape(())

    def expect(self, holds: bool, fault: str, code: str = "shape_differs") -> None:
        """Raise ``CheckpointFaultError`` with a sentence unless a condition holds."""
        if not holds:
            raise CheckpointFaultError(fault, place=self.place, code=code)


class ReceiptHandle:
    """Stops the writing of receipts."""

    def __init__(self, owner: QuantizedLinear) -> None:
        self._owner = owner

    def remove(self) -> None:
        """Stop writing."""
        self._owner.write = None


class QuantizedLinear(torch.nn.Module):
    """``y = x W.T + b`` with packed W. ``forward`` takes [..., K] and returns [..., N] in the dtype of x."""

    form: ClassVar[str]
    """Name of the number format, see ``harness.formats.registry``."""
    native_since: ClassVar[tuple[int, int] | None] = None
    """Lowest compute capability with a native product; ``None``: no device has one."""
    weight: torch.Tensor
    bias: torch.Tensor | None

    def __init__(self, in_features: int, out_features: int, bias: torch.Tensor | None, choice: Choice) -> None:
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

    @classmethod
    @abstractmethod
    def from_stored(cls, stored: StoredTensors, choice: Choice) -> Self:
        """Return the Linear of a checkpoint's tensors.

        Raises:
            CheckpointFaultError: a tensor is missing, or has another shape or dtype than the format requires.
        """

    @classmethod
    def emulation(cls) -> Choice:
        """Return the native product in plain torch; no product if the format has none."""
        return Choice(None) if cls.native_since is None else Choice(emulated.scaled_mm, kernel=emulated.NAME)

    @classmethod
    def self_check(cls, weight: torch.Tensor, x: torch.Tensor, product: ScaledMM) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the native product of random operands, and the product of the same operands dequantized.

        Args:
            weight: float32 [N, K].
            x: float32 [M, K].
            product: ``torch._scaled_mm`` or an emulation.

        Raises:
            NotImplementedError: the format has no native product.
        """
        raise NotImplementedError(f"{cls.form} has no native product")

    def holds_stored(self) -> bool:
        """Return whether dtype and width of the weight are still those of the stored format."""
        return True

    def stored_format(self) -> str:
        """Return the format by the weight's dtype and width, not by its class: a weight may have been replaced."""
        if self.holds_stored():
            return self.form
        names = {torch.float8_e4m3fn: "fp8", torch.bfloat16: "bf16", torch.float16: "fp16", torch.float32: "fp32"}
        return names.get(self.weight.dtype, str(self.weight.dtype))

    @abstractmethod
    def dequantized(self, dtype: torch.dtype) -> torch.Tensor:
        """Return the weight [N, K] in ``dtype``."""

    def largest_input(self) -> float | None:
        """Return the largest input that a static input scale can represent; ``None`` without one."""
        return None

    def obstacle(self) -> str:
        """Return why the native product cannot take this module; empty if it can."""
        return f"{self.form} has no native product"

    def _native(self, x: torch.Tensor, product: ScaledMM) -> torch.Tensor:
        """Return ``x W.T`` for x [M, K], without bias."""
        raise NotImplementedError

    def extra_repr(self) -> str:
        """Return the sizes and the format for the printed model."""
        return f"{self.in_features}, {self.out_features}, {self.stored_format()}"
