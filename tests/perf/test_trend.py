"""Change points: found where the level moved, and nowhere else."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.perf.trend import LEAST_POINTS, change_points


def series(*levels: tuple[int, float], noise: float = 0.01, seed: int = 0) -> list[float]:
    random = np.random.default_rng(seed)
    whole = np.concatenate([np.full(count, level) for count, level in levels])
    return [float(value) for value in whole * np.exp(random.normal(0, noise, len(whole)))]


def test_a_step_of_ten_percent_is_found_at_its_place() -> None:
    found = change_points(series((20, 1.0), (15, 1.1)))
    assert [change.index for change in found] == [20]
    assert found[0].ratio == pytest.approx(1.1, abs=0.02)


def test_two_steps_are_two_changes() -> None:
    found = change_points(series((20, 1.0), (20, 1.2), (20, 0.9)))
    assert [change.index for change in found] == [20, 40]
    assert found[1].ratio == pytest.approx(0.75, abs=0.02)


def test_a_level_series_has_none_in_a_hundred() -> None:
    assert sum(bool(change_points(series((60, 1.0), noise=0.02, seed=seed))) for seed in range(100)) == 0


def test_transients_are_none_not_even_two_in_a_row_or_at_an_end() -> None:
    values = series((40, 1.0))
    for place in (0, 7, 8, 19, 33, 39):
        values[place] *= 1.6
    assert change_points(values) == ()


def test_a_change_that_is_not_worth_telling_is_none() -> None:
    assert change_points(series((40, 1.0), (40, 1.02), noise=0.001)) == ()


def test_few_runs_and_broken_values_have_none() -> None:
    assert change_points([1.0] * (LEAST_POINTS - 1)) == ()
    assert change_points([1.0] * 10 + [0.0] * 10) == ()
    assert change_points([1.0] * 20) == ()


@settings(max_examples=20, deadline=None)
@given(unit=st.floats(1e-3, 1e6), seed=st.integers(0, 50))
def test_the_unit_means_nothing(unit: float, seed: int) -> None:
    values = series((15, 1.0), (15, 1.3), seed=seed)
    assert [one.index for one in change_points(values)] == [
        one.index for one in change_points([unit * v for v in values])
    ]
