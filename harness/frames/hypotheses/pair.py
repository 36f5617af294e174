"""Golden and candidate frames for fitting, and the score of a predicted clip."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from harness.frames.causes import EXPLANATIONS
from harness.frames.statistics import LUMA

Array = npt.NDArray[np.floating[Any]]
LUMA_601: Array = LUMA.astype(np.float32)
MOST_VALUES = 2_500_000
MOST_FRAMES = 9
"""Most values and most evenly spaced frames that a hypothesis reads if it is the same for every frame; at least two
frames. More would only cost time."""
MOST_LEFT = 0.15
"""Share of the golden's variance. With a larger residual the prediction shows another picture than the candidate."""
STRIP = 8
"""Rows of a strip. A fit reads every second strip and is scored on the others; the strips alternate between frames."""


@dataclass(frozen=True)
class Explanation:
    """One change of the golden's frames, and the share of the candidate's error that it explains."""

    code: str
    """One of `harness.frames.causes.EXPLANATIONS`."""
    share: float
    """1 - residual / error, squared levels, on values that the fit did not read; at most 1."""
    parameters: int
    """Free parameters of the fit."""
    sentence: str
    frames: tuple[int, ...] = ()
    """Affected frames; empty if all are."""
    values: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.code not in EXPLANATIONS:
            raise ValueError(f"{self.code!r} is not a code of harness.frames.causes.EXPLANATIONS; add it there")


class FramePair:
    """Frames of golden and candidate in float32 levels of 255, and the error to explain.

    Args:
        golden: [T, H, W, 3] in 0..255, any real dtype.
        candidate: the same shape.
    """

    def __init__(self, golden: npt.NDArray[Any], candidate: npt.NDArray[Any]) -> None:
        self.golden: Array = golden.astype(np.float32)
        self.candidate: Array = candidate.astype(np.float32)
        count, height = golden.shape[:2]
        parity = (np.arange(count)[:, None] + np.arange(height)[None, :] // STRIP) % 2
        if height < 2 * STRIP:
            parity = (np.arange(count)[:, None] + np.arange(height)[None, :]) % 2
        self.fit_rows: npt.NDArray[np.bool_] = parity == 0
        self.difference: Array = self.candidate - self.golden

    @cached_property
    def error(self) -> float:
        """Mean squared error of the values on which predictions are scored, in squared levels."""
        return float(np.square(self.difference[~self.fit_rows]).mean()) if (~self.fit_rows).any() else 0.0

    @cached_property
    def contrast(self) -> float:
        """Mean variance of the golden within a frame and channel, in squared levels."""
        return float(self.golden.var(axis=(1, 2)).mean())

    def share(self, prediction: Array) -> float:
        """Return 1 - residual / error of a predicted clip, clipped to 0..255, on values that no fit read."""
        if self.error <= 0.0:
            return 0.0
        test_rows = ~self.fit_rows
        residual = self.candidate[test_rows] - np.clip(prediction[test_rows], 0.0, 255.0)
        error = float(np.square(residual).mean())
        # Two unrelated pictures share their mean: a change that leaves another picture explains nothing.
        if error > MOST_LEFT * self.contrast + 2.0:
            return 0.0
        return 1.0 - error / self.error

    def solve(self, *basis: Array) -> npt.NDArray[np.float64]:
        """Return the least-squares factors of ``basis`` that explain the difference, fitted on unclipped values."""
        rows = self.fit_rows
        inside = (self.candidate[rows] > 0.5) & (self.candidate[rows] < 254.5)
        if inside.mean() < 0.05:  # nearly every value is clipped: fit on those rather than on noise
            inside = np.ones_like(inside)
        columns = [np.broadcast_to(term, self.golden.shape)[rows][inside].astype(np.float64) for term in basis]
        matrix = np.array([[float(a @ b) for b in columns] for a in columns])
        target = self.difference[rows][inside].astype(np.float64)
        projections = np.array([float(a @ target) for a in columns])
        # Scaled to unit length first: terms of very different size would make the matrix ill-conditioned.
        scale = np.sqrt(np.maximum(np.diag(matrix), 1e-12))
        solved = np.linalg.lstsq(matrix / np.outer(scale, scale), projections / scale, rcond=1e-8)[0]
        return np.asarray(solved / scale)


def thin(golden: npt.NDArray[Any], candidate: npt.NDArray[Any]) -> FramePair:
    """Pair evenly spaced frames of long or large clips, and every frame of all others."""
    per_frame = int(np.prod(golden.shape[1:]))
    most = min(MOST_FRAMES, max(2, MOST_VALUES // per_frame))
    if len(golden) <= most:
        return FramePair(golden, candidate)
    chosen = np.unique(np.linspace(0, len(golden) - 1, most).round().astype(int))
    return FramePair(golden[chosen], candidate[chosen])
