"""Tolerance bounds against scipy's integrals, published tables and simulation."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from harness.limits.tolerance import covered_by_worst, k_factor, may_be_normal, runs_needed, tolerance_bound


@pytest.mark.parametrize(
    ("coverage", "confidence", "runs"), [(0.95, 0.95, 59), (0.99, 0.95, 299), (0.90, 0.95, 29), (0.99, 0.99, 459)]
)
def test_runs_needed_as_in_the_tables_of_wilks(coverage: float, confidence: float, runs: int) -> None:
    assert runs_needed(coverage, confidence) == runs
    # the share below the greatest of n is Beta(n, 1)
    assert stats.beta(runs, 1).sf(coverage) >= confidence > stats.beta(runs - 1, 1).sf(coverage)


@given(st.integers(1, 500), st.floats(0.5, 0.999))
def test_what_the_worst_covers_is_a_quantile_of_beta(n: int, confidence: float) -> None:
    assert covered_by_worst(n, confidence) == pytest.approx(stats.beta(n, 1).ppf(1 - confidence), rel=1e-9)


@pytest.mark.parametrize(
    ("n", "k"),
    [(5, 4.202), (10, 2.911), (20, 2.396), (50, 2.065)],  # NIST/SEMATECH handbook 7.2.6.3, 95 % / 95 %
)
def test_k_as_in_the_published_table(n: int, k: float) -> None:
    assert k_factor(n, 0.95, 0.95) == pytest.approx(k, abs=2e-3)


def test_the_bound_by_hand() -> None:
    bound = tolerance_bound([1.0, 2.0, 3.0, 4.0, 5.0], 0.95, 0.95)
    assert bound.way == "normal"
    assert bound.value == pytest.approx(3.0 + 4.2027 * np.sqrt(2.5), abs=2e-3)
    assert bound.attained >= bound.coverage


def test_enough_runs_need_no_assumption() -> None:
    values = list(np.random.default_rng(0).normal(5, 1, 59))
    bound = tolerance_bound(values, 0.95, 0.95)
    assert (bound.way, bound.value, bound.attained >= bound.coverage) == ("order_statistic", max(values), True)


def test_few_runs_that_are_not_normal_say_that_they_are_too_few() -> None:
    values = [1.0] * 19 + [50.0]
    bound = tolerance_bound(values, 0.95, 0.95)
    assert (bound.way, bound.value, bound.attained >= bound.coverage) == ("order_statistic", 50.0, False)
    assert bound.attained == pytest.approx(0.05 ** (1 / 20))


def test_runs_without_spread_are_not_normal() -> None:
    assert not may_be_normal([0.0] * 10)
    assert not may_be_normal([0.25] * 10)
    assert tolerance_bound([0.0] * 10, 0.95, 0.95).value == 0.0


def test_normal_theory_keeps_its_promise_in_simulation() -> None:
    random = np.random.default_rng(1)
    kept = 0
    for _ in range(600):
        sample = random.normal(10.0, 1.0, 10)
        kept += stats.norm(10.0, 1.0).cdf(tolerance_bound(list(sample), 0.9, 0.9).value) >= 0.9
    # 600 draws of a share of .9: four standard errors are .05. The normality test may only add to what is lost.
    assert kept / 600 > 0.85


@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=80), st.floats(0.5, 0.99), st.floats(0.5, 0.99))
def test_the_bound_is_never_below_the_worst_run(values: list[float], coverage: float, confidence: float) -> None:
    bound = tolerance_bound(values, coverage, confidence)
    assert bound.value >= max(values)
    assert np.isfinite(bound.value)
    assert 0 < bound.attained < 1 or bound.n == 1


@pytest.mark.parametrize(("coverage", "confidence"), [(0.0, 0.9), (1.0, 0.9), (0.9, 0.0), (0.9, 1.0)])
def test_shares_outside_0_and_1_are_refused(coverage: float, confidence: float) -> None:
    with pytest.raises(ValueError, match="between 0 and 1"):
        tolerance_bound([1.0], coverage, confidence)


def test_no_run_no_bound() -> None:
    with pytest.raises(ValueError, match="at least one run"):
        tolerance_bound([], 0.9, 0.9)
    with pytest.raises(ValueError, match="two runs"):
        k_factor(1, 0.9, 0.9)
