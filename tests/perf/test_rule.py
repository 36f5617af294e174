"""The rule of times: what it calls slower, and what it must not. Expected values are computed by hand or by scipy."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from harness.perf.rule import LEAST_RUNS, Rule, compare_steps, compare_values, confirms, spread_of

RUNS = [[1.0, 1.01, 0.99, 1.0, 1.02, 0.98, 1.0, 1.01] for _ in range(6)]


def noisy(count: int, steps: int = 12, within: float = 0.02, between: float = 0.01, seed: int = 0) -> list[list[float]]:
    """Runs whose steps scatter by ``within`` around a speed that scatters by ``between``."""
    random = np.random.default_rng(seed)
    speeds = np.exp(random.normal(0, between, count))[:, None]
    return [list(map(float, run)) for run in speeds * np.exp(random.normal(0, within, (count, steps)))]


def slower(run: list[float], by: float) -> list[float]:
    return [(1 + by) * step for step in run]


def test_ten_percent_more_per_step_is_slower() -> None:
    *baseline, run = noisy(11)
    found = compare_steps(baseline, slower(run, 0.10))
    assert found.direction == "slower"
    assert found.p < 1e-3
    assert 1.06 < found.ratio < 1.14


def test_a_healthy_run_is_within() -> None:
    *baseline, run = noisy(11)
    assert compare_steps(baseline, run).direction == "within"


def test_a_significant_effect_below_the_smallest_worth_red_is_within() -> None:
    *baseline, run = noisy(21, within=0.001, between=0.001)
    found = compare_steps(baseline, slower(run, 0.04))
    assert found.p < 1e-6
    assert found.direction == "within"


def test_one_slow_step_is_not_a_slow_run() -> None:
    run = [*RUNS[0][:-1], 30.0]
    assert compare_steps(RUNS, run).direction == "within"


def test_half_of_the_steps_slow_is_not_hidden_by_the_other_half() -> None:
    run = [step * (1.4 if place % 8 else 1.0) for place, step in enumerate(RUNS[0])]
    assert compare_steps(RUNS, run).direction == "slower"


def test_run_to_run_noise_enters_although_the_steps_of_a_run_are_alike() -> None:
    """A rank test alone calls a run that is 8 % off significant; runs that scatter by 8 % say that it is not."""
    speeds = (0.9, 1.1, 0.95, 1.05, 1.0, 0.92, 1.08)
    baseline = [[speed * step for step in RUNS[0]] for speed in speeds]
    run = slower(RUNS[0], 0.12)
    pooled = [step for one in baseline for step in one]
    assert stats.mannwhitneyu(run, pooled, alternative="greater").pvalue < 1e-3
    assert compare_steps(baseline, run).direction == "within"


def test_an_improvement_is_told_and_is_not_slower() -> None:
    *baseline, run = noisy(11)
    found = compare_steps(baseline, slower(run, -0.36))
    assert found.direction == "faster"
    assert found.ratio == pytest.approx(0.64, abs=0.03)


def test_steps_are_compared_with_their_own_usual_time() -> None:
    """The second expert is half as fast; its steps being long is no evidence."""
    shape = [1.0] * 4 + [2.0] * 4
    baseline = [[speed * one for one in shape] for speed in (1.0, 1.01, 0.99, 1.0, 1.005)]
    found = compare_steps(baseline, [1.2 * one for one in shape])
    assert found.ratio == pytest.approx(1.2)
    assert found.direction == "slower"


def test_a_transient_in_the_baseline_does_not_hide_a_slow_run() -> None:
    *baseline, run = noisy(11)
    baseline[3] = slower(baseline[3], 0.5)
    found = compare_steps(baseline, slower(run, 0.10))
    assert found.direction == "slower"


def test_prediction_interval_by_hand() -> None:
    values = [math.exp(one) for one in (-0.02, -0.01, 0.0, 0.01, 0.02)]
    spread = spread_of(values)
    scale = math.sqrt((0.02**2 * 2 + 0.01**2 * 2) / 4)
    assert spread.location == pytest.approx(0.0)
    assert spread.scale == pytest.approx(scale)
    wanted = stats.t(df=4).ppf(0.999) * scale * math.sqrt(1 + math.pi / 2 / 5)
    assert spread.upper(1e-3) == pytest.approx(wanted)
    assert spread.p_above(wanted) == pytest.approx(1e-3)


def test_few_steps_leave_the_decision_to_the_runs() -> None:
    baseline = [[1.0], [1.01], [0.99], [1.0], [1.005]]
    found = compare_steps(baseline, [1.3])
    assert found.p_steps is None
    assert found.direction == "slower"


def test_equal_runs_do_not_make_a_zero_interval() -> None:
    found = compare_values([2.0] * LEAST_RUNS, 2.0)
    assert found.direction == "within"
    assert found.limit == pytest.approx(1.05)


@pytest.mark.parametrize("values", [[1.0] * (LEAST_RUNS - 1), [1.0, 1.0, 1.0, 1.0, 0.0], [1.0, 1, 1, 1, math.inf]])
def test_what_is_no_baseline_is_refused(values: list[float]) -> None:
    with pytest.raises(ValueError, match=r"baseline needs|positive and finite"):
        spread_of(values)


def test_another_number_of_steps_is_refused() -> None:
    with pytest.raises(ValueError, match="same number"):
        compare_steps(RUNS, [1.0, 1.0])


def test_a_further_generation_bears_a_slow_run_out_if_it_is_slow_too() -> None:
    *baseline, run = noisy(11)
    effect = Rule().effect
    for change, expected in ((0.12, True), (0.0, False), (-0.2, False)):
        compared = compare_steps(baseline, slower(run, change))
        assert confirms(compared.ratio, compared.p, effect) is expected
    assert confirms(1.07, 0.04, effect)
    assert confirms(1.07, None, effect)
    assert not confirms(1.07, 0.06, effect), "one healthy run in twenty lies as high"
    assert not confirms(1.04, 1e-6, effect), "certain, and too small"


@settings(max_examples=30, deadline=None)
@given(unit=st.floats(1e-6, 1e6), seed=st.integers(0, 1000), effect=st.floats(-0.5, 1.0))
def test_units_and_the_order_of_runs_mean_nothing(unit: float, seed: int, effect: float) -> None:
    *baseline, run = noisy(9, seed=seed)
    plain = compare_steps(baseline, slower(run, effect))
    other = compare_steps([slower(one, unit - 1) for one in reversed(baseline)], slower(slower(run, effect), unit - 1))
    assert other.ratio == pytest.approx(plain.ratio, rel=1e-6)
    assert other.p_runs == pytest.approx(plain.p_runs, rel=1e-5, abs=1e-12)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 1000), less=st.floats(0.0, 1.0), more=st.floats(0.01, 1.0))
def test_more_of_an_effect_is_never_less_evidence(seed: int, less: float, more: float) -> None:
    *baseline, run = noisy(9, seed=seed)
    small, large = (compare_steps(baseline, slower(run, by)) for by in (less, less + more))
    assert large.ratio > small.ratio
    if small.direction == "slower":
        assert large.direction == "slower"


def test_the_smallest_effect_is_the_cases() -> None:
    *baseline, run = noisy(11, within=0.005, between=0.002)
    assert compare_steps(baseline, slower(run, 0.08)).direction == "slower"
    assert compare_steps(baseline, slower(run, 0.08), Rule(effect=0.15)).direction == "within"
