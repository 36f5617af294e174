"""One pass over both clips that locates the error: by frame, by block, by channel mean."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from harness.frames.hypotheses.pair import Array

BLOCK = 8
QUIET = 0.08
"""Share of the worst frame's squared error below which a frame is unaffected."""


class ErrorSums:
    """Sums of candidate - golden over frames, pixels and blocks, in levels of 255.

    Args:
        golden: uint8 [T, H, W, 3].
        candidate: the same shape.
    """

    def __init__(self, golden: npt.NDArray[np.uint8], candidate: npt.NDArray[np.uint8]) -> None:
        count, height, width, _ = golden.shape
        self.count, self.pixels = count, height * width
        self.squares = np.zeros(count)
        self.means = np.zeros((count, 3))
        rows, columns = np.arange(0, height, BLOCK), np.arange(0, width, BLOCK)
        self.blocks = np.zeros((count, len(rows), len(columns)))
        stride = max(1, int(np.ceil(np.sqrt(height * width / 8000))))
        self.small = _reduced(golden, stride), _reduced(candidate, stride)
        self.edges = rows, columns
        for index in range(count):
            difference = candidate[index].astype(np.float32) - golden[index]
            self.means[index] = difference.mean(axis=(0, 1))
            energy = np.square(difference).sum(axis=2)
            self.squares[index] = float(energy.sum(dtype=np.float64))
            self.blocks[index] = np.add.reduceat(np.add.reduceat(energy, rows, 0), columns, 1)

    @property
    def total(self) -> float:
        """Sum of squared errors of the clip."""
        return float(self.squares.sum())

    def affected(self) -> npt.NDArray[np.int64]:
        """Return the frames that hold nearly all of the error, or every frame if it is spread over all."""
        worst = self.squares.max()
        loud = np.flatnonzero(self.squares > QUIET * worst)
        if self.squares[loud].sum() < 0.93 * self.total:
            return np.arange(self.count)
        return loud


def _reduced(frames: npt.NDArray[np.uint8], stride: int) -> Array:
    """Return means of ``stride`` x ``stride`` pixels [T, h, w, 3], frame by frame to save memory."""
    if stride == 1:
        return frames.astype(np.float32)
    rows, columns = np.arange(0, frames.shape[1], stride), np.arange(0, frames.shape[2], stride)
    out = [
        np.add.reduceat(np.add.reduceat(frame.astype(np.float32), rows, 0), columns, 1) / stride**2 for frame in frames
    ]
    return np.stack(out)
