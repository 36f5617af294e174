"""The CPU's pass: calls the fused numba kernel on ranges of frames, one thread each.

Threads, not OpenMP: the kernel releases the GIL, and idle OpenMP threads that spin make a shared machine several times
slower. The first call in a fresh environment compiles the kernel, which takes longer than comparing a clip (the ratio
is printed by ``python -m benchmarks.metrics``); the result is cached on disk, beside this file or in the user's cache.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
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


def fused_statistics(golden: Bytes, candidate: Bytes, threads: int = 1) -> PairStatistics:
    """Statistics of a pair of uint8 arrays [T, H, W, 3] of one shape. Working memory is a few rows a thread."""
    from harness.frames.kernels.numba_rows import pair_pass

    count, height, width, channels = golden.shape
    windowed = large_enough(height, width)
    rows, columns = tile_edges(height, width) if windowed else tile_edges(WINDOW, WINDOW)
    block_rows, block_columns = block_edges(height, width)
    tiles = np.zeros((count, len(rows) - 1, len(columns) - 1), dtype=np.float64)
    integers = np.zeros((count, 12), dtype=np.int64)
    laplacians = np.zeros((count, 4), dtype=np.int64)
    thumbnails = np.zeros((2, count, len(block_rows) - 1, len(block_columns) - 1, 3), dtype=np.int32)
    flat = (golden.reshape(count, height, width * channels), candidate.reshape(count, height, width * channels))

    def span(first: int, last: int) -> None:
        pair_pass(*flat, first, last, rows, columns, block_rows, block_columns, tiles, integers, laplacians, thumbnails)

    threads = max(1, min(threads, count))
    borders = [count * part // threads for part in range(threads + 1)]
    if threads == 1:
        span(0, count)
    else:
        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(span, borders[:-1], borders[1:]))

    interior = max(1, (height - 2) * (width - 2) * channels) if min(height, width) >= 3 else 1

    def side(index: int) -> ClipStatistics:
        total, squares = laplacians[:, 2 * index], laplacians[:, 2 * index + 1]
        return ClipStatistics(
            sums=integers[:, 2 + 3 * index : 5 + 3 * index],
            squares=integers[:, 8 + index],
            laplacian=squares / interior - (total / interior) ** 2,
            motion=integers[:, 10 + index],
            fetch_thumbnails=partial(block_means, thumbnails[index], height, width),
        )

    sides = side(0), side(1)
    return PairStatistics(
        shape=(count, height, width, channels),
        ssim_tiles=tiles if windowed else None,
        squared_error=integers[:, 0],
        absolute_error=integers[:, 1],
        golden=sides[0],
        candidate=sides[1],
        over_time=lambda: time_statistics(sides[0].thumbnails, sides[1].thumbnails),
    )
