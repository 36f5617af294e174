"""Compute one-sided tolerance bounds: values that cover a stated share of healthy runs with a stated confidence.

Sources: S. S. Wilks (1941), "Determination of sample sizes for setting tolerance limits", for the bound by order
statistics; G. J. Hahn and W. Q. Meeker, "Statistical Intervals", for both; the factor k of normal theory is a quantile
of the noncentral t distribution.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

Way = Literal["order_statistic", "normal"]
NORMALITY = 0.01
"""Significance level: samples that the Shapiro-Wilk test rejects at it do not count as normal."""
LEAST_FOR_NORMALITY = 3


@dataclass(frozen=True)
class Bound:
    """An upper tolerance bound of a distance."""

    value: float
    way: Way
    n: int
    coverage: float
    """Promised share of healthy runs."""
    confidence: float
    attained: float
    """Share that the bound covers at that confidence: below ``coverage`` if there were too few runs."""
    k: float | None = None
    """Factor of the standard deviation, for ``normal``."""


def runs_needed(coverage: float, confidence: float) -> int:
    """Return the least n for which the worst of n runs covers ``coverage``: 1 - coverage^n >= confidence.

    Examples: 59 for 95 % / 95 %, 299 for 99 % / 95 %.
    """
    _check(coverage, confidence)
    # the small term: an exact integer that came out a hair too large would ask for one run more
    return math.ceil(math.log1p(-confidence) / math.log(coverage) - 1e-12)


def covered_by_worst(n: int, confidence: float) -> float:
    """Return the share of runs that the worst of ``n`` covers with ``confidence``, for any distribution."""
    return float((1.0 - confidence) ** (1.0 / n))


def k_factor(n: int, coverage: float, confidence: float) -> float:
    """Return factor k of normal theory: mean + k * s covers ``coverage`` with ``confidence``.

    Raises:
        ValueError: ``n`` is below 2, or a share lies outside (0, 1).
    """
    from scipy.stats import nct, norm

    _check(coverage, confidence)
    if n < 2:
        raise ValueError("a standard deviation needs two runs")
    root = math.sqrt(n)
    return float(nct.ppf(confidence, n - 1, norm.ppf(coverage) * root) / root)


def tolerance_bound(distances: Sequence[float], coverage: float, confidence: float) -> Bound:
    """Return an upper bound of healthy distances, never below the worst run.

    With :func:`runs_needed` runs or more it is the worst run, which needs no assumption. With fewer it comes from
    normal theory if the runs may be normal. If not, it is the worst run, which covers less than promised: ``attained``.

    Args:
        distances: distances of distinct runs, at least one.
        coverage: share of runs to cover, in (0, 1).
        confidence: in (0, 1).

    Raises:
        ValueError: no run, or shares outside (0, 1).
    """
    _check(coverage, confidence)
    n = len(distances)
    if not n:
        raise ValueError("a tolerance bound needs at least one run")
    worst = max(distances)
    if n >= runs_needed(coverage, confidence) or not may_be_normal(distances):
        return Bound(worst, "order_statistic", n, coverage, confidence, covered_by_worst(n, confidence))
    k = k_factor(n, coverage, confidence)
    mean = math.fsum(distances) / n
    deviation = math.sqrt(math.fsum((distance - mean) ** 2 for distance in distances) / (n - 1))
    # a healthy run that was seen must pass, whatever the theory expects
    return Bound(max(worst, mean + k * deviation), "normal", n, coverage, confidence, coverage, k)


def may_be_normal(distances: Sequence[float]) -> bool:
    """Return whether normal theory applies: three runs or more, not all equal, not rejected by Shapiro-Wilk."""
    if len(distances) < LEAST_FOR_NORMALITY:
        return False
    spread = max(distances) - min(distances)
    if spread <= 1e-12 * max(map(abs, distances)) or spread < 1e-300:
        return False
    from scipy.stats import shapiro

    # Rescale to [0, 1]: the test underflows on tiny numbers, and its result does not depend on location and scale.
    low = min(distances)
    return bool(shapiro([(distance - low) / spread for distance in distances]).pvalue >= NORMALITY)


def _check(coverage: float, confidence: float) -> None:
    if not (0.0 < coverage < 1.0 and 0.0 < confidence < 1.0):
        raise ValueError(f"coverage {coverage} and confidence {confidence} lie between 0 and 1")
