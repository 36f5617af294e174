"""A small project per test, and the outcomes of a JUnit file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from command_project import Project


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return Project(tmp_path)


@pytest.fixture(scope="session")
def measured_once(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A project of which the healthy runs of one case lie in ``runs/again``, and nothing else is written."""
    project = Project(tmp_path_factory.mktemp("measured"))
    project.cases("  one: {}\n")
    done = project.quantgate("regenerate", "--runner", "cpu", "--dry-run", *REUSED)
    assert (done.returncode, "nothing was written" in done.stdout) == (0, True), done.stderr
    return project


@pytest.fixture
def measured(measured_once: Project, tmp_path: Path) -> Project:
    """A copy of ``measured_once``: its runs count as runs of the copy, so that no engine need start."""
    return measured_once.copy(tmp_path / "measured")


REUSED = ("--run-id", "again", "--repeats", "0", "--controls", "none")
"""Options of ``regenerate`` with which it reads the runs of ``measured``."""


@pytest.fixture(scope="session")
def accepted_once(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A project of which the run ``first`` of one case became the golden, with limits."""
    project = Project(tmp_path_factory.mktemp("accepted"))
    project.golden("one")
    return project


@pytest.fixture
def accepted(accepted_once: Project, tmp_path: Path) -> Project:
    """A copy of ``accepted_once``."""
    return accepted_once.copy(tmp_path / "accepted")


@pytest.fixture
def junit() -> Callable[[Path], dict[str, str]]:
    """Outcome by test name of a JUnit file."""
    from xml.etree import ElementTree as ET

    def read(path: Path) -> dict[str, str]:
        outcomes = {}
        for case in ET.parse(path).iter("testcase"):  # noqa: S314 - written by the test itself
            tags = [child.tag for child in case if child.tag in ("failure", "error", "skipped")]
            outcomes[str(case.get("name"))] = tags[0] if tags else "passed"
        return outcomes

    return read
