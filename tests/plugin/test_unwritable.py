"""What cannot be written never replaces a verdict: one line says so, and the exit code is the verdict's."""

from __future__ import annotations

from typing import Any

import pytest

from harness.outcomes import RULES, Outcome

INFRA, MISSING = RULES[Outcome.INFRA].exit_code, RULES[Outcome.GOLDEN_MISSING].exit_code
BREAK = """
import harness.{module}
def broken(*_, **__):
    raise OSError(28, "No space left on device")
harness.{module}.{name} = broken
"""


@pytest.mark.parametrize(
    ("module", "name", "message"),
    [
        ("report.render", "render_run", "the report could not be written: [Errno 28]"),
        ("plugin.terminal", "note_times", "the times of this run could not be written: [Errno 28]"),
    ],
)
def test_the_exit_code_stays_that_of_the_verdict(project: Any, module: str, name: str, message: str) -> None:
    project.cases("  one: {}\n")
    (project.root / "conftest.py").write_text(BREAK.format(module=module, name=name))
    done = project.pytest("--run-id", "r")
    assert done.returncode == MISSING, done.stdout + done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    assert done.stdout.count(message) == 1
    assert "1 golden_missing" in done.stdout


def test_junit_that_cannot_be_written_is_one_line(project: Any) -> None:
    project.cases("  one: {}\n")
    done = project.pytest("--run-id", "r", "--junitxml", "/dev/full")
    assert done.returncode == MISSING, done.stdout + done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    assert "such as JUnit, could not be written: [Errno 28]" in done.stdout
    assert "1 golden_missing" in done.stdout


@pytest.mark.parametrize("workers", [[], ["-n", "1"]], ids=["alone", "xdist"])
def test_a_runs_folder_that_cannot_be_made_is_infra(project: Any, workers: list[str]) -> None:
    project.cases("  one: {}\n")
    (project.root / "runs").write_text("a file in the way")
    done = project.pytest("--run-id", "r", *workers)
    assert done.returncode == INFRA, done.stdout + done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    assert "infra (disk): the run's folder cannot be written to" in done.stdout
    assert "1 case on runner cpu: 1 infra" in done.stdout
    assert "next: make " in done.stdout
    assert "the report could not be written" in done.stdout


def test_what_an_earlier_run_left_and_cannot_be_removed_does_not_count(project: Any) -> None:
    project.cases("  one: {}\n")
    assert project.pytest("--run-id", "r", "--no-report").returncode == MISSING
    parts = (("plugin.judged", "forget"), ("session.conductor", "clear"), ("records.case_record", "CaseRecord.write"))
    (project.root / "conftest.py").write_text("".join(BREAK.format(module=module, name=name) for module, name in parts))
    done = project.pytest("--run-id", "r", "--no-report")
    assert done.returncode == INFRA, done.stdout + done.stderr
    assert "1 infra" in done.stdout
