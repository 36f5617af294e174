"""Pytest and every command use the same folders of a project."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from harness.errors import InvalidCaseError
from harness.project import Project, project_root


@pytest.mark.parametrize("by_file", [True, False])
def test_a_folder_that_only_pytest_would_see_is_refused(tmp_path: Path, by_file: bool) -> None:
    if by_file:
        (tmp_path / "pytest.ini").write_text("[pytest]\nquantgate_goldens = elsewhere\n", encoding="utf-8")
    given = [] if by_file else ["-o", "quantgate_goldens=elsewhere"]
    command = [sys.executable, "-m", "pytest", "--rootdir", str(tmp_path), *given]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == pytest.ExitCode.USAGE_ERROR
    assert "quantgate_goldens: folders of a project have fixed names" in done.stderr


def test_a_project_in_a_folder_of_its_repository_is_found_by_commands_and_by_pytest(tmp_path: Path) -> None:
    (tmp_path / "ci" / "video" / "cases").mkdir(parents=True)
    (tmp_path / "pyproject.toml").write_text('[tool.quantgate]\nroot = "ci/video"\n', encoding="utf-8")
    assert project_root(tmp_path) == Project.of_repository(tmp_path).root == tmp_path / "ci" / "video"


@pytest.mark.parametrize("text", ['root = "../other"', "root = 1", 'goldens = "x"', "root = "])
def test_a_wrong_table_is_one_sentence_with_the_file(tmp_path: Path, text: str) -> None:
    (tmp_path / "pyproject.toml").write_text(f"[tool.quantgate]\n{text}\n", encoding="utf-8")
    with pytest.raises(InvalidCaseError, match=r"pyproject\.toml"):
        Project.of_repository(tmp_path)
