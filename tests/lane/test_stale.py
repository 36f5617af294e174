"""What an earlier run left behind is no result of this one, however much it looks like one."""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING

import pytest

from harness.lane.plan import Plan
from harness.records.case_record import CaseRecord

if TYPE_CHECKING:
    from conftest import Project

CASES = {"one": ("m1", "pass"), "two": ("m2", "pass")}


def lane(project: Project, run: str) -> subprocess.CompletedProcess[str]:
    """One shard of a plan, or all of it."""
    return project.run("pytest", "--plan", "plan.json", "--run-id", run, "--junitxml", f"runs/{run}/junit.xml")


def plan(project: Project) -> Plan:
    """Plan anew."""
    assert project.run("quantgate", "plan", "--runner", "b200").returncode == 0
    return Plan.read(project.root / "plan.json")


def test_a_merge_refuses_the_records_of_an_earlier_plan(project: Project) -> None:
    project.write_cases(CASES)
    first = plan(project)
    assert lane(project, "shard-1").returncode == 0
    assert {record.plan for record in project.records("shard-1").values()} == {first.id}
    assert project.run("quantgate", "merge", "runs/shard-1", "--plan", "plan.json").returncode == 0

    assert plan(project).id != first.id
    done = project.run("quantgate", "merge", "runs/shard-1", "--plan", "plan.json", "--out", "again")
    assert done.returncode == 20, done.stdout
    assert "2 planned, 2 without a result; exit code 20" in done.stdout
    assert f"it is of plan {first.id}" in done.stdout
    assert "junit.xml: it is of plan" in done.stderr
    assert 'errors="2"' in (project.root / "again/junit.xml").read_text()

    assert lane(project, "shard-1").returncode == 0  # in the same folder
    assert project.run("quantgate", "merge", "runs/shard-1", "--plan", "plan.json", "--out", "new").returncode == 0


def test_a_merge_refuses_the_records_of_no_plan(project: Project) -> None:
    project.write_cases(CASES)
    plan(project)
    assert project.pytest("--junitxml", "runs/r/junit.xml").returncode == 0
    done = project.run("quantgate", "merge", "runs/r", "--plan", "plan.json")
    assert done.returncode == 20
    assert "it is of no plan" in done.stdout
    assert "2 results of it do not count" in done.stderr


def test_an_earlier_run_in_the_same_folder_is_not_an_attempt_of_this_one(project: Project) -> None:
    project.write_cases({"flaky": ("m1", "die_once")})
    assert project.pytest().returncode == 0
    assert project.records()["flaky"].attempt == 2
    (project.root / "runs/r/flaky/left.safetensors").write_bytes(b"frames of yesterday")
    assert project.pytest().returncode == 0  # infra is tried once more here too
    assert project.records()["flaky"].attempt == 2
    assert CaseRecord.read(project.root / "runs/r/flaky/record-attempt-1.json").verdict.outcome == "infra"
    assert not (project.root / "runs/r/flaky/left.safetensors").exists()


def test_a_dead_worker_does_not_bring_back_what_an_earlier_run_left(project: Project) -> None:
    project.write_cases({**CASES, "old": ("m3", "pass")})
    assert project.pytest().returncode == 0
    project.write_cases({**CASES, "k": ("m1", "kill_once")})
    done = project.pytest("-n", "1")
    assert "3 cases on runner b200: 3 pass" in done.stdout
    assert done.returncode == 0


@pytest.mark.parametrize("name", ["..", "a/b", "../x", "", ".x"])
def test_a_run_id_is_a_plain_name(project: Project, name: str) -> None:
    project.write_cases(CASES)
    done = project.run("pytest", "--runner", "b200", "--run-id", name)
    assert done.returncode == 4, done.stdout
    assert "is no plain name" in done.stderr
    assert not (project.root / "runs").exists()
