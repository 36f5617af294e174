"""One pass over the pixels of a pair of clips. Every gating metric is a short formula over the sums it returns.

The pass is a numba kernel (`harness.frames.kernel`) that reads each row of both clips once. It runs on ranges of
frames, one thread per range: the kernel releases the GIL. OpenMP is not used because its idle threads spin, which makes
a shared machine several times slower. The first call in a fresh environment compiles the kernel, which takes longer
than comparing a clip (``python -m benchmarks.metrics`` prints the ratio); the result is cached on disk, beside the file
or in the user's cache folder.
"""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from harness.frames.clip import Clip
from harness.frames.errors import ClipMismatchError, FramesError

IMPLEMENTATION: Final = "numba"
"""Name of the pass in records, so that a result shows how it was computed."""
WINDOW: Final = 7
"""Side of SSIM's uniform window in pixels: scikit-image's default, and the window of SGLang's recipe."""
TILE: Final = 32
"""Side of a tile in pixels."""
BLOCK: Final = 8
"""Side of a block in pixels; the block means of a frame are its thumbnail."""
LUMA: Final = np.array([0.299, 0.587, 0.114])
"""Weights of R, G and B in luma (ITU-R BT.601)."""

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class ClipStatistics:
    """Sums over one clip whose values are 0..255."""

    sums: Ints
    """[T, 3]: sum of each channel."""
    squares: Ints
    """[T]: sum of squares over all channels."""
    laplacian: Floats
    """[T]: variance of the 4-neighbour Laplacian over the interior and all channels; 0 below 3x3 pixels."""
    motion: Ints
    """[T]: sum of absolute differences from the previous frame; 0 for the first frame."""
    thumbnails: npt.NDArray[np.float32]
    """[T, rows, columns, 3]: means of the blocks."""
    values: int
    """Number of values in a frame: height * width * 3."""

    @cached_property
    def channel_means(self) -> Floats:
        """Mean of each channel [T, 3], 0..255."""
        means: Floats = self.sums / (self.values / 3)
        return means

    @cached_property
    def deviation(self) -> Floats:
        """Standard deviation of each frame [T] around its channel means, all channels pooled, 0..127.5."""
        variance = self.squares / self.values - (self.channel_means**2).mean(axis=1)
        spread: Floats = np.sqrt(np.maximum(variance, 0.0))  # rounding can make the variance of a flat frame negative
        return spread


@dataclass(frozen=True)
class TimeStatistics:
    """Motion of a pair of clips and the similarity of every candidate frame to every golden frame."""

    golden_change: float
    """Root mean square change of a block mean between neighbouring frames, levels of 255; 0 for a single frame."""
    candidate_change: float
    """The same of the candidate."""
    distance: npt.NDArray[np.floating[Any]]
    """[T, T]: mean squared difference of candidate frame i and golden frame j, squared levels of 255.

    Each clip's mean over time is subtracted first: a constant background carries no information about order.
    """


@dataclass(frozen=True)
class PairStatistics:
    """Sums over a golden and a candidate of one shape."""

    shape: tuple[int, int, int, int]
    ssim_tiles: Floats | None
    """[T, rows, columns]: SUM of SSIM over the window centres of a tile and its channels; None below 7x7 pixels."""
    squared_error: Ints
    """[T]: sum of squared differences."""
    absolute_error: Ints
    """[T]: sum of absolute differences."""
    golden: ClipStatistics
    candidate: ClipStatistics

    @cached_property
    def time(self) -> TimeStatistics:
        """Motion and order of frames, computed when the first metric needs it."""
        return time_statistics(self.golden.thumbnails, self.candidate.thumbnails)

    @property
    def values(self) -> int:
        """Number of values in a frame, height * width * 3."""
        return self.shape[1] * self.shape[2] * self.shape[3]


def pair_statistics(golden: Clip, candidate: Clip, threads: int | None = None) -> PairStatistics:
    """Pass once over both clips. Working memory is a few rows per thread.

    Args:
        golden: uint8 [T, H, W, 3].
        candidate: the same shape.
        threads: CPU threads, by default `usable_threads`.

    Raises:
        ClipMismatchError: the shapes differ.
    """
    require_same_shape(golden, candidate)
    # Imported late: numba takes longer to import than reading a clip, and many commands read clips without comparing.
    from harness.frames.kernel import pair_pass

    count, height, width, channels = golden.shape
    windowed = fits_window(height, width)
    # Without a window the kernel still needs borders to read: those of the smallest frame that has one.
    tile_rows, tile_columns = tile_edges(height, width) if windowed else tile_edges(WINDOW, WINDOW)
    block_rows, block_columns = block_edges(height, width)
    tiles = np.zeros((count, len(tile_rows) - 1, len(tile_columns) - 1), dtype=np.float64)
    integers = np.zeros((count, 12), dtype=np.int64)
    laplacians = np.zeros((count, 4), dtype=np.int64)
    block_sums = np.zeros((2, count, len(block_rows) - 1, len(block_columns) - 1, 3), dtype=np.int32)
    # Rows stay interleaved (R G B R G B ...), as the kernel reads them.
    golden_rows, candidate_rows = (clip.frames.reshape(count, height, width * channels) for clip in (golden, candidate))
    borders = (tile_rows, tile_columns, block_rows, block_columns)

    def run(first: int, last: int) -> None:
        pair_pass(golden_rows, candidate_rows, first, last, *borders, tiles, integers, laplacians, block_sums)

    threads = max(1, min(threads or usable_threads(), count))
    starts = [count * part // threads for part in range(threads + 1)]
    if threads == 1:
        run(0, count)
    else:
        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(run, starts[:-1], starts[1:]))  # the list raises an exception of any thread

    # The Laplacian exists inside a border of one pixel. Smaller frames have none: sums of 0 over 1 value.
    interior = (height - 2) * (width - 2) * channels if min(height, width) >= 3 else 1

    def clip_statistics(side: int) -> ClipStatistics:
        total, squares = laplacians[:, 2 * side], laplacians[:, 2 * side + 1]
        return ClipStatistics(
            sums=integers[:, 2 + 3 * side : 5 + 3 * side],
            squares=integers[:, 8 + side],
            laplacian=squares / interior - (total / interior) ** 2,
            motion=integers[:, 10 + side],
            thumbnails=block_means(block_sums[side], height, width),
            values=height * width * channels,
        )

    return PairStatistics(
        shape=(count, height, width, channels),
        ssim_tiles=tiles if windowed else None,
        squared_error=integers[:, 0],
        absolute_error=integers[:, 1],
        golden=clip_statistics(0),
        candidate=clip_statistics(1),
    )


def time_statistics(golden: npt.NDArray[np.float32], candidate: npt.NDArray[np.float32]) -> TimeStatistics:
    """Compute motion and frame distances from two series of block means [T, rows, columns, 3] of one shape.

    In float32: the distances round at a thousandth of a squared level, far below any limit of the metrics.
    """
    means = [side.reshape(len(side), -1) for side in (golden, candidate)]
    golden_moving, candidate_moving = (side - side.mean(axis=0) for side in means)
    golden_energy, candidate_energy = (np.einsum("tn,tn->t", side, side) for side in (golden_moving, candidate_moving))
    # |c - g|^2 = |c|^2 + |g|^2 - 2 c g: one matrix product instead of T^2 differences of frames
    squared = candidate_energy[:, None] + golden_energy[None, :] - 2.0 * (candidate_moving @ golden_moving.T)
    distance: npt.NDArray[np.floating[Any]] = np.maximum(squared, 0.0) / golden_moving.shape[1]
    return TimeStatistics(_change(means[0]), _change(means[1]), distance)


def _change(means: npt.NDArray[np.float32]) -> float:
    """Return the root mean square of the differences between neighbouring rows of [T, N]."""
    if len(means) < 2:
        return 0.0
    steps = (means[1:] - means[:-1]).ravel()
    return float(np.sqrt(np.dot(steps, steps) / steps.size))


def edges(length: int, step: int, minimum: int) -> Ints:
    """Return the borders [n + 1] of strips ``step`` long over ``length``.

    A rest shorter than ``minimum`` joins the strip before it: ``edges(70, 32, 16)`` is ``[0, 32, 70]``.
    """
    count = max(1, (length + step - minimum) // step)
    return np.append(np.arange(count, dtype=np.int64) * step, length)


def tile_edges(height: int, width: int) -> tuple[Ints, Ints]:
    """Return the borders of the tiles, rows and columns, counted in window centres; the first centre is pixel 3."""
    inset = WINDOW - 1
    return edges(height - inset, TILE, TILE // 2), edges(width - inset, TILE, TILE // 2)


def block_edges(height: int, width: int) -> tuple[Ints, Ints]:
    """Return the borders of the blocks in pixels, rows and columns."""
    return edges(height, BLOCK, BLOCK), edges(width, BLOCK, BLOCK)


def block_means(sums: npt.NDArray[np.signedinteger[Any]], height: int, width: int) -> npt.NDArray[np.float32]:
    """Divide block sums [T, rows, columns, 3] by the pixels of each block."""
    rows, columns = block_edges(height, width)
    area = np.diff(rows)[:, None] * np.diff(columns)[None, :]
    means = sums.astype(np.float32)  # exact: the sum of a block of bytes stays below 2**24
    means /= area[None, :, :, None].astype(np.float32)
    return means


def fits_window(height: int, width: int) -> bool:
    """Return whether SSIM's window fits into the frame."""
    return min(height, width) >= WINDOW


def usable_threads() -> int:
    """Return the cores that this process may use, shared among pytest-xdist's workers, at least 1.

    ``QUANTGATE_THREADS`` sets the number outright. More threads than that would be slower than one, because the
    workers would compete for the cores.

    Raises:
        FramesError: ``QUANTGATE_THREADS`` is not a whole number.
    """
    stated = os.environ.get("QUANTGATE_THREADS", "")
    if stated:
        try:
            return max(1, int(stated))
        except ValueError:
            raise FramesError(f"QUANTGATE_THREADS is {stated!r}; set it to a whole number, or unset it") from None
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    workers = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    return max(1, cores // max(1, workers))


def require_same_shape(golden: Clip, candidate: Clip) -> None:
    """Raise if two clips differ in shape.

    Raises:
        ClipMismatchError: names the sides that differ, for example ``frames 4 instead of 5``.
    """
    if golden.shape == candidate.shape:
        return
    sides = zip(("frames", "height", "width", "channels"), golden.shape, candidate.shape, strict=True)
    differences = [f"{name} {actual} instead of {expected}" for name, expected, actual in sides if expected != actual]
    raise ClipMismatchError(f"the candidate does not have the golden's shape: {', '.join(differences)}")
