"""ModelOpt's FP8 and NVFP4 for one expert, in numpy: the same bytes as nvidia-modelopt 0.47 for the same calibration.

Only elementwise float32 operations and maxima are used, in ModelOpt's order, so every CPU writes the same bytes.
Layouts, per Linear [N, K]: FP8 `weight` F8_E4M3 [N, K], `weight_scale` F32 [] = amax / 448, `input_scale` F32 [].
NVFP4 `weight` U8 [N, K/2] (even column in the low nibble), `weight_scale` F8_E4M3 [N, K/16], `weight_scale_2` F32 []
= amax / (6 * 448), `input_scale` F32 [] = activation amax / (6 * 448).
"""

from __future__ import annotations

import re
from typing import Final, Literal

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from harness.formats.codecs import encode_e2m1, encode_e4m3, pack_nibbles
from tiny.tensorfile import F32, Tensor, of

Format = Literal["fp8", "nvfp4"]
NibbleOrder = Literal["low_first", "high_first"]

_E2M1_MAX, _E4M3_MAX = 6.0, 448.0
_BLOCK: Final = 16
_LINEAR = re.compile(r"blocks\.(\d+)\.(attn[12]\.to_(?:q|k|v|out\.0)|ffn\.net\.(?:0\.proj|2))\.weight")
#: Kept in float32 by diffusers when it loads BF16 weights, and so exported as float32 (`_keep_in_fp32_modules`).
_FLOAT32 = re.compile(r"time_embedder|scale_shift_table|norm[123]\.")


def quantized_linears(tensors: dict[str, Tensor]) -> list[str]:
    """Names (without `.weight`) of the Linears to quantize: those of all blocks but the first and the last.

    ModelOpt leaves the first and last three of Wan2.2's forty blocks in BF16; one each is the miniature's share.
    """
    found = {name.removesuffix(".weight"): int(m[1]) for name in tensors if (m := _LINEAR.fullmatch(name))}
    last = max(found.values())
    return sorted(name for name, block in found.items() if 0 < block < last)


def ignored(tensors: dict[str, Tensor]) -> list[str]:
    """The `ignore` list as ModelOpt summarises it: what stays BF16, by prefix."""
    last = max(int(m[1]) for name in tensors if (m := _LINEAR.fullmatch(name)))
    return ["blocks.0*", f"blocks.{last}*", "condition_embedder*", "patch_embedding", "proj_out"]


def quantize(
    tensors: dict[str, Tensor], activations: dict[str, float], fmt: Format, nibbles: NibbleOrder = "low_first"
) -> dict[str, Tensor]:
    """All tensors of the quantized expert.

    Args:
        tensors: the BF16 expert, by name.
        activations: largest absolute input of each quantized Linear, by module name.
        fmt: `fp8` or `nvfp4`.
        nibbles: `high_first` writes what runtimes that swap by default want, and what ModelOpt never writes.

    Raises:
        KeyError: a Linear has no calibrated activation.
        ValueError: a Linear's input width is no multiple of 16 (NVFP4).
    """
    out = {name: _carried(name, tensor) for name, tensor in tensors.items()}
    linears = quantized_linears(tensors)
    weights = {name: tensors[f"{name}.weight"].float32() for name in linears}
    weight_amax = {name: np.float32(np.abs(weight).max()) for name, weight in weights.items()}
    input_amax = {name: np.float32(activations[name]) for name in linears}
    if fmt == "nvfp4":  # ModelOpt shares scales between q, k and v of one input, and does so for NVFP4 only.
        weight_amax, input_amax = _fused(weight_amax), _fused(input_amax)
    for name, weight in weights.items():
        parts = _fp8(weight, weight_amax[name]) if fmt == "fp8" else _nvfp4(name, weight, weight_amax[name], nibbles)
        limit = np.float32(_E4M3_MAX if fmt == "fp8" else _E2M1_MAX * _E4M3_MAX)
        parts["input_scale"] = Tensor("F32", np.asarray(input_amax[name] / limit))
        out.update({f"{name}.{part}": tensor for part, tensor in parts.items()})
    return out


def _carried(name: str, tensor: Tensor) -> Tensor:
    return of("F32", tensor.float32()) if _FLOAT32.search(name) else tensor


def _fused(amax: dict[str, np.float32]) -> dict[str, np.float32]:
    """Each q, k, v gets the largest amax among those that read the same input (in cross-attention: k and v)."""

    def group(name: str) -> str:
        stem, _, last = name.rpartition(".")
        if last not in ("to_q", "to_k", "to_v") or (last == "to_q" and stem.endswith("attn2")):
            return name
        return f"{stem}.qkv"

    largest: dict[str, np.float32] = {}
    for name, value in amax.items():
        largest[group(name)] = max(largest.get(group(name), np.float32(0)), value)
    return {name: largest[group(name)] for name in amax}


def _fp8(weight: F32, amax: np.float32) -> dict[str, Tensor]:
    """The quotient is float32, as ModelOpt's is here: it divides in the dtype of the model's first parameter.

    For a Wan transformer as diffusers loads it, that is `scale_shift_table`, kept in float32. (A model cast to BF16
    as a whole would be divided in BF16, and 3 % of its bytes would differ.)
    """
    scale = amax / np.float32(_E4M3_MAX)
    return {"weight": of("F8_E4M3", encode_e4m3(weight / scale)), "weight_scale": Tensor("F32", np.asarray(scale))}


def _nvfp4(name: str, weight: F32, amax: np.float32, nibbles: NibbleOrder) -> dict[str, Tensor]:
    rows, columns = weight.shape
    if columns % _BLOCK:
        raise ValueError(f"{name}: {columns} inputs are no multiple of {_BLOCK}, so NVFP4 cannot hold this Linear")
    global_scale = amax / np.float32(_E2M1_MAX * _E4M3_MAX)
    blocks = weight.reshape(rows, -1, _BLOCK)
    scale = np.abs(blocks).max(axis=2) / (np.float32(_E2M1_MAX) * global_scale)
    scale[scale == 0] = 1.0
    codes = encode_e4m3(np.clip(scale, np.float32(2.0**-9), np.float32(_E4M3_MAX)))
    stored = codes.view(ml_dtypes.float8_e4m3fn).astype(np.float32)
    scaled = blocks / (stored * global_scale)[..., None]
    packed: NDArray[np.uint8] = pack_nibbles(encode_e2m1(scaled.reshape(rows, columns)), nibbles)
    return {
        "weight": Tensor("U8", packed),
        "weight_scale": of("F8_E4M3", codes),
        "weight_scale_2": Tensor("F32", np.asarray(global_scale)),
    }
