"""Choose the bytes to read: a few rows of every tensor, strips and windows of scales, or all bytes if requested."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from harness.formats.codecs import U8, decode_floats
from harness.formats.header import TensorEntry
from harness.formats.hypotheses import PackedRows, admits, offsets
from harness.formats.modules import Module
from harness.formats.scaled import per_code
from harness.inspector.sources import Range, Source

LEAST = 4096
"""Stored elements to read at least: fewer give too uncertain a gain."""
STRIP = 128
"""Rows of one scale strip: it occupies the same bytes in the linear and in the swizzled layout."""


@dataclass(frozen=True, slots=True)
class Budget:
    """Amount that is read of each tensor."""

    rows: int = 4
    """Consecutive rows of a large tensor; more of a narrow tensor, so that ``LEAST`` stored elements are read."""
    whole_below: int = 0
    """Tensors of at most this many elements are read whole."""
    excluded: int = 1024
    """Elements at the start and at the half of a large excluded tensor."""
    scales: int = 1 << 15
    """Bytes of a large tensor of block scales in which NaN and zero are counted; a smaller one is read whole."""

    def of(self, entry: TensorEntry, logical_rows: int) -> NDArray[np.int64]:
        """Return the row numbers to read of a 2-D weight.

        A hash of the tensor's name picks the strip: samples are spread over tensors and the same in every run.
        """
        if logical_rows <= self.rows or entry.elements <= self.whole_below:
            return np.arange(logical_rows, dtype=np.int64)
        # the sample stays inside one strip, so one strip of scales covers it
        rows = min(max(self.rows, -(-LEAST * logical_rows // entry.elements)), STRIP, logical_rows)
        strips = max(logical_rows // STRIP, 1)
        chance = zlib.crc32(entry.name.encode())
        start = (chance % strips) * STRIP
        room = min(STRIP, logical_rows - start) - rows
        start += (chance // strips) % (room + 1) if room > 0 else 0
        return np.arange(start, min(start + rows, logical_rows), dtype=np.int64)


LOCAL = Budget(whole_below=1 << 21, excluded=1 << 12)
LOCAL_WIDE = Budget(rows=2, whole_below=1 << 21, excluded=1 << 12)
REMOTE = Budget()
REMOTE_WIDE = Budget(rows=2, excluded=512)
"""The wide budgets are for a base in float32: the same bytes hold half as many values as in BF16."""
FULL = Budget(rows=STRIP, whole_below=1 << 21, excluded=1 << 62, scales=1 << 62)
"""`--full`: all of every excluded tensor and all block scales; of large quantized weights still one strip each."""


def row_range(entry: TensorEntry, rows: NDArray[np.int64]) -> Range:
    """Return the file range of consecutive rows of a 2-D tensor."""
    width = entry.nbytes // max(entry.shape[0], 1)
    return entry.start + int(rows[0]) * width, width * len(rows)


def strip_range(scale: TensorEntry, rows: NDArray[np.int64]) -> tuple[Range, int]:
    """Return the file range of the scale strips that cover ``rows``, and the first row of that range."""
    width = scale.shape[1]
    first = int(rows[0]) // STRIP * STRIP
    last = min((int(rows[-1]) // STRIP + 1) * STRIP, scale.shape[0])
    return (scale.start + first * width, max(last - first, 0) * width), first


def take_rows(data: bytes, count: int) -> U8:
    """Return the bytes of ``count`` rows as [count, width]."""
    return np.frombuffer(data, dtype=np.uint8).reshape(count, -1) if count else np.zeros((0, 0), np.uint8)


def packed_rows(module: Module, rows: NDArray[np.int64], weight: bytes, strip: bytes, first: int) -> PackedRows:
    """Return weight bytes and scales of ``rows``; scales are cut out of the strip per layout that the shapes admit."""
    scale = module.scale
    assert scale is not None  # noqa: S101 - callers ask only for modules with scales
    logical_rows, _ = module.shape
    columns = scale_columns(module)
    flat = np.frombuffer(strip, dtype=np.uint8)
    cut: dict[str, U8 | None] = {"linear": None, "swizzled": None}
    for layout in ("linear", "swizzled"):
        if not admits(layout, logical_rows, columns, scale.shape):
            continue
        positions = offsets(layout, rows - first, columns, scale.shape[1])
        if positions.size and int(positions.max()) < flat.size:
            cut[layout] = flat[positions]
    return PackedRows(rows, take_rows(weight, len(rows)), cut["linear"], cut["swizzled"])


def scale_columns(module: Module) -> int:
    """Return logical scale columns: K / 16, or fewer if the stored (possibly padded) tensor has fewer."""
    assert module.scale is not None  # noqa: S101 - callers ask only for modules with scales
    stored = module.scale.shape[-1] if module.scale.shape else 1
    return min(-(-module.shape[1] // 16), stored)


def scale_of(source: Source, module: Module) -> NDArray[np.float32]:
    """Read an FP8 module's scale as float32 [1, 1] or [N, 1]; 1 if no scale is stored."""
    entry = module.scale
    if entry is None or entry.elements == 0:
        return np.ones((1, 1), np.float32)
    values = decode_floats(source.read(entry.file, entry.start, entry.nbytes), entry.dtype)
    return per_code(values.reshape(-1, 1), entry.name)


SCALE_WINDOWS = 16
"""Windows of a large tensor of block scales: the first and the last bytes, and one in each of the parts between."""
_CHUNK = 1 << 24


def scale_windows(entry: TensorEntry, limit: int) -> list[Range]:
    """Return the file ranges of the block scales to read.

    A tensor of at most twice ``limit`` bytes is read whole. Of a larger one, ``SCALE_WINDOWS`` windows of equal length
    are read, ``limit`` bytes together. A hash of the tensor's name places each window within its part of the tensor:
    Linears of one shape are read at different rows, and every run reads the same bytes.

    Args:
        entry: a tensor of one-byte scales.
        limit: bytes.
    """
    if entry.nbytes <= 2 * limit:
        return [(entry.start + first, min(_CHUNK, entry.nbytes - first)) for first in range(0, entry.nbytes, _CHUNK)]
    length = limit // SCALE_WINDOWS
    part = entry.nbytes // SCALE_WINDOWS
    starts = [0]
    for number in range(1, SCALE_WINDOWS - 1):
        chance = zlib.crc32(f"{entry.name} {number}".encode())
        starts.append(number * part + chance % (part - length + 1))
    return [(entry.start + first, length) for first in (*starts, entry.nbytes - length)]


def block_scale_values(source: Source, entry: TensorEntry, windows: Sequence[Range]) -> tuple[int, int]:
    """Count the block scales in ``windows`` that are NaN, and those that are zero.

    Args:
        source: the checkpoint.
        entry: a tensor of E4M3 scales.
        windows: file ranges, see `scale_windows`.
    """
    nans = zeros = 0
    batch: Sequence[Range]
    # windows of a sampled tensor are read together, chunks of a whole one in turn, so that memory stays bounded
    for batch in [windows] if sum(length for _, length in windows) <= _CHUNK else [[window] for window in windows]:
        for raw in source.read_ranges(entry.file, batch):
            magnitude = np.frombuffer(raw, dtype=np.uint8) & 0x7F  # without the sign; 0x7F is the only NaN of E4M3
            nans += int(np.count_nonzero(magnitude == 0x7F))
            zeros += magnitude.size - int(np.count_nonzero(magnitude))
    return nans, zeros
