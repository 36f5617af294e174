"""Every stage that takes longer than two seconds is told of, with n of N and an estimate; a short one is not."""

from __future__ import annotations

import time
from types import SimpleNamespace
from typing import Any

import pytest

from harness.calibrate.progress import RunProgress
from harness.calibrate.regenerate import Plan, planned_runs
from harness.inspector import identity
from harness.session.context import Progress, StageStarted
from harness.session.perturbation import CPU


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_a_stage_is_told_after_two_seconds_then_less_and_less_often() -> None:
    clock = Clock()
    progress = RunProgress(10, lambda _: None, clock)
    assert progress.line() == ""
    progress.begin("nvfp4, none")
    progress.watch(StageStarted("nvfp4", "generate"))
    printed = {}
    for clock.now in [0.5 * tick for tick in range(1, 140)]:
        if line := progress.line():
            printed[clock.now] = line
    assert list(printed)[:4] == [2.0, 4.0, 8.0, 16.0]
    assert list(printed)[-1] - list(printed)[-2] <= 31
    assert printed[2.0] == "run 1 of 10, no estimate before the first is done; nvfp4, none: generate, for 2 s"


def test_runs_that_are_done_give_the_estimate_and_steps_the_part() -> None:
    clock = Clock()
    progress = RunProgress(5, lambda _: None, clock)
    progress.begin("a, none")
    clock.now = 60.0
    progress.begin("a, threads-2")
    progress.watch(StageStarted("a", "load"))
    assert progress.line() == "", "a stage that just began"
    progress.watch(Progress("a", 1, 3, "load"))
    clock.now = 63.0
    assert progress.line() == "run 2 of 5, about 4 min left; a, threads-2: load 1 of 3, for 3 s"
    progress.watch(StageStarted("a", "generate"))
    clock.now = 70.0
    assert "generate, for 7 s" in progress.line()


def test_more_runs_than_were_planned_are_counted_all_the_same() -> None:
    clock = Clock()
    progress = RunProgress(1, lambda _: None, clock)
    for label in ("a", "b"):
        progress.begin(label)
    clock.now = 5.0
    assert progress.line().startswith("run 2 of 2, about")


def test_what_is_hashed_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    meter, clock = identity.HashMeter(), Clock()
    monkeypatch.setattr("harness.calibrate.progress.HASHING", meter)
    progress = RunProgress(1, lambda _: None, clock)
    progress.begin("a")
    progress.watch(StageStarted("a", "inspect"))
    meter.add(total=4_000_000_000)
    meter.add(hashed=1_000_000_000)
    clock.now = 3.0
    assert "inspect 1.0 of 4.0 GB hashed" in progress.line()
    meter.add(hashed=3_000_000_000)
    assert meter.state() == (0, 0)


def test_it_tells_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("harness.calibrate.progress.FIRST_SECONDS", 0.0)
    lines: list[str] = []
    with RunProgress(3, lines.append) as progress:
        progress.begin("a, none")
        deadline = time.monotonic() + 20
        while not lines and time.monotonic() < deadline:
            time.sleep(0.05)
    assert lines[0].startswith("run 1 of 3")


def test_every_run_is_planned(wan_case: Any) -> None:
    with_base = wan_case.model_copy(update={"base": wan_case.model, "backend": "diffusers"})
    without = wan_case.model_copy(update={"base": None})
    cases: Any = (SimpleNamespace(case=with_base), SimpleNamespace(case=without))
    # a recording; two cases as they are; two perturbations, three disturbed runs and 4 faults at 4 strengths of each
    assert planned_runs(cases, Plan(CPU[:2], repeats=3, controls="all")) == 1 + 2 * (1 + 2 + 3 + 16)
    assert planned_runs(cases, Plan(CPU[:2], repeats=3, controls="frames")) == 1 + 2 * (1 + 2 + 3)
    assert planned_runs(cases, Plan(results=(object(),))) == 0  # type: ignore[arg-type]
