"""Two heaps are seen, one heap is never taken for two."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.limits.placing import find_modes


def test_a_published_bistable_case_has_two_modes() -> None:
    """SSIM .986 or .958, never between."""
    random = np.random.default_rng(0)
    near, far = 1 - 0.986, 1 - 0.958
    runs = [*(near + random.normal(0, 5e-4, 8)), *(far + random.normal(0, 5e-4, 5))]
    modes = find_modes(runs)
    assert [len(mode.runs) for mode in modes] == [8, 5]
    assert [mode.center for mode in modes] == pytest.approx([near, far], abs=1e-3)
    assert all(abs(mode.center - np.mean(runs)) > 5e-3 for mode in modes)


def test_bit_identical_heaps_are_modes_too() -> None:
    assert [len(mode.runs) for mode in find_modes([0.0, 0.0, 0.0, 0.03, 0.03, 0.03])] == [3, 3]


def test_three_modes() -> None:
    assert [mode.center for mode in find_modes([0.0] * 3 + [1.0] * 4 + [5.0] * 3)] == [0.0, 1.0, 5.0]


def test_one_far_run_is_no_mode() -> None:
    assert len(find_modes([0.1, 0.11, 0.12, 0.13, 9.0])) == 1
    assert len(find_modes([0.1, 0.11, 0.12, 0.13, 9.0, 9.1])) == 1


@pytest.mark.parametrize("draw", ["normal", "uniform", "lognormal", "exponential"])
def test_one_heap_is_hardly_ever_taken_for_two(draw: str) -> None:
    random = np.random.default_rng(2)
    wrong = sum(len(find_modes(getattr(random, draw)(size=size))) > 1 for size in (6, 8, 12, 30) for _ in range(500))
    assert wrong / 2000 < 0.01


@given(st.lists(st.floats(0, 1e3), min_size=1, max_size=40))
def test_every_run_is_in_exactly_one_mode(runs: list[float]) -> None:
    modes = find_modes(runs)
    assert sorted(runs) == [one for mode in modes for one in mode.runs]
    assert all(a.runs[-1] < b.runs[0] for a, b in pairwise(modes))
