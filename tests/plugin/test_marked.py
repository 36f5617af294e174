"""``-m`` chooses the runner wherever it can mean only one, and never lets another one run instead."""

from __future__ import annotations

from typing import Any

import pytest

from harness.outcomes import RULES, Outcome
from harness.plugin.options import marked_runner

RUNNERS = ("b200", "cpu", "h200")


@pytest.mark.parametrize(
    ("expression", "runner"),
    [
        ("", ""),
        ("slow", ""),
        ("not slow", ""),
        ("b2000 or slow", ""),
        ("b200", "b200"),
        ("b200 and not slow", "b200"),
        ("not slow and (b200)", "b200"),
        ("(slow and b200) or (quick and b200)", "b200"),
        ("b200 and not h200", "b200"),
        ("b200 and (slow or h200)", "b200"),
        ("not not b200", "b200"),
        ("b200 and size(n=4)", "b200"),
        ("b200 and (", ""),  # pytest refuses it
    ],
)
def test_the_one_runner_that_is_required(expression: str, runner: str) -> None:
    assert marked_runner(expression, RUNNERS) == runner


@pytest.mark.parametrize(
    "expression", ["not b200", "b200 or h200", "b200 or slow", "b200 and h200", "not (b200 or cpu)", "slow or not h200"]
)
def test_an_expression_that_leaves_the_runner_open_is_refused(expression: str) -> None:
    with pytest.raises(pytest.UsageError, match=r"does not say which\n  next: pytest --runner \w+ -m '"):
        marked_runner(expression, RUNNERS)


def test_more_names_than_can_be_tried_are_refused() -> None:
    with pytest.raises(pytest.UsageError, match="--runner b200"):
        marked_runner("b200 and " + " and ".join(f"n{index}" for index in range(12)), RUNNERS)


@pytest.mark.parametrize("more", [(), ("-n", "1")])
def test_another_runner_never_runs_instead(project: Any, more: tuple[str, ...]) -> None:
    project.cases("  both: {runners: [cpu, b200]}\n")
    done = project.pytest("-m", "b200 and not slow", *more)
    assert done.returncode == RULES[Outcome.NO_RUNNER].exit_code, done.stdout
    assert not (project.root / "runs/history.json").exists()


@pytest.mark.parametrize("more", [(), ("-n", "1"), ("-n", "auto")])
def test_an_open_runner_is_a_usage_error_that_says_what_to_type(project: Any, more: tuple[str, ...]) -> None:
    project.cases("  both: {runners: [cpu, b200]}\n  here: {runners: [cpu]}\n")
    done = project.pytest("-m", "not b200", *more)
    assert done.returncode == 4, done.stdout
    assert "next: pytest --runner cpu -m 'not b200'" in done.stdout + done.stderr
    assert "INTERNALERROR" not in done.stdout + done.stderr


def test_a_named_runner_settles_it(project: Any) -> None:
    project.cases("  here: {runners: [cpu]}\n  there: {runners: [b200]}\n")
    done = project.pytest("--runner", "cpu", "-m", "not b200", "--collect-only", "-q")
    assert done.returncode == 0
    assert "cases/a.yaml::here" in done.stdout
