"""How a pair of clips moves: amount of change, and which moment of the golden each frame of the candidate is like."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True)
class TimeStatistics:
    """What is read off the block means of both clips together."""

    golden_change: float
    """Root mean square change of a block mean from frame to frame, levels of 255; 0 for a single frame."""
    candidate_change: float
    """The same of the candidate."""
    distance: npt.NDArray[np.floating]
    """[T, T]: mean squared difference of candidate frame i to golden frame j, squared levels of 255.

    Each clip's mean over time is taken off first: what stays the same says nothing about order.
    """


def time_statistics(golden: npt.NDArray[np.float32], candidate: npt.NDArray[np.float32]) -> TimeStatistics:
    """Statistics of two series of block means [T, rows, columns, 3] of one shape.

    In float32: the distances round at a thousandth of a squared level, far under what is called noticeable.
    """
    means = [side.reshape(len(side), -1) for side in (golden, candidate)]
    one, two = (side - side.mean(axis=0) for side in means)
    energy = [np.einsum("tn,tn->t", side, side) for side in (one, two)]
    squared = energy[1][:, None] + energy[0][None, :] - 2.0 * (two @ one.T)
    distance: npt.NDArray[np.floating] = np.maximum(squared, 0.0) / one.shape[1]
    return TimeStatistics(_change(means[0]), _change(means[1]), distance)


def _change(means: npt.NDArray[np.float32]) -> float:
    """Root mean square of the steps of [T, N]."""
    if len(means) < 2:
        return 0.0
    steps = (means[1:] - means[:-1]).ravel()
    return float(np.sqrt(np.dot(steps, steps) / steps.size))
