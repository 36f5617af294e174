"""A case with two right answers: both are accepted, and limits hold around each."""

from __future__ import annotations

from typing import Any

import pytest

from harness.outcomes import Outcome
from harness.records.limits import LimitFile

SECOND = 40
"""Levels by which the second mode is brighter."""


def outcome(project: Any, levels: int, run: str) -> Outcome:
    project.drift(levels)
    project.pytest("--run-id", run)
    record = project.records(run)["one"]
    assert record.comparison is not None
    return Outcome(record.verdict.outcome)


def regenerate(project: Any, *more: str) -> Any:
    return project.quantgate("regenerate", "--runner", "cpu", "--author", "ann", "--controls", "frames", *more)


@pytest.mark.slow
def test_limits_hold_around_both_goldens(project: Any) -> None:
    project.cases("  one: {}\n")
    assert regenerate(project).returncode == 0
    file = project.root / "thresholds" / "cpu" / "one.json"
    first = LimitFile.read(file).golden_digest
    assert outcome(project, SECOND, "a") is Outcome.REGRESSION
    done = project.quantgate("accept", "one", "--also", "--reason", "another kernel is picked", "--author", "ann")
    assert (done.returncode, "limits: hold for this golden too" in done.stdout) == (0, True), done.stderr
    second = LimitFile.read(file).also
    assert outcome(project, SECOND, "b") is Outcome.PASS
    assert outcome(project, SECOND + 1, "c") is Outcome.PASS
    assert not project.records("c")["one"].comparison.bit_exact
    assert outcome(project, 1, "d") is Outcome.PASS
    assert outcome(project, SECOND // 2, "e") is Outcome.REGRESSION

    project.drift(SECOND)
    again = regenerate(project, "--reason", "measured against both")
    assert again.returncode == 0, again.stdout + again.stderr
    now = LimitFile.read(file)
    assert (now.golden_digest, now.also) == (second[0], (first,))
    assert outcome(project, 1, "f") is Outcome.PASS, "the other answer's limits are as wide"
    assert outcome(project, SECOND // 2, "g") is Outcome.REGRESSION

    checked = project.quantgate("regenerate", "--check", "--runner", "cpu")
    assert checked.returncode == 0, checked.stdout
    now.model_copy(update={"also": ()}).write(file)
    checked = project.quantgate("regenerate", "--check", "--runner", "cpu")
    assert f"the limits do not hold for golden {first[:16]}, which is accepted beside theirs" in checked.stdout
    now.model_copy(update={"also": (first, "9" * 64)}).write(file)
    checked = project.quantgate("regenerate", "--check", "--runner", "cpu")
    assert f"the limits also name golden {'9' * 16}, which is not accepted" in checked.stdout


@pytest.mark.slow
def test_regeneration_holds_each_run_against_the_nearest(project: Any) -> None:
    """Runs of the second mode are no spread of the first."""
    project.cases("  one: {}\n")
    assert regenerate(project).returncode == 0
    file = project.root / "thresholds" / "cpu" / "one.json"
    outcome(project, SECOND, "a")
    project.quantgate("accept", "one", "--also", "--reason", "another kernel is picked", "--author", "ann")
    project.drift(0)
    assert regenerate(project, "--reason", "measured against both").returncode == 0
    held = LimitFile.read(file).get("mad")
    assert held is not None
    runs = [sample.value for sample in held.samples if sample.side == "benign" and not sample.drawn]
    assert (len(runs) > 1, max(runs)) == (True, 0.0)
    assert len([sample for sample in held.samples if sample.drawn]) == 8, "what eight bits show of each golden"
