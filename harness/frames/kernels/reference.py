"""The reference pass: scikit-image for SSIM, numpy and scipy in float64 for the rest. Slow, and easy to believe."""

from __future__ import annotations

from functools import partial

import numpy as np
import numpy.typing as npt

from harness.frames.statistics import (
    WINDOW,
    ClipStatistics,
    PairStatistics,
    block_edges,
    block_means,
    large_enough,
    tile_edges,
)
from harness.frames.time_statistics import time_statistics

Bytes = npt.NDArray[np.uint8]


def strips(values: npt.NDArray[np.generic], rows: npt.NDArray[np.int64], columns: npt.NDArray[np.int64]) -> object:
    """Sums of [H, W, ...] over the strips between the borders, [rows, columns, ...]."""
    down = np.add.reduceat(values, rows[:-1], axis=0)
    return np.add.reduceat(down, columns[:-1], axis=1)


def reference_statistics(golden: Bytes, candidate: Bytes) -> PairStatistics:
    """Statistics of a pair of uint8 arrays [T, H, W, 3] of one shape, frame by frame."""
    from skimage.metrics import structural_similarity

    count, height, width, channels = golden.shape
    windowed = large_enough(height, width)
    tiles = []
    inset = WINDOW // 2
    for one, two in zip(golden, candidate, strict=True):
        if windowed:
            _, full = structural_similarity(  # type: ignore[no-untyped-call]
                one, two, channel_axis=-1, full=True, win_size=WINDOW, data_range=255
            )
            inside = np.asarray(full)[inset : height - inset, inset : width - inset].sum(axis=2)
            tiles.append(strips(inside, *tile_edges(height, width)))
    difference = [one.astype(np.int64) - two for one, two in zip(golden, candidate, strict=True)]
    sides = clip_statistics(golden), clip_statistics(candidate)
    return PairStatistics(
        shape=(count, height, width, channels),
        ssim_tiles=np.array(tiles, dtype=np.float64) if windowed else None,
        squared_error=np.array([(frame**2).sum() for frame in difference]),
        absolute_error=np.array([np.abs(frame).sum() for frame in difference]),
        golden=sides[0],
        candidate=sides[1],
        over_time=lambda: time_statistics(sides[0].thumbnails, sides[1].thumbnails),
    )


def clip_statistics(frames: Bytes) -> ClipStatistics:
    """Statistics of one uint8 array [T, H, W, 3]."""
    from scipy.ndimage import laplace

    count, height, width, _ = frames.shape
    laplacians = np.zeros(count)
    motion = np.zeros(count, dtype=np.int64)
    squares = np.zeros(count, dtype=np.int64)
    thumbnails = []
    for index, frame in enumerate(frames):
        wide = frame.astype(np.int64)
        squares[index] = (wide**2).sum()
        if min(height, width) >= 3:
            edges = np.stack([laplace(wide[:, :, channel]) for channel in range(3)], axis=-1)
            laplacians[index] = edges[1:-1, 1:-1].var()
        if index:
            motion[index] = np.abs(wide - frames[index - 1]).sum()
        thumbnails.append(strips(wide, *block_edges(height, width)))
    return ClipStatistics(
        sums=frames.sum(axis=(1, 2), dtype=np.int64),
        squares=squares,
        laplacian=laplacians,
        motion=motion,
        fetch_thumbnails=partial(block_means, np.array(thumbnails), height, width),
    )
