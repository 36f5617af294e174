"""A quantized expert back in BF16, weight by weight: what the quantization alone does to the picture."""

from __future__ import annotations

import numpy as np

from harness.formats.codecs import decode_e4m3, dequantize_nvfp4, unpack_nibbles
from tiny.quantize import NibbleOrder
from tiny.tensorfile import F32, Tensor, of

_SCALES = ("weight_scale", "weight_scale_2", "input_scale")


def dequantize(tensors: dict[str, Tensor], nibbles: NibbleOrder = "low_first") -> dict[str, Tensor]:
    """All tensors of the unquantized expert; packed and FP8 weights become BF16, the rest is carried.

    `nibbles` is what the READER assumes; where it is not what the writer did, this is the incident.
    """
    out = {}
    for name, tensor in tensors.items():
        if name.rpartition(".")[2] in _SCALES:
            continue
        if tensor.dtype == "F8_E4M3":
            out[name] = of("BF16", tensor.float32() * tensors[f"{name}_scale"].float32())
        elif tensor.dtype == "U8":
            out[name] = of("BF16", _nvfp4(tensors, name, nibbles))
        else:
            out[name] = tensor
    return out


def _nvfp4(tensors: dict[str, Tensor], name: str, nibbles: NibbleOrder) -> F32:
    codes = unpack_nibbles(tensors[name].array.view(np.uint8), nibbles)
    scales = decode_e4m3(tensors[f"{name}_scale"].array.view(np.uint8))
    return dequantize_nvfp4(codes, scales, float(tensors[f"{name}_scale_2"].float32()))
