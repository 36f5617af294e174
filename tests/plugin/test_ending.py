"""A pytest that runs no case, or whose exit code somebody else sets, does not end green."""

from __future__ import annotations

from typing import Any

import pytest

from harness.outcomes import RULES, Outcome
from harness.plugin.ending import _RUNS_NOTHING, _was_typed

UNRESOLVED = "  a: {model: {path: own/er, revision: unresolved}}\n"
"""Red without an engine: a run refuses a checkpoint without a commit."""
EXITS = """
import pytest

def pytest_sessionstart(session):
    pytest.exit("no GPU here", returncode=0)
"""
OVERRULES = """
import pytest

@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_sessionfinish(session, exitstatus):
    done = yield
    session.exitstatus = 0
    return done
"""


def test_a_run_that_a_conftest_ends_is_red(project: Any) -> None:
    project.cases(UNRESOLVED)
    (project.root / "conftest.py").write_text(EXITS)
    done = project.pytest("--runner", "cpu")
    assert done.returncode == RULES[Outcome.NOT_RUN].exit_code, done.stdout
    assert "no case was run" in done.stderr
    # pytest on other files is not quantgate's: no case was asked for
    (project.root / "test_other.py").write_text("def test_nothing(): pass\n")
    assert project.pytest("test_other.py").returncode == 0


def test_an_exit_code_that_a_conftest_sets_hides_no_verdict(project: Any) -> None:
    project.cases(UNRESOLVED)
    (project.root / "conftest.py").write_text(OVERRULES)
    done = project.pytest("--runner", "cpu")
    assert done.returncode == RULES[Outcome.INVALID_CASE].exit_code, done.stdout
    assert "a verdict is red" in done.stderr


def test_settings_that_run_nothing_are_refused_and_a_person_may_type_them(project: Any) -> None:
    project.cases(UNRESOLVED)
    assert project.pytest("--runner", "cpu", "--collect-only").returncode == 0
    done = project.pytest("--runner", "cpu", PYTEST_ADDOPTS="--collect-only")
    assert done.returncode == pytest.ExitCode.USAGE_ERROR
    assert "PYTEST_ADDOPTS holds --collect-only" in done.stderr
    settings = project.root / "pyproject.toml"
    settings.write_text(settings.read_text() + 'addopts = "--setup-plan"\n')
    done = project.pytest("--runner", "cpu")
    assert done.returncode == pytest.ExitCode.USAGE_ERROR
    assert "addopts holds --setup-" in done.stderr


@pytest.mark.parametrize(
    ("name", "words", "typed"),
    [
        ("help", ["-h"], True),
        ("help", ["-qh"], True),
        ("help", ["-q", "--runner", "h200"], False),
        ("collectonly", ["--co"], True),
        ("collectonly", ["--color=yes"], False),
        ("cacheshow", ["--cache-show=x*"], True),
        ("setuponly", ["--setup-plan"], True),
    ],
)
def test_which_options_a_person_typed(name: str, words: list[str], typed: bool) -> None:
    assert _was_typed(_RUNS_NOTHING[name], words) is typed
