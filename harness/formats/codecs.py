"""Bit-exact decoding and encoding of the number formats that quantized checkpoints store. numpy only.

E2M1: OCP Microscaling Formats v1.0, section 5.3.3: codes 0, .5, 1, 1.5, 2, 3, 4, 6 and a sign in bit 3.
E4M3 / E5M2 and their FNUZ variants: the tables of ``ml_dtypes``.
Scale tiles: cuBLAS, "1D block scaling factors layout": 128 x 4 tiles of 512 bytes.
"""

from __future__ import annotations

from typing import Literal, TypeVar

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

F32 = NDArray[np.float32]
U8 = NDArray[np.uint8]
Number = TypeVar("Number", bound=np.generic)
NibbleOrder = Literal["low_first", "high_first"]
ScaleLayout = Literal["linear", "swizzled"]

E2M1_VALUES: F32 = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6, -0.0, -0.5, -1, -1.5, -2, -3, -4, -6], dtype=np.float32)
E2M1_BOUNDS: F32 = np.array([0.25, 0.75, 1.25, 1.75, 2.5, 3.5, 5], dtype=np.float32)
FP8_TABLES: dict[str, F32] = {
    "e4m3": np.arange(256, dtype=np.uint8).view(ml_dtypes.float8_e4m3fn).astype(np.float32),
    "e5m2": np.arange(256, dtype=np.uint8).view(ml_dtypes.float8_e5m2).astype(np.float32),
    "e4m3_fnuz": np.arange(256, dtype=np.uint8).view(ml_dtypes.float8_e4m3fnuz).astype(np.float32),
    "int8": np.arange(256, dtype=np.uint8).view(np.int8).astype(np.float32),
}
FLOAT_DTYPES: dict[str, np.dtype[np.generic]] = {
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "F16": np.dtype(np.float16),
    "F32": np.dtype(np.float32),
    "F64": np.dtype(np.float64),
}


def decode_floats(data: bytes, dtype: str) -> F32:
    """Return flat float32 values of BF16, F16, F32, F64, 8-bit float or I8 bytes. ``dtype`` is safetensors' name."""
    if dtype in FLOAT_DTYPES:
        return np.frombuffer(data, dtype=FLOAT_DTYPES[dtype]).astype(np.float32)
    table = {"F8_E4M3": "e4m3", "F8_E5M2": "e5m2", "F8_E4M3FNUZ": "e4m3_fnuz", "I8": "int8"}[dtype]
    return FP8_TABLES[table][np.frombuffer(data, dtype=np.uint8)]


def as_bfloat16(signal: F32) -> F32:
    """Return the signal rounded to bfloat16."""
    rounded: F32 = signal.astype(ml_dtypes.bfloat16).astype(np.float32)
    return rounded


def decode_e4m3(data: U8) -> F32:
    """Decode E4M3 bytes (``fn``: no infinities, 0x7F and 0xFF are NaN) to float32, any shape."""
    return FP8_TABLES["e4m3"][data]


def encode_e4m3(values: F32) -> U8:
    """Round to nearest even E4M3 and saturate at 448, as ``torch`` casts after a clamp."""
    clamped = np.clip(values, -448.0, 448.0).astype(np.float32)
    return clamped.astype(ml_dtypes.float8_e4m3fn).view(np.uint8)


def unpack_nibbles(packed: U8, order: NibbleOrder) -> U8:
    """Return codes [..., K] of packed bytes [..., K/2]; ``low_first``: the even column is in the low nibble.

    For example, byte 0x21 gives codes 1, 2 in ``low_first`` and 2, 1 in ``high_first`` order.
    """
    codes = np.empty((*packed.shape[:-1], packed.shape[-1] * 2), dtype=np.uint8)
    low, high = packed & 0xF, packed >> 4
    codes[..., 0::2], codes[..., 1::2] = (low, high) if order == "low_first" else (high, low)
    return codes


def pack_nibbles(codes: U8, order: NibbleOrder = "low_first") -> U8:
    """Pack codes [..., K] into bytes [..., K/2]: the inverse of ``unpack_nibbles``."""
    even, odd = codes[..., 0::2], codes[..., 1::2]
    joined = (odd << 4 | even) if order == "low_first" else (even << 4 | odd)
    return joined.astype(np.uint8)


def encode_e2m1(values: F32) -> U8:
    """Return E2M1 codes of scaled values: ties go to the even code, values above 6 saturate, -0 loses its sign.

    ModelOpt rounds in the same way.
    """
    magnitude = np.abs(values)
    code = np.zeros(magnitude.shape, dtype=np.uint8)
    # a comparison per bound is several times faster than a binary search per value
    for index, bound in enumerate(E2M1_BOUNDS):
        # of the codes below and above a bound, the lower is odd at every second bound: there a tie moves up.
        # NaN is below no bound, so that it gets the largest code
        code += ~(magnitude < bound if index % 2 else magnitude <= bound)
    return code + ((values < 0).astype(np.uint8) << 3)


def block_max(blocks: NDArray[Number]) -> NDArray[Number]:
    """Return the largest value of each block: [R, C, K] -> [R, C]; NaN if a block has one.

    numpy searches along a short last axis one value at a time. Along the first axis of a transposed copy it compares
    many blocks per instruction, which is several times faster.
    """
    across = np.ascontiguousarray(blocks.reshape(-1, blocks.shape[-1]).T)
    largest: NDArray[Number] = across.max(axis=0).reshape(blocks.shape[:-1])
    return largest


def dequantize_nvfp4(codes: U8, scales: F32, global_scale: float, block: int = 16) -> F32:
    """Return W = e2m1 * block scale * global scale; codes [R, K], scales [R, K / block] -> float32 [R, K]."""
    with np.errstate(over="ignore", invalid="ignore"):
        values = E2M1_VALUES[codes].reshape(*codes.shape[:-1], -1, block)
        return np.asarray((values * (scales * np.float32(global_scale))[..., None]).reshape(codes.shape))


def swizzled_offsets(rows: NDArray[np.int64], columns: int, stored_columns: int) -> NDArray[np.int64]:
    """Return byte offsets of scale elements in the 128 x 4 tiled layout.

    Args:
        rows: row numbers [R].
        columns: scale columns wanted, K / 16.
        stored_columns: columns of the stored (padded to 4) tensor.

    Returns:
        Offsets [R, columns] from the first byte of the tensor. One strip of 128 rows is ``128 * stored_columns`` bytes.
    """
    column = np.arange(columns, dtype=np.int64)[None, :]
    row = rows[:, None]
    tile = (row // 128) * (stored_columns // 4) + column // 4
    within = (row % 32) * 16 + ((row % 128) // 32) * 4 + column % 4
    return tile * 512 + within


def swizzle(scales: U8) -> U8:
    """Return linear scales [N, C] in the tiled layout, zero-padded to [ceil(N/128)*128, ceil(C/4)*4]."""
    rows, columns = scales.shape
    padded = np.zeros((-(-rows // 128) * 128, -(-columns // 4) * 4), dtype=np.uint8)
    offsets = swizzled_offsets(np.arange(rows, dtype=np.int64), columns, padded.shape[1])
    flat = padded.reshape(-1)
    flat[offsets.reshape(-1)] = scales.reshape(-1)
    return flat.reshape(padded.shape)


def unswizzle(stored: U8, rows: int, columns: int) -> U8:
    """Return the first [rows, columns] of a stored tiled tensor in linear layout: the inverse of ``swizzle``."""
    offsets = swizzled_offsets(np.arange(rows, dtype=np.int64), columns, stored.shape[1])
    return stored.reshape(-1)[offsets]
