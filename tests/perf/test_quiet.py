"""What disturbed a run: each reason has its own name, and a machine a little below each bound is quiet."""

from __future__ import annotations

import sys
from typing import Any

import pytest

from harness.perf.quiet import cold_cache, disturbances
from harness.records.perf import LoadUsage

runs: Any = sys.modules["perf_runs"]  # tests/perf/conftest.py loads it
USUAL = 1755


@pytest.mark.parametrize(
    ("conditions", "cause", "words"),
    [
        ({"throttle": ("software thermal slowdown",), "temperature": 91}, "throttled", "at 91 degrees C"),
        ({"foreign": ("python (pid 7)",)}, "foreign_process", "shared with python (pid 7)"),
        ({"waiting": 0.06}, "cpu_shared", "6% of its runnable time"),
        ({"sm_clock": 1700}, "clocks", "1700 MHz, and the baseline at 1755 MHz"),
    ],
)
def test_each_disturbance_has_its_name(machine: Any, conditions: dict[str, Any], cause: str, words: str) -> None:
    [disturbance] = disturbances(machine.conditions(**conditions), USUAL)
    assert disturbance.cause == cause
    assert words in disturbance.message


@pytest.mark.parametrize(
    "conditions",
    [
        {},
        {"throttle": ("software power cap",)},  # a kernel that draws more power is slower by its own doing
        {"waiting": 0.05},
        {"sm_clock": 1703},  # 0.97 of 1755 is 1702.35
        {"sm_clock": None},
    ],
)
def test_a_machine_inside_the_bounds_is_quiet(machine: Any, conditions: dict[str, Any]) -> None:
    assert disturbances(machine.conditions(**conditions), USUAL) == ()


def test_without_conditions_or_a_usual_clock_nothing_is_claimed(machine: Any) -> None:
    assert disturbances(None, USUAL) == ()
    assert disturbances(machine.conditions(sm_clock=900), None) == ()


def test_the_gravest_disturbance_comes_first(machine: Any) -> None:
    busy = machine.conditions(throttle=("hardware slowdown",), foreign=("a",), waiting=0.5, sm_clock=900)
    names = [one.cause for one in disturbances(busy, USUAL)]
    assert names == ["throttled", "foreign_process", "cpu_shared", "clocks"]


@pytest.mark.parametrize(("resident", "cold"), [(0.94, True), (0.95, False), (1.0, False), (None, False)])
def test_weights_outside_the_page_cache_are_a_cold_cache(resident: float | None, cold: bool) -> None:
    disturbance = cold_cache(LoadUsage(checkpoint_bytes=1, cache_resident=resident))
    assert (disturbance is not None and disturbance.cause == "cold_cache") is cold
    assert cold_cache(None) is None
