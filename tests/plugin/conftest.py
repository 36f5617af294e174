"""A small project per test, and the outcomes of a JUnit file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from command_project import Project


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return Project(tmp_path)


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
