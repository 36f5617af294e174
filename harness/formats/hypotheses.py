"""Decode stored bytes under every candidate reading: nibble order x scale layout for NVFP4, code tables for FP8."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from harness.formats.codecs import (
    E2M1_VALUES,
    F32,
    FP8_TABLES,
    U8,
    NibbleOrder,
    ScaleLayout,
    block_max,
    decode_e4m3,
    swizzled_offsets,
    unpack_nibbles,
)
from harness.formats.evidence import layout_correlation

NIBBLE_ORDERS: tuple[NibbleOrder, ...] = ("low_first", "high_first")
FP8_READINGS = ("e4m3", "e5m2", "int8")
"""Code tables to try. e4m3_fnuz is left out: it is e4m3 times 1/2, which the gain shows and the cosine does not."""
LAYOUT_PROVEN_Z = -6.0
"""Below this many standard deviations a layout is proven without a base (measured: right below -9, wrong within 3)."""


@dataclass(frozen=True, slots=True)
class PackedRows:
    """Rows of an NVFP4 weight as stored.

    ``packed`` [R, K/2]; ``linear`` and ``swizzled``: the E4M3 bytes [R, C] that each layout gives to these rows
    (``None`` if the stored shape does not admit the layout).
    """

    rows: NDArray[np.int64]
    packed: U8
    linear: U8 | None
    swizzled: U8 | None

    def scales(self, layout: str) -> U8:
        """Return the scale bytes under one layout. Raises ``KeyError`` if the stored shape does not admit it."""
        chosen = self.linear if layout == "linear" else self.swizzled
        if chosen is None:
            raise KeyError(layout)
        return chosen

    @property
    def layouts(self) -> tuple[ScaleLayout, ...]:
        """Return the layouts that the stored shape admits."""
        options: list[ScaleLayout] = []
        if self.linear is not None:
            options.append("linear")
        if self.swizzled is not None:
            options.append("swizzled")
        return tuple(options)


def admits(layout: ScaleLayout, rows: int, columns: int, stored: tuple[int, ...]) -> bool:
    """Return whether a scale tensor of shape ``stored`` can hold ``rows`` x ``columns`` scales in this layout."""
    if len(stored) != 2:
        return False
    if layout == "linear":
        return stored[0] >= rows and stored[1] >= columns
    return stored[0] % 128 == 0 and stored[1] % 4 == 0 and stored[0] >= rows and stored[1] >= columns


def linear_offsets(rows: NDArray[np.int64], columns: int, stored_columns: int) -> NDArray[np.int64]:
    """Return byte offsets [R, columns] in a row-major tensor."""
    return np.asarray(rows[:, None] * stored_columns + np.arange(columns, dtype=np.int64)[None, :])


def offsets(layout: str, rows: NDArray[np.int64], columns: int, stored_columns: int) -> NDArray[np.int64]:
    """Return byte offsets [R, columns] of scales under a layout, from the start of the tensor."""
    rule = linear_offsets if layout == "linear" else swizzled_offsets
    return rule(rows, columns, stored_columns)


def decode_readings(rows: PackedRows, block: int) -> dict[str, F32]:
    """Return reading ``order/layout`` to decoded rows [R, K], without the global scale."""
    decoded: dict[str, F32] = {}
    columns = rows.packed.shape[1] * 2
    for layout in rows.layouts:
        scale = np.repeat(decode_e4m3(rows.scales(layout)), block, axis=1)[:, :columns]
        for order in NIBBLE_ORDERS:
            values = E2M1_VALUES[unpack_nibbles(rows.packed, order)]
            decoded[f"{order}/{layout}"] = values * scale
    return decoded


def decode_fp8_readings(stored: U8, scale: F32) -> dict[str, F32]:
    """Return code table to decoded 8-bit rows [R, K]; ``scale`` [R, 1]: row factors divided by their mean."""
    return {name: np.asarray(FP8_TABLES[name][stored] * scale, dtype=np.float32) for name in FP8_READINGS}


@dataclass(frozen=True, slots=True)
class Blind:
    """Statistics of sampled NVFP4 rows that need no base."""

    z: dict[str, float]
    """Layout to standard deviations of its scale-to-code correlation; strongly negative proves it."""
    full_blocks: float
    """Share of blocks of 16 whose largest code is 6.0."""
    blocks: int
    subnormal: float = 0.0
    """Share of the block scales read that are zero or subnormal in E4M3."""

    @property
    def layout(self) -> str:
        """Return the proven layout, or empty."""
        if not self.z:
            return ""
        best = min(self.z, key=lambda name: self.z[name])
        others = [value for name, value in self.z.items() if name != best]
        clear = not others or self.z[best] - min(others) < LAYOUT_PROVEN_Z / 2
        return best if self.z[best] < LAYOUT_PROVEN_Z and clear else ""


def look_blind(rows: PackedRows, block: int) -> Blind:
    """Return statistics of codes and scales alone. They cannot show the nibble order: a swap changes none of them."""
    magnitude = np.abs(E2M1_VALUES[unpack_nibbles(rows.packed, "low_first")])
    blocks = magnitude.reshape(len(magnitude), -1, block)
    largest = block_max(blocks)
    mean_of_others = (blocks.sum(axis=2) - largest) / (block - 1)
    z: dict[str, float] = {}
    for layout in rows.layouts:
        values = decode_e4m3(rows.scales(layout))
        with np.errstate(divide="ignore", invalid="ignore"):
            z[layout] = layout_correlation(np.log(values), mean_of_others)[0]
    magnitudes = rows.scales(rows.layouts[0]) & 0x7F if rows.layouts else np.zeros(0, np.uint8)
    subnormal = float((magnitudes < 8).mean()) if magnitudes.size else 0.0  # 0x08 is 2**-6, the smallest normal number
    return Blind(z, float((largest == 6.0).mean()) if largest.size else 0.0, int(largest.size), subnormal)
