"""What a run of pytest on case files ends in."""

from __future__ import annotations

from datetime import date
from typing import Any

import pytest

from harness.outcomes import RULES, Outcome


def code(outcome: Outcome) -> int:
    return RULES[outcome].exit_code


def test_first_run_accept_second_run(project: Any) -> None:
    project.cases("  one: {}\n")
    first = project.pytest("--run-id", "first")
    assert first.returncode == code(Outcome.GOLDEN_MISSING), first.stdout + first.stderr
    assert "quantgate accept one --runner cpu" in first.stdout
    accepted = project.quantgate("accept", "one", "--runner", "cpu", "--reason", "looked at it", "--author", "ann")
    assert accepted.returncode == 0, accepted.stdout + accepted.stderr
    bare = project.pytest("--run-id", "bare")
    assert bare.returncode == code(Outcome.INCONCLUSIVE), bare.stdout
    assert "there is a golden and there are no limits for it" in bare.stdout
    project.measure("one")
    second = project.pytest("--run-id", "second")
    assert second.returncode == 0, second.stdout
    assert "bit-exact" in second.stdout
    record = project.records("second")["one"]
    assert record.verdict.outcome is Outcome.PASS
    assert record.comparison is not None
    assert record.comparison.bit_exact


def test_every_kind_of_end_and_the_junit_of_each(project: Any, junit: Any) -> None:
    project.cases(
        "  missing: {}\n"
        "  crash: {sampling: {prompt: crash}}\n"
        "  hang: {sampling: {prompt: hang}, timeouts: {load: 60, generate: 2}}\n"
        "  poison: {sampling: {prompt: nan}}\n"
        "  static: {sampling: {prompt: static}}\n"
        "  control: {sampling: {prompt: static}, golden_of: static, expect: 'regression:noise'}\n"
        "  blind: {golden_of: missing, expect: regression:noise}\n"
        "  absent: {model: {path: ./nowhere, made_by: make it}}\n"
    )
    done = project.pytest("--run-id", "r", "--junitxml", "junit.xml")
    records = project.records("r")
    ended = {name: (record.verdict.outcome.value, record.verdict.cause) for name, record in records.items()}
    assert ended == {
        "missing": ("golden_missing", "golden_missing"),
        "crash": ("infra", "crash"),
        "hang": ("infra", "hang"),
        "poison": ("regression", "nan"),
        "static": ("regression", "noise"),
        "control": ("pass", "noise"),
        "blind": ("golden_missing", "golden_missing"),
        "absent": ended["absent"],
    }
    assert ended["absent"][0] in ("invalid_case", "infra")
    assert done.returncode == code(Outcome.REGRESSION)
    assert junit(project.root / "junit.xml") == {
        "missing": "failure",
        "crash": "error",
        "hang": "error",
        "poison": "failure",
        "static": "failure",
        "control": "passed",
        "blind": "failure",
        "absent": "error",
    }
    assert "make it" in done.stdout


def test_a_control_that_passes_is_a_failure(accepted: Any) -> None:
    accepted.cases("  one: {}\n  blind: {golden_of: one, expect: regression:noise}\n")
    done = accepted.pytest("--run-id", "r")
    assert done.returncode == code(Outcome.UNEXPECTED_PASS), done.stdout
    assert accepted.records("r")["blind"].verdict.outcome is Outcome.UNEXPECTED_PASS


def test_a_waived_case_is_skipped_in_junit_and_green(accepted: Any, junit: Any) -> None:
    accepted.drift(1)
    accepted.cases(
        "  one:\n"
        "    waiver: {expect: 'regression:mad_above_limit,channel_shift_above_limit', "
        f"owner: a, reason: r, issue: http://x, expires: {date.today()}}}\n"
    )
    done = accepted.pytest("--run-id", "r", "--junitxml", "junit.xml", "-rs")
    assert (done.returncode, junit(accepted.root / "junit.xml")) == (0, {"one": "skipped"}), done.stdout
    assert accepted.records("r")["one"].verdict.observed is Outcome.REGRESSION


def test_bad_yaml_runs_nothing(project: Any) -> None:
    project.cases("  one: {}\n  two: {sampling: {widht: 64}}\n")
    done = project.pytest("--run-id", "r")
    assert done.returncode == code(Outcome.INVALID_CASE)
    assert "a.yaml:12: cases.two.sampling.widht: unknown key; did you mean width?" in done.stdout
    assert not (project.root / "runs").exists()


@pytest.mark.parametrize("workers", [(), ("-n", "2")], ids=["alone", "xdist"])
def test_one_id_in_two_files_runs_nothing(project: Any, workers: tuple[str, ...]) -> None:
    project.cases("  one: {}\n")
    project.cases("  one: {}\n", name="b.yaml")
    done = project.pytest(*workers)
    assert done.returncode == code(Outcome.INVALID_CASE), done.stdout
    assert "duplicate case id" in done.stdout + done.stderr
    assert "INTERNALERROR" not in done.stdout
    assert not (project.root / "runs").exists()


def test_selection_by_name_and_last_failed(accepted: Any) -> None:
    accepted.cases("  one: {}\n  bad: {sampling: {prompt: static}}\n")
    accepted.run("-m", "pytest", "-k", "one", "--run-id", "a", "--no-report")
    accepted.run("-m", "pytest", "--run-id", "b")
    accepted.run("-m", "pytest", "--lf", "--run-id", "c")
    assert set(accepted.records("a")) == {"one"}
    assert set(accepted.records("b")) == {"one", "bad"}
    assert set(accepted.records("c")) == {"bad"}
