"""Is a measurement on its way to its limit? Asked while every run still passes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

from harness.report.history.store import Point

FEWEST = 5
"""Runs below which no trend is claimed: with four, Kendall's test cannot reach the level at all."""
LEVEL = 0.05


@dataclass(frozen=True)
class Drift:
    """A series of margins consumed, oldest first, of one case, metric, runner and golden."""

    runs: int
    latest: float | None
    slope: float | None
    """Share of the margin a run, by Theil and Sen (median of pairwise slopes); ``None`` without a trend."""
    runs_left: int | None
    """Runs until the limit at this slope; ``None`` without a rising trend."""

    @property
    def rising(self) -> bool:
        """Whether the margin is being used up."""
        return self.slope is not None and self.slope > 0


def drift(points: Sequence[Point]) -> Drift:
    """Look for a monotonic trend in ``margin_consumed`` since the golden or the runner last changed.

    Kendall's tau against the order of runs (two-sided, level ``LEVEL``) says whether there is one, the Theil-Sen
    estimator how steep it is: neither minds a single outlier.
    """
    values = [point.margin_consumed for point in same_basis(points)]
    margins = [value for value in values if value is not None and math.isfinite(value)]
    latest = margins[-1] if margins else None
    if len(margins) < FEWEST or len(set(margins)) == 1:
        return Drift(len(margins), latest, None, None)
    from scipy.stats import kendalltau, theilslopes

    order = list(range(len(margins)))
    if not kendalltau(order, margins).pvalue < LEVEL:
        return Drift(len(margins), latest, None, None)
    slope = float(theilslopes(margins, order).slope)
    left = math.ceil((1.0 - margins[-1]) / slope - 1e-9) if slope > 0 and margins[-1] < 1 else None
    return Drift(len(margins), latest, slope, left)


def same_basis(points: Sequence[Point]) -> list[Point]:
    """The last points that share runner and golden: margins before that were measured against something else."""
    groups = [list(group) for _, group in groupby(points, key=lambda point: (point.runner, point.golden, point.limit))]
    return groups[-1] if groups else []


def sentence(found: Drift) -> str:
    """The drift in words; empty where there is none."""
    if found.slope is None:
        return ""
    if not found.rising:
        return f"recovering, {found.slope:+.1%} of the margin a run"
    if found.runs_left is None:
        return f"drifting, {found.slope:+.1%} of the margin a run, past its limit"
    return f"drifting, {found.slope:+.1%} of the margin a run: at its limit in about {found.runs_left} runs"
