"""NVFP4 in torch: two E2M1 values per byte, a float8 scale per 16 values, one float32 scale per tensor.

``W = e2m1 * weight_scale * weight_scale_2``. ModelOpt puts the even column into the low nibble.
Codes 0 to 7 mean 0, 0.5, 1, 1.5, 2, 3, 4, 6; bit 3 is the sign (OCP Microscaling Formats 1.0, section 5.3.3).

Native product: ``torch._scaled_mm`` with float4_e2m1fn_x2 operands and 128x4-swizzled float8_e4m3fn block scales, on
compute capability 10.0 and above; the two global scales multiply the result. **Not yet run on such a device**: it is
written against the documented interface, and its packing, swizzle and scales are proven with an emulated product.
"""

from __future__ import annotations

from typing import Self

import torch

from harness.engine.quantized.emulated import OPERANDS
from harness.engine.quantized.linear import Choice, QuantizedLinear, ScaledMM, StoredTensors

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
    # an all-zero block may have any scale; 1 keeps the division below finite
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


def _operand(stored: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    packed = stored.contiguous().view(torch.uint8)
    rows, blocks = packed.shape[0], packed.shape[1] * 2 // BLOCK
    linear = unswizzle(scale.view(padded_shape(rows, blocks)), rows, blocks)
    return dequantize(packed, linear, torch.ones((), device=packed.device))


OPERANDS[torch.float4_e2m1fn_x2] = _operand


def matmul(
    x: torch.Tensor,
    packed: torch.Tensor,
    swizzled_scale: torch.Tensor,
    weight_scale_2: torch.Tensor,
    input_scale: torch.Tensor,
    product: ScaledMM,
) -> torch.Tensor:
    """Return ``x @ W.T`` [M, N] in bfloat16, without bias: quantize x to NVFP4, multiply in FP4.

    Args:
        x: [M, K].
        packed: uint8 [N, K/2], low nibble first; N a multiple of 16, K of 32.
        swizzled_scale: float8_e4m3fn, ``swizzle`` of the block scales.
        weight_scale_2: float32, one value.
        input_scale: float32, one value, ``amax / (6 * 448)`` of the activations.
        product: ``torch._scaled_mm`` or an emulation.
    """
    x_packed, x_scale = quantize(x.contiguous(), input_scale)
    result = product(
        x_packed.view(torch.float4_e2m1fn_x2),
        packed.view(torch.float4_e2m1fn_x2).t(),
        scale_a=swizzle(x_scale).flatten(),
        scale_b=swizzled_scale.flatten(),
        out_dtype=torch.bfloat16,
    )
    # the outer scales are one number each, so they can multiply the sums in place of the operands
    return (result.to(torch.float32) * (input_scale * weight_scale_2)).to(torch.bfloat16)


class Nvfp4Linear(QuantizedLinear):
    """W as packed E2M1 [N, K/2] with block scales; native: activations in NVFP4 too (W4A4), not yet run on a device."""

    form = "nvfp4"
    native_since = (10, 0)
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
        choice: Choice,
    ) -> None:
        super().__init__(weight.shape[1] * 2, weight.shape[0], bias, choice)
        self.register_buffer("weight", weight)
        self.register_buffer("weight_scale", weight_scale)
        self.register_buffer("weight_scale_2", weight_scale_2)
        self.register_buffer("input_scale", input_scale)
        self._swizzled: torch.Tensor | None = None

    @classmethod
    def from_stored(cls, stored: StoredTensors, choice: Choice) -> Self:
        """Return the Linear of a checkpoint's tensors, with low nibbles first and linear block scales."""
        weight, scale = stored.get("weight"), stored.get("weight_scale")
        rows, columns, blocks = stored.rows, stored.columns, stored.columns // BLOCK
        shape = [rows, columns // 2]
        stored.expect(list(weight.shape) == shape, f"weight is {list(weight.shape)}, not {shape}")
        input_scale = stored.scalar("input_scale")
        stored.expect(columns % BLOCK == 0, f"{columns} columns are no multiple of {BLOCK}")
        is_e4m3 = scale.dtype == torch.float8_e4m3fn
        stored.expect(is_e4m3, f"weight_scale is {scale.dtype}, not float8_e4m3fn", "dtype_differs")
        if stored.options.get("scale_layout") == "swizzled":
            high, wide = padded_shape(rows, blocks)
            fits = scale.numel() == high * wide
            stored.expect(fits, f"weight_scale holds {scale.numel()} values, not {high} x {wide}")
            scale = unswizzle(scale, rows, blocks)
        shape = [rows, blocks]
        stored.expect(list(scale.shape) == shape, f"weight_scale is {list(scale.shape)}, not {shape}")
        # unpack here once: the kernels and the emulation take linear scales and low-nibble-first weights only
        if stored.options.get("nibble_order") == "high_first":
            weight = swap_nibbles(weight)
        stored.get("weight_scale_2")
        outer = stored.scalar("weight_scale_2")
        assert outer is not None  # noqa: S101 - `get` has raised if it is absent
        return cls(weight, scale, outer, input_scale, stored.tensors.get("bias"), choice)

    @classmethod
    def self_check(cls, weight: torch.Tensor, x: torch.Tensor, product: ScaledMM) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the product of packed operands, and that of the same operands dequantized."""
        unit = E2M1_MAX * E4M3_MAX
        x_scale, w_scale = x.abs().amax() / unit, weight.abs().amax() / unit
        packed, scale = quantize(weight, w_scale)
        result = matmul(x, packed, swizzle(scale), w_scale, x_scale, product)
        rounded = dequantize(*quantize(x, x_scale), x_scale)
        return result, rounded @ dequantize(packed, scale, w_scale).t()

    def holds_stored(self) -> bool:
        """Return whether the weight is bytes of half the width."""
        return self.weight.dtype == torch.uint8 and self.weight.shape[-1] * 2 == self.in_features

    def dequantized(self, dtype: torch.dtype) -> torch.Tensor:
        """Return the weight [N, K] in ``dtype``."""
        return dequantize(self.weight, self.weight_scale, self.weight_scale_2, dtype)

    def largest_input(self) -> float | None:
        """Return the largest input that the static scale can represent (6 x 448 times it); ``None`` without one."""
        return None if self.input_scale is None else E2M1_MAX * E4M3_MAX * float(self.input_scale.float().max())

    def obstacle(self) -> str:
        """Return why the native product cannot take this module; empty if it can."""
        if self.in_features % 32 or self.out_features % 16:
            return f"native nvfp4 needs K % 32 == 0 and N % 16 == 0, not {self.out_features} x {self.in_features}"
        return "" if self.input_scale is not None else "native nvfp4 needs a stored input_scale"

    def _native(self, x: torch.Tensor, product: ScaledMM) -> torch.Tensor:
        if self.input_scale is None:
            raise RuntimeError("no input_scale")
        # swizzled once per device, and not at every call
        if self._swizzled is None or self._swizzled.device != self.weight_scale.device:
            self._swizzled = swizzle(self.weight_scale)
        return matmul(x, self.weight, self._swizzled, self.weight_scale_2, self.input_scale, product)
