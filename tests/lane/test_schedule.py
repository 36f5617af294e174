"""Longest first, against brute force and against the published bounds."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.lane.plan import Unit, lower_bound, lpt, makespan, split_long

TIMES = st.lists(st.floats(min_value=0.1, max_value=1000), min_size=1, max_size=7)


def units(times: list[float]) -> list[Unit]:
    """One engine of one case for each time."""
    return [Unit(f"e{index}", 0.0, ((f"c{index}", time),)) for index, time in enumerate(times)]


def best(times: list[float], machines: int) -> float:
    """The least makespan, by trying every assignment."""
    return min(
        max(
            sum(time for time, place in zip(times, places, strict=True) if place == machine)
            for machine in range(machines)
        )
        for places in itertools.product(range(machines), repeat=len(times))
    )


@settings(deadline=None, max_examples=60)
@given(TIMES, st.integers(1, 3))
def test_lpt_keeps_grahams_bound_and_the_lower_bound_is_one(times: list[float], machines: int) -> None:
    plan = lpt(units(times), machines)
    least = best(times, machines)
    assert sorted(unit.key for one in plan for unit in one) == sorted(unit.key for unit in units(times))
    assert makespan(plan) <= least * (4 / 3 - 1 / (3 * machines)) * (1 + 1e-9)
    assert lower_bound(units(times), machines) <= least * (1 + 1e-9)


def test_longest_first_on_each_machine() -> None:
    plan = lpt(units([1, 5, 3, 4, 2]), 2)
    assert [[unit.seconds for unit in one] for one in plan] == [[5, 2, 1], [4, 3]]


def test_ties_are_broken_the_same_way_whatever_the_order() -> None:
    some = units([2, 2, 2, 1, 1])
    assert lpt(some, 2) == lpt(list(reversed(some)), 2)


def test_an_engine_stays_whole_while_another_is_as_long() -> None:
    whole = [Unit("a", 10, (("a1", 5), ("a2", 5))), Unit("b", 10, (("b1", 5), ("b2", 5)))]
    assert split_long(whole, 2) == (whole, ())


def test_an_engine_longer_than_the_ideal_is_spread_and_loads_again() -> None:
    long = Unit("a", 10, tuple((f"a{index}", 100.0) for index in range(4)))
    parts, splits = split_long([long, Unit("b", 10, (("b1", 20.0),))], 2)
    assert [(split.key, split.parts) for split in splits] == [("a", 2)]
    assert sum(unit.load for unit in parts if unit.key.startswith("a/")) == 20
    assert makespan(lpt(parts, 2)) < long.seconds
    assert sorted(case for unit in parts for case, _ in unit.cases) == ["a0", "a1", "a2", "a3", "b1"]


def test_an_engine_is_not_spread_where_loading_again_costs_more() -> None:
    heavy = Unit("a", 1000, (("a1", 1.0), ("a2", 1.0)))
    assert split_long([heavy], 2) == ([heavy], ())


def test_no_machine_is_no_plan() -> None:
    with pytest.raises(ValueError, match="at least one machine"):
        lpt([], 0)
