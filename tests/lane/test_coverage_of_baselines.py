"""Differences between baselines of time and memory: which are listed, and which let more through."""

from __future__ import annotations

import itertools
from typing import Any

import perf_runs
import pytest

from harness.definitions.case import Case
from harness.lane.coverage import Change, Coverage, compare_baselines
from harness.lane.looser import lets_more_through
from harness.perf.baseline import build
from harness.perf.ceilings import limits_of, raised
from harness.records.perf_file import PerfFile

runs: Any = perf_runs


def baseline(
    slower: float = 1.0, *, created: str = "then", reason: str = "", machines: tuple[str, ...] = ("GPU-a",), **more: Any
) -> PerfFile:
    """Eight runs of each machine; ``more`` goes to every generation."""
    made = [runs.Machine(seed, name) for seed, name in enumerate(machines)]
    numbers = itertools.count()
    records = [machine.record(next(numbers), machine.generation(slower, **more)) for _ in range(8) for machine in made]
    file, _ = build(runs.case(), "h200", records, author="ann", reason=reason)
    return file.model_copy(update={"created": created})


def compared(before: PerfFile | None, after: PerfFile | None, case: Case | None = None, **reasons: str) -> list[Change]:
    """The changes of one case."""
    sides = [{} if file is None else {"wan": file} for file in (before, after)]
    return compare_baselines(sides[0], sides[1], reasons, [case or runs.case()])


def unexplained(changes: list[Change]) -> list[str]:
    return [change.key for change in Coverage(against="main", changes=tuple(changes)).without_reason()]


def test_an_equal_or_tighter_baseline_is_no_change() -> None:
    assert compared(baseline(), baseline()) == []
    assert compared(baseline(1.2), baseline(created="now")) == []


def test_a_slower_baseline_needs_a_reason_of_its_own() -> None:
    old = baseline(reason="first")
    silent = compared(old, baseline(1.2, created="now"))
    assert "wan step:h200" in unexplained(silent)
    step = next(change for change in silent if change.field == "step:h200")
    assert isinstance(step.after, float)
    assert isinstance(step.before, float)
    assert step.after == pytest.approx(1.2 * step.before, rel=0.05)
    assert unexplained(compared(old, baseline(1.2, created="then", reason="first"))), "the old reason is no new one"
    assert unexplained(compared(old, baseline(1.2, created="now", reason="exact attention"))) == []


def test_more_memory_and_a_leak_need_a_reason() -> None:
    old = baseline()
    assert "wan denoise_memory:h200" in unexplained(compared(old, baseline(created="now", peak=21 * runs.GIB)))
    assert "wan growth:h200" in unexplained(compared(old, baseline(created="now", grows=50 * runs.MIB)))


def test_a_baseline_that_is_gone_needs_a_trailer_and_a_new_one_does_not() -> None:
    (gone,) = compared(baseline(), None)
    assert (gone.key, gone.field, unexplained([gone])) == ("wan", "", ["wan"])
    assert unexplained(compared(baseline(), None, wan="measured elsewhere")) == []
    (first,) = compared(None, baseline(reason="first"))
    assert (first.field, first.looser, first.reason) == ("file", False, "first")


def test_a_machine_that_left_the_baseline_is_unmeasured() -> None:
    both, one = baseline(machines=("GPU-a", "GPU-b")), baseline(created="now")
    assert "wan step:h200" in unexplained(compared(both, one))
    assert {change.after for change in compared(both, one)} == {"unmeasured"}
    assert compared(one, both) == []


def test_runs_that_are_taken_out_leave_no_limit() -> None:
    old = baseline()
    pool = old.pools[0]
    few = old.model_copy(update={"pools": (pool.model_copy(update={"runs": pool.runs[:4]}),), "created": "now"})
    assert {rise.now for rise in raised(old, few)} == {None}
    assert {rise.measure for rise in raised(old, few)} == {measure for _, measure in limits_of(old)}


def test_a_pool_of_another_name_is_followed_by_its_machines() -> None:
    old = baseline()
    renamed = old.model_copy(update={"pools": (old.pools[0].model_copy(update={"label": "h200/a"}),)})
    assert compared(old, renamed) == []


def test_a_case_of_another_size_is_listed_as_unmeasured() -> None:
    case = runs.case()
    longer = case.model_copy(update={"sampling": case.sampling.model_copy(update={"num_frames": 5})})
    (change,) = compared(baseline(), baseline(), longer)
    assert (change.field, change.looser) == ("size", False)


@pytest.mark.parametrize(
    ("was", "now", "looser"),
    [
        ({}, {"effect": 0.5}, True),
        ({"effect": 0.1}, {"effect": 0.05}, False),
        ({}, {"memory_effect": 0.1}, True),
        ({}, {"gates": ["step"]}, True),
        ({"gates": ["step"]}, {"gates": ["vae", "step"]}, False),
        ({"generations": 6}, {}, True),
        ({"improvement": "red"}, {}, True),
        ({}, {"improvement": "red"}, False),
    ],
)
def test_a_case_that_gates_less_time_or_memory_lets_more_through(
    was: dict[str, Any], now: dict[str, Any], looser: bool
) -> None:
    assert lets_more_through("perf", runs.case(**was), runs.case(**now)) is looser
