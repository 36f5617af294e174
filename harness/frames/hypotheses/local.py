"""Replaced content, in frames or in a region, and patterns that lie over every frame."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from harness.frames.hypotheses.pair import Array, Explanation, FramePair
from harness.frames.hypotheses.sums import BLOCK, ErrorSums

REPLACED = 0.3
"""A frame that shows less than this share of the golden's picture was replaced, not only disturbed."""
GRIDS = ((1, 2), (2, 1), (2, 2), (1, 3), (3, 1), (2, 3), (3, 2), (2, 4), (3, 3), (4, 4))


def content(golden: Array, candidate: Array) -> tuple[str, float] | None:
    """Name the content that frames show instead of the golden's, with the share of the error that it explains.

    Black, white, one colour, or noise; ``None`` if the frames look like a picture.
    """
    error = float(np.square(candidate - golden).mean())
    if error <= 0:
        return None
    flat = candidate.mean(axis=(1, 2), keepdims=True)
    spread = float(np.square(candidate - flat).mean())
    if spread < 4.0 and error > 4 * spread:
        level = float(flat.mean())
        name = (
            "black (0, as NaN becomes)" if level < 3 else "white" if level > 252 else f"one colour (level {level:.0f})"
        )
        return name, 1 - spread / error
    centred = golden - golden.mean(axis=(1, 2), keepdims=True), candidate - flat
    scale = float((centred[0] * centred[1]).sum() / max(float(np.square(centred[0]).sum()), 1e-9))
    rest = centred[1] - scale * centred[0]
    energy = float(np.square(rest).mean())
    # noise in place of a picture is judged by what the candidate shows: the error also holds the golden's own contrast
    whole = spread if abs(scale) < REPLACED else error
    if energy < 0.5 * whole or energy < 9.0:
        return None
    across = float((rest[:, :, 1:] * rest[:, :, :-1]).mean()) / energy
    along = float((rest[:, 1:] * rest[:, :-1]).mean()) / energy
    far = float((rest[:, 4:, 4:] * rest[:, :-4, :-4]).mean()) / energy if min(rest.shape[1:3]) > 8 else 0.0
    if max(abs(across), abs(along), abs(far)) < 0.2:
        few = float(np.mean(np.square(rest).sum(axis=3) < 0.05 * energy))
        if few > 0.8:
            return "single bright or dark pixels (salt and pepper, speckle noise)", 1 - 2 * abs(far)
        kind = "noise" if abs(scale) < REPLACED else "added noise (grain)"
        return kind, 1 - max(abs(across), abs(along), abs(far))
    return None


def region(sums: ErrorSums, frames: npt.NDArray[np.int64]) -> tuple[slice, slice] | None:
    """Return rows and columns of the rectangle that holds nearly all of the error, ``None`` if there is none."""
    energy = sums.blocks[frames].sum(axis=0)
    loud = energy > 0.02 * energy.max()
    rows, columns = np.flatnonzero(loud.any(axis=1)), np.flatnonzero(loud.any(axis=0))
    box = slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)
    inside = energy[box]
    if inside.size > 0.5 * energy.size or inside.sum() < 0.97 * energy.sum() or loud[box].mean() < 0.8:
        return None
    return slice(box[0].start * BLOCK, box[0].stop * BLOCK), slice(box[1].start * BLOCK, box[1].stop * BLOCK)


def sharp(golden: Array, candidate: Array, box: tuple[slice, slice]) -> tuple[slice, slice]:
    """Narrow a box of blocks to the pixels that hold its error."""
    energy = np.square(candidate[:, box[0], box[1]] - golden[:, box[0], box[1]]).sum(axis=(0, 3))
    rows, columns = (np.flatnonzero(energy.mean(axis=axis) > 0.05 * energy.mean()) for axis in (1, 0))
    if not len(rows) or not len(columns):
        return box
    return (
        slice(box[0].start + int(rows[0]), box[0].start + int(rows[-1]) + 1),
        slice(box[1].start + int(columns[0]), box[1].start + int(columns[-1]) + 1),
    )


def patterns(pair: FramePair) -> Iterator[Explanation]:
    """Yield patterns that are the same in every frame: mesh, seams, tiles of another brightness."""
    if len(pair.golden) < 2:
        overlay, frames = pair.difference[0], pair.difference
    else:
        # taken from even frames and scored on odd ones: noise that happens once is no pattern
        overlay, frames = pair.difference[::2].mean(axis=0), pair.difference[1::2]
    error = float(np.square(frames).mean())
    if error <= 0:
        return
    share = 1 - float(np.square(frames - overlay).mean()) / error
    energy = float(np.square(overlay).mean())
    if energy > 0.04 and share > 0.25:
        periodic = _periodic(overlay)
        if periodic > 0.5:
            text = "a fine mesh lies over every frame (crosshatch, grid: a pattern that repeats in space)"
            yield Explanation("mesh", share, 3, text, values={"periodic": periodic})
        lines = _lines(overlay)
        if lines > 0.6:
            text = "lines through the whole picture differ (seams, as between tiles of the VAE)"
            yield Explanation("tile_seams", share * lines, 3, text)
    flat = overlay.mean(axis=(0, 1))
    for rows, columns in GRIDS:
        parts = [tile for row in np.array_split(overlay, rows, axis=0) for tile in np.array_split(row, columns, axis=1)]
        means = [tile.mean(axis=(0, 1)) for tile in parts]
        explained = sum(
            float((mean**2).sum()) * tile.shape[0] * tile.shape[1] for mean, tile in zip(means, parts, strict=True)
        )
        plain = float((flat**2).sum()) * overlay.shape[0] * overlay.shape[1]
        whole = max(float(np.square(overlay).sum()), 1e-9)
        if (explained - plain) / whole > 0.2:
            text = f"tiles of a {rows}x{columns} grid differ in brightness or colour (tile seams)"
            yield Explanation("tile_seams", share * explained / whole, 3 + len(parts), text)


def _periodic(overlay: Array) -> float:
    """Return the share of a pattern's energy in its twelve strongest frequencies of 20 pixels a cycle or less."""
    grey = overlay.mean(axis=2)
    power = np.abs(np.fft.fft2(grey - grey.mean())) ** 2
    total = float(power.sum())
    cycles = np.minimum(np.arange(grey.shape[0]), grey.shape[0] - np.arange(grey.shape[0]))
    along = np.minimum(np.arange(grey.shape[1]), grey.shape[1] - np.arange(grey.shape[1]))
    high = np.maximum(cycles[:, None] / grey.shape[0], along[None, :] / grey.shape[1]) >= 1 / 20
    strongest = np.sort(power[high])[-12:].sum()
    return float(strongest) / total if total > 0 else 0.0


def _lines(overlay: Array) -> float:
    """Return the share of a pattern's energy that lies in few whole rows or columns."""
    energy = np.square(overlay).sum(axis=2)
    best = 0.0
    loud = []
    for axis in (1, 0):
        profile = energy.mean(axis=axis)
        loud.append(profile > 6 * max(float(np.median(profile)), 1e-6))
    for rows, columns in ((loud[0], np.zeros_like(loud[1])), (np.zeros_like(loud[0]), loud[1]), (loud[0], loud[1])):
        if rows.mean() <= 0.12 and columns.mean() <= 0.12 and (rows.any() or columns.any()):
            mask = rows[:, None] | columns[None, :]
            spread = min(
                (float((energy[rows] > 0.1 * energy[rows].mean()).mean()) if rows.any() else 1.0),
                (float((energy[:, columns] > 0.1 * energy[:, columns].mean()).mean()) if columns.any() else 1.0),
            )
            if spread > 0.4:
                best = max(best, float(energy[mask].sum() / max(energy.sum(), 1e-9)))
    return best
