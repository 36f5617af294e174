"""The Linear of a format without torch code: its weight is decoded by ``Format.decode`` and multiplied as floats."""

from __future__ import annotations

from typing import ClassVar, Self

import numpy as np
import torch
from numpy.typing import NDArray

from harness.engine.quantized.linear import Choice, QuantizedLinear, ScaledMM, StoredTensors
from harness.errors import CheckpointFaultError
from harness.formats.spec import Format


class DecodedLinear(QuantizedLinear):
    """Keeps the stored tensors as buffers, and the decoded weight of the compute dtype beside them.

    The decoded weight takes as much memory as an unquantized one. A format that must stay packed names a Linear of its
    own (``Format.linear``).
    """

    spec: ClassVar[Format]

    def __init__(self, stored: StoredTensors, choice: Choice) -> None:
        super().__init__(stored.columns, stored.rows, stored.tensors.get("bias"), choice)
        self.suffixes = tuple(sorted(suffix for suffix in stored.tensors if suffix != "bias"))
        for suffix in self.suffixes:
            self.register_buffer(suffix, stored.get(suffix))
        self._stored_dtype = self.weight.dtype
        self._decoded: tuple[torch.device, torch.dtype, torch.Tensor] | None = None

    @classmethod
    def from_stored(cls, stored: StoredTensors, choice: Choice) -> Self:
        """Return the Linear of a checkpoint's tensors.

        Raises:
            CheckpointFaultError: the format's ``decode`` refuses the tensors, or returns another shape.
        """
        linear = cls(stored, choice)
        try:
            # one row is decoded at load, so that tensors that do not fit end here and not in the first step
            linear._values(np.arange(min(1, stored.rows), dtype=np.int64))
        except (ValueError, KeyError, IndexError) as error:
            fault = f"cannot be decoded as {cls.spec.title}: {type(error).__name__}: {error}"
            raise CheckpointFaultError(fault, place=stored.place, code="shape_differs") from error
        return linear

    @classmethod
    def emulation(cls) -> Choice:
        """Return the product with activations rounded by ``Format.activations``; without it they stay as they are."""
        if cls.spec.activations is None:
            return Choice(None)
        return Choice(torch.nn.functional.linear, kernel=f"emulated {cls.form} product")

    def holds_stored(self) -> bool:
        """Return whether the weight has the dtype that was loaded."""
        return self.weight.dtype == self._stored_dtype

    def dequantized(self, dtype: torch.dtype) -> torch.Tensor:
        """Return the weight [N, K] in ``dtype``: decoded in float32 at first use and rounded once."""
        device = self.weight.device
        if self._decoded is None or self._decoded[:2] != (device, dtype):
            values = self._values(np.arange(self.out_features, dtype=np.int64))
            self._decoded = (device, dtype, torch.from_numpy(values).to(device=device, dtype=dtype))
        return self._decoded[2]

    def obstacle(self) -> str:
        """Return nothing: the only product is that of `emulation`, which takes every shape."""
        return ""

    def _native(self, x: torch.Tensor, product: ScaledMM) -> torch.Tensor:
        activations = self.spec.activations
        assert activations is not None  # noqa: S101 - `emulation` has returned a product
        scale = getattr(self, "input_scale", None)
        rounded = activations(x.detach().float().cpu().numpy(), None if scale is None else float(scale.reshape(-1)[0]))
        return product(torch.from_numpy(rounded).to(x.device), self.dequantized(torch.float32))

    def _values(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """Return the decoded rows, float32 [rows, K]."""
        decode = self.spec.decode
        assert decode is not None  # noqa: S101 - `Format.runs` says so
        stored = {suffix: _bytes(getattr(self, suffix)) for suffix in self.suffixes}
        weight = stored.pop("weight")
        width = len(weight) // self.out_features
        rows_of_weight = weight[int(rows[0]) * width : (int(rows[-1]) + 1) * width] if len(rows) else b""
        values = decode(rows_of_weight, stored, (self.out_features, self.in_features), rows)
        return np.ascontiguousarray(values, np.float32).reshape(len(rows), self.in_features)


def _bytes(tensor: torch.Tensor) -> bytes:
    data: bytes = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
    return data


def decoded_linear(spec: Format) -> type[DecodedLinear]:
    """Return the Linear class of a format that brings ``decode`` and no Linear of its own.

    Raises:
        KeyError: the format cannot be decoded.
    """
    if spec.decode is None:
        raise KeyError(spec.name)
    return type(f"{spec.title.title()}Linear", (DecodedLinear,), {"spec": spec, "form": spec.name})
