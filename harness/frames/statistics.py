"""What one pass over a pair of clips brings back. Every gating metric is a short formula over these numbers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from harness.frames.clip import Clip
from harness.frames.errors import ClipMismatchError, MetricUnavailableError
from harness.frames.time_statistics import TimeStatistics

Implementation = Literal["numba", "triton", "torch", "scikit-image"]
IMPLEMENTATIONS: tuple[Implementation, ...] = ("numba", "triton", "torch", "scikit-image")

WINDOW = 7
"""Side of SSIM's uniform window, as in scikit-image's default and SGLang's recipe."""
TILE = 32
"""Side of a tile in pixels."""
BLOCK = 8
"""Side of a block of the thumbnails in pixels."""

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class ClipStatistics:
    """Sums over one clip, values 0..255."""

    sums: Ints
    """[T, 3]: sum of each channel."""
    squares: Ints
    """[T]: sum of squares over all channels."""
    laplacian: Floats
    """[T]: variance of the 4-neighbour Laplacian over the interior and all channels; 0 below 3x3 pixels."""
    motion: Ints
    """[T]: sum of absolute differences to the frame before; 0 for the first."""
    fetch_thumbnails: Callable[[], npt.NDArray[np.float32]]
    """Brings the thumbnails from where they were computed."""

    @cached_property
    def thumbnails(self) -> npt.NDArray[np.float32]:
        """[T, rows, columns, 3]: block means."""
        return self.fetch_thumbnails()


@dataclass(frozen=True)
class PairStatistics:
    """Sums over a pair."""

    shape: tuple[int, int, int, int]
    ssim_tiles: Floats | None
    """[T, rows, columns]: SUM of SSIM over the window centres of a tile and its channels; None below 7x7 pixels."""
    squared_error: Ints
    """[T]"""
    absolute_error: Ints
    """[T]"""
    golden: ClipStatistics
    candidate: ClipStatistics
    over_time: Callable[[], TimeStatistics]
    """Computes `time` where the thumbnails lie: on a GPU they are larger than everything else that comes back."""

    @cached_property
    def time(self) -> TimeStatistics:
        """Change over time and order of frames, computed when the first metric asks."""
        return self.over_time()

    @property
    def values(self) -> int:
        """Number of values in a frame, height * width * 3."""
        return self.shape[1] * self.shape[2] * self.shape[3]


def edges(length: int, step: int, minimum: int) -> npt.NDArray[np.int64]:
    """Borders [n + 1] of strips ``step`` long over ``length``; a rest under ``minimum`` joins the strip before it."""
    count = max(1, (length + step - minimum) // step)
    return np.append(np.arange(count, dtype=np.int64) * step, length)


def tile_edges(height: int, width: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Borders of the tiles, rows and columns, counted in window centres; the first centre is pixel 3."""
    inset = WINDOW - 1
    return edges(height - inset, TILE, TILE // 2), edges(width - inset, TILE, TILE // 2)


def block_edges(height: int, width: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Borders of the thumbnails' blocks in pixels, rows and columns."""
    return edges(height, BLOCK, BLOCK), edges(width, BLOCK, BLOCK)


def block_means(sums: npt.NDArray[np.signedinteger[Any]], height: int, width: int) -> npt.NDArray[np.float32]:
    """Block sums [T, rows, columns, 3] over the pixels of each block."""
    rows, columns = block_edges(height, width)
    area = np.diff(rows)[:, None] * np.diff(columns)[None, :]
    means = sums.astype(np.float32)  # a block of bytes has fewer than 2**24 levels: exact
    means /= area[None, :, :, None].astype(np.float32)
    return means


def large_enough(height: int, width: int) -> bool:
    """Whether SSIM's window fits into the frame."""
    return min(height, width) >= WINDOW


def pair_statistics(
    golden: Clip,
    candidate: Clip,
    implementation: Implementation | None = None,
    device: str = "cpu",
    threads: int | None = None,
) -> PairStatistics:
    """Pass once over both clips.

    Args:
        golden: uint8 [T, H, W, 3].
        candidate: the same shape.
        implementation: ``numba`` (the CPU's default: fused running sums), ``triton`` (a CUDA device's: fused as
            well), ``torch`` (elsewhere, and where Triton cannot run) or ``scikit-image`` (the reference, slow).
        device: a torch device; numba and scikit-image run on ``cpu`` only, triton on ``cuda``.
        threads: CPU threads, by default the usable cores shared among the xdist workers.

    Raises:
        ClipMismatchError: the shapes differ.
        MetricUnavailableError: the implementation cannot run on the device.
    """
    require_same_shape(golden, candidate)
    chosen = implementation or default_implementation(device)
    if chosen in ("numba", "scikit-image") and device != "cpu":
        raise MetricUnavailableError(f"{chosen} runs on the CPU, not on {device}; choose implementation='torch'")
    if chosen == "numba":
        from harness.frames.kernels.fused import fused_statistics
        from harness.frames.threads import usable_threads

        return fused_statistics(golden.frames, candidate.frames, threads or usable_threads())
    if chosen == "torch" or chosen == "triton":
        from harness.frames.kernels.tensors import array_statistics

        return array_statistics(golden.frames, candidate.frames, device, chosen)
    if chosen == "scikit-image":
        from harness.frames.kernels.reference import reference_statistics

        return reference_statistics(golden.frames, candidate.frames)
    raise MetricUnavailableError(f"unknown implementation {chosen!r}; use one of {', '.join(IMPLEMENTATIONS)}")


def default_implementation(device: str) -> Implementation:
    """What passes over pixels on a device unless something else is asked for; receipts carry its name."""
    if device == "cpu":
        return "numba"
    from harness.frames.kernels.triton_path import why_not

    return "torch" if why_not(device) else "triton"


def require_same_shape(golden: Clip, candidate: Clip) -> None:
    """Refuse a pair of different shapes.

    Raises:
        ClipMismatchError: says which of count and size differs.
    """
    if golden.shape == candidate.shape:
        return
    names: Sequence[str] = ("frames", "height", "width", "channels")
    parts = [
        f"{name} {theirs} instead of {ours}"
        for name, ours, theirs in zip(names, golden.shape, candidate.shape, strict=True)
        if ours != theirs
    ]
    raise ClipMismatchError(f"the candidate does not have the golden's shape: {', '.join(parts)}")
