"""The NVFP4 code in torch: two E2M1 values per byte, a float8 scale per 16 values, one float32 scale per tensor.

``W = e2m1 * weight_scale * weight_scale_2``. ModelOpt puts the even column into the low nibble.
Codes 0 to 7 mean 0, 0.5, 1, 1.5, 2, 3, 4, 6; bit 3 is the sign (OCP Microscaling Formats 1.0, section 5.3.3).
"""

from __future__ import annotations

from collections.abc import Callable

import torch

BLOCK = 16
E2M1 = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, -0.0, -0.5, -1.0, -1.5, -2.0, -3.0, -4.0, -6.0)
E2M1_MAX, E4M3_MAX = 6.0, 448.0
E4M3_TINY = 2.0**-9
"""Smallest positive float8_e4m3fn: the lower bound of a block scale, so that none is rounded to zero."""
TILE_ROWS, TILE_COLUMNS = 128, 4
_MIDPOINTS = (0.25, 0.75, 1.25, 1.75, 2.5, 3.5, 5.0)
CHUNK = 1 << 26
"""Values quantized at once: each needs some 20 bytes, and an activation of 81 frames at 720p has a billion values."""
_tables: dict[tuple[torch.device, torch.dtype], torch.Tensor] = {}


def _pairs(device: torch.device, dtype: torch.dtype) -> torch.Tensor:
    """Return the table [256, 2] of the two values of a byte, low nibble first."""
    key = (device, dtype)
    if key not in _tables:
        values = torch.tensor(E2M1, dtype=dtype)
        codes = torch.arange(256)
        _tables[key] = torch.stack([values[codes & 15], values[codes >> 4]], dim=1).to(device)
    return _tables[key]


def swap_nibbles(packed: torch.Tensor) -> torch.Tensor:
    """Exchange the halves of bytes: turns high-nibble-first into low-nibble-first and back. Any shape, uint8."""
    return (packed << 4) | (packed >> 4)


def unpack(packed: torch.Tensor, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """Return the E2M1 values [N, K] of packed bytes [N, K/2], even columns from low nibbles."""
    pairs = torch.nn.functional.embedding(packed.to(torch.int32), _pairs(packed.device, dtype))
    return pairs.reshape(*packed.shape[:-1], packed.shape[-1] * 2)


def dequantize(
    packed: torch.Tensor, scale: torch.Tensor, global_scale: torch.Tensor, dtype: torch.dtype = torch.float32
) -> torch.Tensor:
    """Return weights [N, K] in ``dtype``; computed in float32 and rounded once.

    Args:
        packed: uint8 [N, K/2].
        scale: float8_e4m3fn [N, K/16], linear layout.
        global_scale: float32 [].
        dtype: dtype of the result.
    """
    factors = scale.to(torch.float32) * global_scale
    rows = packed.shape[0]
    values = unpack(packed).view(rows, -1, BLOCK) * factors.unsqueeze(-1)
    return values.view(rows, -1).to(dtype)


def quantize(x: torch.Tensor, global_scale: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Quantize rows as ModelOpt does: round half to even in E2M1, block scales from the block's largest magnitude.

    Args:
        x: [M, K], K a multiple of 16.
        global_scale: float32 [], ``amax / (6 * 448)``.

    Returns:
        packed uint8 [M, K/2] and float8_e4m3fn scales [M, K/16], linear layout.
    """
    parts = [_quantize(part, global_scale) for part in torch.split(x, max(1, CHUNK // max(1, x.shape[1])))]
    codes, scales = zip(*parts, strict=True)
    return torch.cat(codes), torch.cat(scales)


def _quantize(x: torch.Tensor, global_scale: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    blocks = x.to(torch.float32).reshape(x.shape[0], -1, BLOCK)
    amax = blocks.abs().amax(dim=-1)
    raw = (amax / (E2M1_MAX * global_scale)).clamp(E4M3_TINY, E4M3_MAX)
    scale = torch.where(amax == 0, torch.ones_like(raw), raw).to(torch.float8_e4m3fn)
    scaled = blocks / (scale.to(torch.float32) * global_scale).unsqueeze(-1)
    bounds = torch.tensor(_MIDPOINTS, device=x.device)
    size = scaled.abs()
    code = torch.bucketize(size, bounds, out_int32=True).to(torch.uint8)
    # A midpoint must go to the even code. bucketize puts it on the lower code, which is odd at every second midpoint.
    for bound in _MIDPOINTS[1::2]:
        code += size == bound
    code = (code | (torch.signbit(scaled).to(torch.uint8) << 3)).view(x.shape[0], -1)
    return (code[:, 1::2] << 4) | code[:, 0::2], scale


def padded_shape(rows: int, columns: int) -> tuple[int, int]:
    """Return rows padded to 128 and columns padded to 4: the shape of a swizzled scale tensor."""
    return -(-rows // TILE_ROWS) * TILE_ROWS, -(-columns // TILE_COLUMNS) * TILE_COLUMNS


def swizzle(scale: torch.Tensor) -> torch.Tensor:
    """Return block scales [R, C] in the layout of cuBLAS' 128x4 tiles: zero-padded, shape [padded R, padded C].

    In a tile, row r and column c lie at ``(r % 32) * 16 + (r // 32) * 4 + c``; tiles follow each other row-major
    (cuBLAS documentation, "1D Block Scaling Factors Layout").
    """
    rows, columns = scale.shape
    high, wide = padded_shape(rows, columns)
    padded = torch.zeros(high, wide, dtype=torch.uint8, device=scale.device)
    padded[:rows, :columns] = scale.view(torch.uint8)
    tiles = padded.view(high // 128, 4, 32, wide // 4, 4).permute(0, 3, 2, 1, 4)
    return tiles.reshape(high, wide).view(scale.dtype)


def unswizzle(stored: torch.Tensor, rows: int, columns: int) -> torch.Tensor:
    """Return linear block scales [rows, columns] from a swizzled tensor of ``padded_shape(rows, columns)`` values."""
    high, wide = padded_shape(rows, columns)
    tiles = stored.contiguous().view(torch.uint8).view(high // 128, wide // 4, 32, 4, 4)
    linear = tiles.permute(0, 3, 2, 1, 4).reshape(high, wide)[:rows, :columns]
    return linear.contiguous().view(stored.dtype)


# ``torch._scaled_mm`` in plain torch: the result of the native product, for devices that do not have it.


NAME = "emulated _scaled_mm"


def scaled_mm(
    a: torch.Tensor, b: torch.Tensor, *, scale_a: torch.Tensor, scale_b: torch.Tensor, out_dtype: torch.dtype
) -> torch.Tensor:
    """Return ``a @ b`` [M, N].

    Args:
        a: float8_e4m3fn [M, K], or float4_e2m1fn_x2 [M, K/2].
        b: the same dtype, [K, N] or [K/2, N], a transposed view.
        scale_a: float32 [1], or float8_e4m3fn block scales of M rows, swizzled and flat.
        scale_b: the same for N rows.
        out_dtype: dtype of the result.

    Raises:
        TypeError: operands of another dtype.
    """
    decode = _DECODERS.get(a.dtype)
    if decode is None or a.dtype != b.dtype:
        raise TypeError(f"no product of {a.dtype} and {b.dtype}")
    left, right = decode(a, scale_a), decode(b.t(), scale_b)
    return (left @ right.t()).to(out_dtype)


def _fp8(stored: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    return stored.to(torch.float32) * scale


def _nvfp4(stored: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    packed = stored.contiguous().view(torch.uint8)
    rows, blocks = packed.shape[0], packed.shape[1] * 2 // BLOCK
    linear = unswizzle(scale.view(padded_shape(rows, blocks)), rows, blocks)
    return dequantize(packed, linear, torch.ones((), device=packed.device))


_DECODERS: dict[torch.dtype, Callable[[torch.Tensor, torch.Tensor], torch.Tensor]] = {
    torch.float8_e4m3fn: _fp8,
    torch.float4_e2m1fn_x2: _nvfp4,
}
