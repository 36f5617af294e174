"""Grouping, leases and recovery, proven from the records of real workers and engine processes on fake GPUs."""

from __future__ import annotations

import re
import subprocess
import sys
from collections import defaultdict
from typing import TYPE_CHECKING

import pytest
from fake_gpus import fake_gpus
from lane_actions import alive

from harness.lane.durations import CaseTimes, History
from harness.machine.leases import acquire
from harness.records.case_record import CaseRecord

if TYPE_CHECKING:
    from conftest import Project

MIXED = {
    "a1": ("m1", "pass"),
    "b1": ("m2", "pass"),
    "a2": ("m1", "pass"),
    "b2": ("m2", "pass"),
    "a3": ("m1", "pass"),
    "c1": ("m3", "pass"),
    "d1": ("m4", "pass"),
}


def engine_pids(project: Project) -> list[int]:
    """Every engine process, and every child of one, that was ever started in the project."""
    files = [*project.root.glob("runs/r/*/engine-*"), *project.root.glob("runs/r/*/pids")]
    return [int(line) for file in files for line in file.read_text().split()]


def test_cases_of_one_engine_share_one_process_and_one_gpu_and_two_gpus_are_used(project: Project) -> None:
    project.write_cases(MIXED)
    done = project.pytest("-n", "auto", "--junitxml", "junit.xml")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "2 workers" in done.stdout
    records = project.records()
    assert sorted(records) == sorted(MIXED)
    by_engine = defaultdict(set)
    for name, record in records.items():
        assert record.engine is not None
        assert record.fingerprint is not None
        by_engine[MIXED[name][0]].add((record.engine.process, record.fingerprint.device.uuid, record.log_tail))
    assert all(len(places) == 1 for places in by_engine.values()), by_engine
    assert len({process for places in by_engine.values() for process, _, _ in places}) == 4  # loads: one an engine
    by_gpu = defaultdict(set)
    for places in by_engine.values():
        for _, uuid, worker in places:
            by_gpu[uuid].add(worker)
    assert sorted(by_gpu) == ["FAKE-0", "FAKE-1"]
    assert all(len(workers) == 1 for workers in by_gpu.values()), by_gpu
    names = re.findall(r'<testcase [^>]*name="([^"]+)"', (project.root / "junit.xml").read_text())
    assert sorted(names) == sorted(MIXED)  # no `@group` in an id
    assert alive(engine_pids(project)) == []


def test_the_longest_engine_begins_first_by_measured_time(project: Project) -> None:
    project.write_cases(MIXED)
    assert project.pytest().returncode == 0
    history = project.root / "runs" / "history.json"
    text = history.read_text()
    assert '"d1"' in text
    slow = {"c1": 900.0, "d1": 500.0, "a1": 1.0, "a2": 1.0, "a3": 1.0, "b1": 100.0, "b2": 100.0}
    History(runners={"b200": {name: CaseTimes(seconds=(time,)) for name, time in slow.items()}}).write(history)
    done = project.pytest("--collect-only", "-q")
    order = [line.partition("::")[2] for line in done.stdout.splitlines() if "::" in line]
    assert order == ["c1", "d1", "b1", "b2", "a1", "a2", "a3"]


def test_a_worker_killed_in_the_middle_of_a_case(project: Project) -> None:
    project.write_cases({**MIXED, "k": ("m2", "kill_once")})
    done = project.pytest("-n", "2", "--junitxml", "junit.xml")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 rerun" in done.stdout
    records = project.records()
    assert sorted(records) == sorted([*MIXED, "k"])
    assert all(record.verdict.outcome == "pass" for record in records.values())
    assert {name: record.attempt for name, record in records.items() if record.attempt > 1} == {"k": 2}
    first = CaseRecord.read(project.root / "runs/r/k/record-attempt-1.json")
    assert first.verdict.outcome == "infra"
    assert first.verdict.cause == "worker_died"
    folder = project.root / "runs/r/k"
    assert (folder / "engine-1").read_text() != (folder / "engine-2").read_text()  # a fresh engine
    pids = engine_pids(project)
    assert len(pids) >= 7
    assert alive(pids) == []
    assert "8 cases on runner b200: 8 pass" in done.stdout  # also of the dead worker's earlier cases


@pytest.mark.slow
def test_a_case_that_always_kills_its_worker_is_infra_and_the_rest_goes_on(project: Project) -> None:
    project.write_cases({**MIXED, "k": ("m2", "kill")})
    done = project.pytest("-n", "2")
    assert done.returncode == 18, done.stdout + done.stderr
    records = project.records()
    assert records["k"].verdict.outcome == "infra"
    assert records["k"].attempt == 2
    assert {name for name, record in records.items() if record.verdict.outcome == "pass"} == set(MIXED)
    assert alive(engine_pids(project)) == []


def test_infra_is_retried_once_on_another_gpu_and_quality_never(project: Project) -> None:
    project.write_cases({"flaky": ("m1", "die_once"), "dead": ("m2", "die"), "bad": ("m3", "fail")})
    done = project.pytest()
    assert done.returncode == 10, done.stdout + done.stderr
    records = project.records()
    assert {name: (record.verdict.outcome.value, record.attempt) for name, record in records.items()} == {
        "flaky": ("pass", 2),
        "dead": ("infra", 2),
        "bad": ("regression", 1),
    }
    first = CaseRecord.read(project.root / "runs/r/flaky/record-attempt-1.json")
    assert first.fingerprint is not None
    assert records["flaky"].fingerprint is not None
    assert first.fingerprint.device.uuid != records["flaky"].fingerprint.device.uuid


def test_no_model_is_loaded_on_a_gpu_that_is_not_fit(project: Project) -> None:
    """The sick GPU is found before an engine starts; the case runs on the other one, or is infra with the reason."""
    project.write_cases({"one": ("m1", "pass"), "two": ("m1", "pass")})
    cases = [sys.executable, "-m", "pytest", "--runner", "b200"]
    half = project.run(*cases, "--run-id", "half", QUANTGATE_FAKE_UNFIT="FAKE-0")
    assert half.returncode == 0, half.stdout
    records = project.records("half")
    used = {record.fingerprint.device.uuid for record in records.values() if record.fingerprint}
    assert used == {"FAKE-1"}
    assert {record.attempt for record in records.values()} == {1, 2}

    sick = project.run(*cases, "--run-id", "sick", QUANTGATE_FAKE_UNFIT="FAKE-0,FAKE-1")
    assert sick.returncode == 18, sick.stdout
    records = project.records("sick")
    assert {record.verdict.outcome.value for record in records.values()} == {"infra"}
    assert all("3 uncorrected memory errors" in record.verdict.summary for record in records.values())
    assert not list((project.root / "runs" / "sick").glob("*/engine-*")), "an engine was started"


def test_two_runs_on_one_gpu_wait_for_each_other(project: Project) -> None:
    project.gpus = 1
    project.write_cases({"one": ("m1", "pass")})
    runs = [
        subprocess.Popen(
            [sys.executable, "-m", "pytest", "--runner", "b200", "--run-id", name, "-q"],
            cwd=project.root,
            env=project.environment(),
            stdout=subprocess.DEVNULL,
        )
        for name in ("first", "second")
    ]
    assert [run.wait(120) for run in runs] == [0, 0]


def test_a_run_that_gets_no_gpu_says_who_holds_it_and_leaves_a_record(
    project: Project,
) -> None:
    project.gpus = 1
    project.write_cases({"one": ("m1", "pass")})
    with acquire(fake_gpus(1), 0, folder=project.root / "leases", run="mine"):
        done = project.pytest("--gpu-wait", "0.5")
    assert done.returncode == 18
    assert "FAKE-0 by process" in done.stdout
    assert "run mine" in done.stdout
    assert project.records()["one"].verdict.cause == "device"
