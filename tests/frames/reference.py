"""Oracle of the pass over the pixels: scikit-image for SSIM, scipy for the Laplacian, numpy in int64 for the rest."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from harness.frames.clip import Bytes, Clip
from harness.frames.statistics import (
    WINDOW,
    ClipStatistics,
    PairStatistics,
    block_edges,
    block_means,
    fits_window,
    tile_edges,
)


def strip_sums(
    values: npt.NDArray[np.generic], rows: npt.NDArray[np.int64], columns: npt.NDArray[np.int64]
) -> npt.NDArray[np.generic]:
    """Return the sums of [H, W, ...] over the strips between the borders, [rows, columns, ...]."""
    down = np.add.reduceat(values, rows[:-1], axis=0)
    return np.add.reduceat(down, columns[:-1], axis=1)


def reference_statistics(golden: Clip, candidate: Clip) -> PairStatistics:
    """Compute the statistics of a pair of clips of one shape, frame by frame."""
    from skimage.metrics import structural_similarity

    count, height, width, channels = golden.shape
    tiles = []
    inset = WINDOW // 2
    for first, second in zip(golden.frames, candidate.frames, strict=True):
        if fits_window(height, width):
            _, ssim_map = structural_similarity(
                first, second, channel_axis=-1, full=True, win_size=WINDOW, data_range=255
            )
            inside = np.asarray(ssim_map)[inset : height - inset, inset : width - inset].sum(axis=2)
            tiles.append(strip_sums(inside, *tile_edges(height, width)))
    difference = golden.frames.astype(np.int64) - candidate.frames
    return PairStatistics(
        shape=(count, height, width, channels),
        ssim_tiles=np.array(tiles, dtype=np.float64) if tiles else None,
        squared_error=(difference**2).sum(axis=(1, 2, 3)),
        absolute_error=np.abs(difference).sum(axis=(1, 2, 3)),
        golden=clip_statistics(golden.frames),
        candidate=clip_statistics(candidate.frames),
    )


def clip_statistics(frames: Bytes) -> ClipStatistics:
    """Compute the statistics of uint8 frames [T, H, W, 3]."""
    from scipy.ndimage import laplace

    count, height, width, channels = frames.shape
    wide = frames.astype(np.int64)
    laplacians = np.zeros(count)
    motion = np.zeros(count, dtype=np.int64)
    thumbnails = []
    for index, frame in enumerate(wide):
        if min(height, width) >= 3:
            edges = np.stack([laplace(frame[:, :, channel]) for channel in range(3)], axis=-1)
            laplacians[index] = edges[1:-1, 1:-1].var()
        if index:
            motion[index] = np.abs(frame - wide[index - 1]).sum()
        thumbnails.append(strip_sums(frame, *block_edges(height, width)))
    return ClipStatistics(
        sums=wide.sum(axis=(1, 2)),
        squares=(wide**2).sum(axis=(1, 2, 3)),
        laplacian=laplacians,
        motion=motion,
        thumbnails=block_means(np.array(thumbnails), height, width),
        values=height * width * channels,
    )
