"""Decide whether a run is slower or larger than its baseline. Numbers in, numbers out: nothing here reads a file.

The question has two levels of noise. The steps of one run scatter around that run's own speed, and the speed scatters
from run to run: another clock, another neighbour, another page layout. A rank test of steps alone sees only the first
level: a run that is 2 % slower as a whole is "significant" at any level once it has enough steps. So a run is
called slower only if all of these hold (an intersection-union test, whose p is the largest of the two):

1. its median step is slower than the baseline's by more than the smallest effect worth red;
2. its median step lies outside the prediction interval that the *runs* of the baseline give for one more run;
3. its steps rank above the baseline's steps (Mann-Whitney), so that one slow step is not enough;

and two further generations, made at once, must each be slower too, by more than the smallest effect and at level
0.05: a disturbance that nobody sees (a neighbour on the host, a page scan) passes by. Healthy runs pay nothing for
that. One further generation was tried first: with 3 % of unseen disturbances it left 3 false alarms in 1,000
(`benchmarks.perf_power`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np


def _stats() -> Any:
    """scipy.stats, imported when a rule is computed: every command imports this module, and most need no statistics."""
    from scipy import stats

    return stats


Direction = Literal["within", "slower", "faster"]

LEAST_RUNS = 5
"""Fewest runs of a baseline: with four, the prediction interval is wider than any effect."""
SMALLEST_EFFECT = 0.05
LEVEL = 1e-3
"""Share of healthy runs that may lie outside the interval, before a second generation is made."""
CONFIRMATIONS = 2
"""Further generations that must confirm a run that is slower, or larger."""
CONFIRMING_LEVEL = 0.05
"""Share of healthy runs that may lie as high as a further generation that confirms."""
_OUTLIER = 4.0
"""Robust deviations from the median beyond which a run of the baseline is a transient and widens no interval."""
_SPREAD_FLOOR = 0.1
"""Floor of the spread of runs, as a share of the smallest effect: five equal runs are chance."""


@dataclass(frozen=True)
class Rule:
    """Smallest effect and significance level that make a run red."""

    effect: float = SMALLEST_EFFECT
    """Smallest relative effect: 0.05 is 5 %."""
    level: float = LEVEL


@dataclass(frozen=True)
class Spread:
    """Location and scale of a measure over the runs of a baseline, as natural logarithms of positive values."""

    location: float
    scale: float
    runs: int
    """Number of runs that the scale was computed from."""
    outliers: tuple[int, ...]
    """Indices of outliers, which do not count for the scale."""

    def upper(self, level: float) -> float:
        """Return the upper end of the one-sided prediction interval for a further run."""
        return self.location + float(_stats().t.ppf(1 - level, self.runs - 1)) * self._predicted()

    def p_above(self, value: float) -> float:
        """Return the probability that a further healthy run lies as high as ``value`` (a logarithm)."""
        return float(_stats().t.sf((value - self.location) / self._predicted(), self.runs - 1))

    def p_below(self, value: float) -> float:
        """Return the probability that a further healthy run lies as low as ``value`` (a logarithm)."""
        return float(_stats().t.cdf((value - self.location) / self._predicted(), self.runs - 1))

    def _predicted(self) -> float:
        # prediction of one more value: Student's t, scale * sqrt(1 + 1/n); the median costs pi/2 more than the mean
        return self.scale * math.sqrt(1 + math.pi / 2 / self.runs)


@dataclass(frozen=True)
class Comparison:
    """One run compared with its baseline."""

    direction: Direction
    ratio: float
    """Run over baseline: 1.12 is 12 % more."""
    p: float
    """The larger of ``p_runs`` and ``p_steps``, towards ``direction`` (or towards the ratio, if within)."""
    p_runs: float
    p_steps: float | None
    """``None`` if there are too few steps for a rank test to reach the level."""
    limit: float
    """Ratio from which on a run is slower, by its median step alone."""


def spread_of(values: Sequence[float], rule: Rule = Rule()) -> Spread:
    """Estimate the location and the scale of one measure over runs.

    Args:
        values: one positive value a run.
        rule: its smallest effect sets the floor of the scale.

    Raises:
        ValueError: fewer than ``LEAST_RUNS`` values, or a value that is not positive and finite.
    """
    if len(values) < LEAST_RUNS:
        raise ValueError(f"a baseline needs {LEAST_RUNS} runs, and there are {len(values)}")
    if not all(math.isfinite(value) and value > 0 for value in values):
        raise ValueError("a measure of time or memory must be positive and finite")
    logs = np.log(np.asarray(values, dtype=np.float64))
    floor = _SPREAD_FLOOR * rule.effect
    location = float(np.median(logs))
    robust = max(float(_stats().median_abs_deviation(logs, scale="normal")), floor)
    outliers = np.flatnonzero(np.abs(logs - location) > _OUTLIER * robust)
    inliers = np.delete(logs, outliers)
    scale = max(float(inliers.std(ddof=1)), floor)
    return Spread(location, scale, len(inliers), tuple(int(index) for index in outliers))


def compare_values(baseline: Sequence[float], value: float, rule: Rule = Rule()) -> Comparison:
    """Compare one value with one value a run of the baseline: a stage that runs once.

    Raises:
        ValueError: as `spread_of`.
    """
    spread = spread_of(baseline, rule)
    return _decide(spread, math.log(value), None, None, rule)


def compare_steps(baseline: Sequence[Sequence[float]], steps: Sequence[float], rule: Rule = Rule()) -> Comparison:
    """Compare the warm steps of a run with those of the runs of a baseline.

    Args:
        baseline: seconds of each warm step, run by run. All runs have as many steps as ``steps``.
        steps: seconds of each warm step of the run that is judged.
        rule: smallest effect and significance level.

    Raises:
        ValueError: as `spread_of`; no step at all, or another number of steps than the baseline's.
    """
    if not steps or any(len(run) != len(steps) for run in baseline):
        raise ValueError("the run and every run of its baseline must have the same number of warm steps")
    table = np.asarray(baseline, dtype=np.float64)
    usual = np.median(table, axis=0)  # a step has its own usual time: the experts are not equally fast
    relative, scaled = table / usual, np.asarray(steps, dtype=np.float64) / usual
    spread = spread_of([float(value) for value in np.median(relative, axis=1)], rule)
    above = below = None
    if 1 / math.comb(relative.size + scaled.size, scaled.size) <= rule.level:
        logged = math.log(float(np.median(scaled)))
        if logged > spread.location:
            above = float(_stats().mannwhitneyu(scaled, relative.ravel(), alternative="greater").pvalue)
        else:
            below = float(_stats().mannwhitneyu(scaled, relative.ravel(), alternative="less").pvalue)
    return _decide(spread, math.log(float(np.median(scaled))), above, below, rule)


def _decide(spread: Spread, value: float, above: float | None, below: float | None, rule: Rule) -> Comparison:
    ratio = math.exp(value - spread.location)
    up = value > spread.location
    p_runs = spread.p_above(value) if up else spread.p_below(value)
    p_steps = above if up else below
    p = max(p_runs, p_steps or 0.0)
    beyond = abs(value - spread.location) > math.log1p(rule.effect)
    direction: Direction = "within"
    if beyond and p < rule.level:
        direction = "slower" if up else "faster"
    limit = math.exp(max(math.log1p(rule.effect), spread.upper(rule.level) - spread.location))
    return Comparison(direction, ratio, p, p_runs, p_steps, limit)


def confirms(ratio: float, p: float | None, effect: float) -> bool:
    """Return whether a further generation bears out that a case is slower, or larger.

    It must exceed the baseline by more than the smallest effect, and one healthy run in twenty at most may lie as high.
    The second matters if the runs scatter by more than the effect: then healthy runs exceed it often.

    Args:
        ratio: value over its baseline.
        p: of its comparison, see `Comparison`; ``None``: there is none.
        effect: smallest relative effect.
    """
    return math.log(ratio) > math.log1p(effect) and (p is None or p < CONFIRMING_LEVEL)


LEAST_LEVELS = 4
"""Levels of memory below which no slope is claimed: three points bend by chance."""


def leak_per_run(levels: Sequence[float]) -> float | None:
    """Estimate by how much memory grows with every generation, for certain.

    Args:
        levels: bytes that were allocated when each generation began, in their order; the first, before caches are
            filled, left out.

    Returns:
        The lower end of the 95 % interval of the slope by Theil and Sen, in bytes a generation: the least growth.
        ``None`` with too few levels, or if it does not grow.
    """
    if len(levels) < LEAST_LEVELS:
        return None
    low = float(_stats().theilslopes(levels, np.arange(len(levels)), alpha=0.95).low_slope)
    return low if math.isfinite(low) and low > 0 else None
