"""Clips as pictures that a page can seek in: contact sheets for playing, single frames without loss for deciding.

A video element seeks to a keyframe and shows what its decoder likes; two of them drift apart. A canvas that draws cells
of a contact sheet shows exactly the frame that was asked for, both sides in the same animation frame, from ``file://``,
and needs no encoder but Pillow.
"""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from harness.records.base import Record
from harness.records.frames import Tile

Bytes = npt.NDArray[np.uint8]

PREVIEW_WIDTH = 480
"""Widest cell of a lossy contact sheet, in pixels."""
LOSSLESS_PIXELS = 2_000_000
"""A clip of at most this many pixels (frames x height x width) is played without loss."""
FRAMES_PER_SHEET = 49
_MACROBLOCK = 16
"""Lossy WebP predicts across blocks of 16: cells that end on a block's edge do not bleed into each other."""
_QUALITY = 82


class Sheet(Record):
    """The contact sheets of one clip. Frame ``i`` lies on file ``i // per_sheet``."""

    files: tuple[str, ...]
    """Relative to the page."""
    columns: int
    per_sheet: int
    cell_width: int
    cell_height: int
    lossless: bool


def write_sheets(frames: Bytes, folder: Path, name: str, prefix: str) -> Sheet:
    """Write the frames [T, H, W, 3] as contact sheets ``<folder>/<name>-N.webp``.

    Args:
        frames: uint8 RGB.
        folder: where the files go.
        name: start of the file names.
        prefix: what a page puts before a file name, such as ``../media/case``.
    """
    count, height, width, _ = frames.shape
    lossless = count * height * width <= LOSSLESS_PIXELS
    cell_width, cell_height = (width, height) if lossless else preview_size(width, height)
    per_sheet = min(count, FRAMES_PER_SHEET)
    columns = max(1, math.ceil(math.sqrt(per_sheet * cell_height / cell_width)))
    files = []
    for number, start in enumerate(range(0, count, per_sheet)):
        part = frames[start : start + per_sheet]
        rows = math.ceil(len(part) / columns)
        sheet = Image.new("RGB", (columns * cell_width, rows * cell_height))
        for place, frame in enumerate(part):
            picture = Image.fromarray(frame)
            if not lossless:
                picture = picture.resize((cell_width, cell_height), Image.Resampling.LANCZOS, reducing_gap=2.0)
            sheet.paste(picture, (place % columns * cell_width, place // columns * cell_height))
        file = f"{name}-{number}.webp"
        if lossless:
            write_still(sheet, folder / file)
        else:
            sheet.save(folder / file, "WEBP", quality=_QUALITY, method=2)
        files.append(f"{prefix}/{file}")
    return Sheet(
        files=tuple(files),
        columns=columns,
        per_sheet=per_sheet,
        cell_width=cell_width,
        cell_height=cell_height,
        lossless=lossless,
    )


def write_still(picture: Image.Image, path: Path) -> None:
    """One picture as lossless WebP."""
    picture.save(path, "WEBP", lossless=True, quality=20, method=1)


def preview_size(width: int, height: int) -> tuple[int, int]:
    """Cell of a lossy sheet: at most ``PREVIEW_WIDTH`` wide, sides a multiple of 16; the page restores the aspect."""
    scale = min(1.0, PREVIEW_WIDTH / width)
    return _round(width * scale), _round(height * scale)


def _round(side: float) -> int:
    return max(_MACROBLOCK, round(side / _MACROBLOCK) * _MACROBLOCK)


def crop(frame: Bytes, tile: Tile, margin: float = 0.5) -> Bytes:
    """The tile with ``margin`` of its size on every side, cut at the frame's edge. frame [H, W, 3]."""
    height, width = frame.shape[:2]
    left, top = max(0, int(tile.x - tile.width * margin)), max(0, int(tile.y - tile.height * margin))
    right = min(width, int(tile.x + tile.width * (1 + margin)) + 1)
    bottom = min(height, int(tile.y + tile.height * (1 + margin)) + 1)
    return frame[top:bottom, left:right] if right > left and bottom > top else frame


def amplified_difference(golden: Bytes, candidate: Bytes) -> tuple[Bytes, int]:
    """Absolute difference of two pictures [H, W, 3], and the power of two it was multiplied by to be seen."""
    difference = np.abs(golden.astype(np.int16) - candidate.astype(np.int16))
    peak = int(difference.max(initial=0))
    gain = 1
    while peak and peak * gain * 2 <= 255 and gain < 64:
        gain *= 2
    return (difference * gain).astype(np.uint8), gain
