"""Safetensors files as raw bytes, without torch: what an exporter that must be reproducible to the byte needs."""

from __future__ import annotations

import json
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import ml_dtypes
import numpy as np
from numpy.typing import NDArray
from safetensors import TensorSpec, serialize_file

F32 = NDArray[np.float32]
#: On-disk dtype name, the name the writer of `safetensors` wants, and the numpy type.
_DTYPES: Final[dict[str, tuple[str, np.dtype[np.generic]]]] = {
    "F32": ("float32", np.dtype(np.float32)),
    "BF16": ("bfloat16", np.dtype(ml_dtypes.bfloat16)),
    "F8_E4M3": ("float8_e4m3fn", np.dtype(ml_dtypes.float8_e4m3fn)),
    "U8": ("uint8", np.dtype(np.uint8)),
}


@dataclass(frozen=True)
class Tensor:
    """One tensor: its on-disk dtype (`F32`, `BF16`, `F8_E4M3`, `U8`), and an array of the matching numpy type."""

    dtype: str
    array: NDArray[np.generic]

    def __post_init__(self) -> None:
        if self.dtype not in _DTYPES or self.array.dtype != _DTYPES[self.dtype][1]:
            raise TypeError(f"a {self.dtype} tensor cannot hold {self.array.dtype}; known dtypes: {', '.join(_DTYPES)}")

    def float32(self) -> F32:
        """The values, widened exactly."""
        return self.array.astype(np.float32)


def of(dtype: str, values: NDArray[np.generic]) -> Tensor:
    """A tensor from values of the same width (bytes are reinterpreted) or from float32 (rounded to nearest even)."""
    target = _DTYPES[dtype][1]
    if values.dtype == np.uint8 and target.itemsize == 1:
        return Tensor(dtype, values.view(target))
    return Tensor(dtype, values.astype(target))


def read(path: Path) -> dict[str, Tensor]:
    """Every tensor of a safetensors file, by name. ValueError names a tensor whose dtype is not handled here."""
    data = path.read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + length])
    header.pop("__metadata__", None)
    out = {}
    for name, entry in header.items():
        if entry["dtype"] not in _DTYPES:
            raise ValueError(f"{path}: tensor {name} is {entry['dtype']}; expected one of {', '.join(_DTYPES)}")
        begin, end = (8 + length + offset for offset in entry["data_offsets"])
        array = np.frombuffer(data[begin:end], dtype=_DTYPES[entry["dtype"]][1]).reshape(entry["shape"])
        out[name] = Tensor(entry["dtype"], array)
    return out


def write(path: Path, tensors: dict[str, Tensor]) -> None:
    """Writes `path` atomically, with the metadata that diffusers expects (`format: pt`)."""
    arrays = {name: np.ascontiguousarray(tensor.array).reshape(tensor.array.shape) for name, tensor in tensors.items()}
    specs = {
        name: TensorSpec(
            dtype=_DTYPES[tensors[name].dtype][0],
            shape=list(array.shape),
            data_ptr=array.ctypes.data,
            data_len=array.nbytes,
        )
        for name, array in arrays.items()
    }
    part = path.with_name(path.name + ".part")
    serialize_file(specs, part, metadata={"format": "pt"})
    part.replace(path)
