"""Baselines: which runs they keep, which machines they take to be alike, and that nobody edits one unseen."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
from builders import make_case
from pydantic import ValidationError

from harness.errors import InvalidCaseError
from harness.outcomes import Outcome
from harness.perf.baseline import baseline_path, build, load_baseline, pool_for
from harness.records.perf_file import PerfFile

runs: Any = sys.modules["perf_runs"]  # tests/perf/conftest.py loads it


def made(*histories: list[Any]) -> PerfFile:
    file, _ = build(
        runs.case(), "h200", [one for history in histories for one in history], author="ann", reason="first"
    )
    return file


def test_a_baseline_says_what_it_covers(machine: Any) -> None:
    file = made(machine.history(12))
    assert file.covers == "pool h200: 12 runs on 12 days and 1 machine"
    assert file.notes == ()
    assert file.facts.sm_clock == 1755
    assert file.facts.receipts["transformer"] == {"fp8/torch._scaled_mm": 1}
    assert file.pools[0].runs[0].values["place"] == 20.0


def test_few_runs_on_one_day_say_so(machine: Any) -> None:
    history = [machine.record(0) for _ in range(5)]
    notes = " ".join(made(history).notes)
    assert "5 runs: its prediction interval is wide" in notes
    assert "1 day and 1 machine" in notes


def test_four_runs_are_no_baseline(machine: Any) -> None:
    with pytest.raises(InvalidCaseError, match="needs 5 quiet runs") as error:
        made(machine.history(4))
    assert "--measure 1" in str(error.value)


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"generation": None}, "nothing was generated"),
        ({"conditions": {"foreign": ("python (pid 7)",)}}, "shared with python"),
        ({"conditions": {"throttle": ("hardware slowdown",)}}, "slowed itself down"),
        ({"outcome": Outcome.REGRESSION, "cause": "noise"}, "regression (noise)"),
        ({"width": 64}, "another size"),
    ],
)
def test_runs_that_say_nothing_of_the_usual_speed_are_left_out(machine: Any, changes: dict[str, Any], why: str) -> None:
    odd = machine.record(20)
    if "conditions" in changes:
        odd = odd.model_copy(update={"conditions": machine.conditions(**changes["conditions"])})
    if "outcome" in changes:
        odd = odd.model_copy(update={"verdict": odd.verdict.model_copy(update=changes)})
    if "generation" in changes:
        odd = odd.model_copy(update=changes)
    if "width" in changes:
        request = odd.request | {"sampling": odd.request["sampling"] | {"width": 64}}
        odd = odd.model_copy(update={"request": request})
    file, refused = build(runs.case(), "h200", [*machine.history(6), odd], author="ann", reason="first")
    assert len(file.pools[0].runs) == 6
    assert why in refused[0].why


def test_a_run_that_was_red_for_its_time_alone_may_be_kept(machine: Any) -> None:
    slow = machine.record(20)
    verdict = slow.verdict.model_copy(update={"outcome": Outcome.REGRESSION, "cause": "slower"})
    file, refused = build(
        runs.case(), "h200", [*machine.history(6), slow.model_copy(update={"verdict": verdict})], author="a", reason="b"
    )
    assert len(file.pools[0].runs) == 7
    assert refused == ()


def test_machines_of_one_name_that_are_1_6_times_apart_are_two_pools() -> None:
    machines = [runs.Machine(seed, name, speed) for seed, (name, speed) in enumerate((
        ("GPU-a", 1.0), ("GPU-b", 1.01), ("GPU-c", 1.6), ("GPU-d", 1.62),
    ))]  # fmt: skip
    file = made(*(one.history(6) for one in machines))
    assert [(pool.label, pool.machines) for pool in file.pools] == [
        ("h200/a", ("GPU-a", "GPU-b")),
        ("h200/b", ("GPU-c", "GPU-d")),
    ]
    assert "1.6" in file.notes[-1]
    assert pool_for(file, "GPU-d", "")[0] is file.pools[1]
    assert pool_for(file, "GPU-x", "")[0] is None, "nobody knows which of the two it is"


def test_a_new_machine_is_taken_for_one_of_three_that_are_alike() -> None:
    three = made(*(runs.Machine(seed, f"GPU-{seed}").history(4) for seed in range(3)))
    assert pool_for(three, "GPU-x", "")[0] is three.pools[0]
    two = made(*(runs.Machine(seed, f"GPU-{seed}").history(4) for seed in range(2)))
    pool, why = pool_for(two, "GPU-x", "")
    assert pool is None
    assert "machine GPU-x is in no pool" in why


def test_the_lane_may_state_the_pool() -> None:
    rack = runs.Machine(0, "GPU-a", pool="rack7").history(6)
    file = made(rack)
    assert file.pools[0].label == "rack7"
    assert pool_for(file, "GPU-x", "rack7")[0] is file.pools[0]
    assert pool_for(file, "GPU-x", "rack8")[0] is None


def test_a_pool_keeps_its_newest_runs(machine: Any) -> None:
    file = made(machine.history(45))
    assert len(file.pools[0].runs) == 40
    assert file.pools[0].runs[0].run == "run-005"


def test_the_file_comes_back_and_an_edit_is_noticed(machine: Any, tmp_path: Path) -> None:
    path = baseline_path(tmp_path, "h200", "wan")
    assert load_baseline(tmp_path, "h200", "wan") is None
    made(machine.history(6)).write(path)
    assert load_baseline(tmp_path, "h200", "wan") is not None
    path.write_text(path.read_text().replace('"fresh": true', '"fresh": false', 1))
    with pytest.raises(InvalidCaseError, match="seal does not fit"):
        load_baseline(tmp_path, "h200", "wan")
    assert load_baseline(tmp_path, "h200", "wan", allow_edited=True) is not None
    path.write_text("{")
    with pytest.raises(InvalidCaseError, match="is no baseline"):
        load_baseline(tmp_path, "h200", "wan")
    path.unlink()
    path.mkdir()
    with pytest.raises(InvalidCaseError, match="cannot be read: Is a directory") as caught:
        load_baseline(tmp_path, "h200", "wan")
    assert "quantgate regenerate --perf --case wan --runner h200" in caught.value.remedy


def test_a_file_of_another_case_is_refused(machine: Any, tmp_path: Path) -> None:
    made(machine.history(6)).write(baseline_path(tmp_path, "h200", "other"))
    with pytest.raises(InvalidCaseError, match="says case 'wan'"):
        load_baseline(tmp_path, "h200", "other")


def test_no_case_has_the_name_of_a_baseline() -> None:
    with pytest.raises(ValidationError, match=r"must not end in \.perf"):
        make_case(id="wan.perf")
