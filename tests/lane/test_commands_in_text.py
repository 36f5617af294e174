"""What an engine said is shown, and is no command to GitHub Actions."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from conftest import Project


def test_neither_pytest_nor_merge_passes_a_command_on(project: Project) -> None:
    project.write_cases({"a": ("m1", "command")})
    assert project.run("quantgate", "plan", "--runner", "b200").returncode == 0
    ran = project.run(sys.executable, "-m", "pytest", "--plan", "plan.json", "--run-id", "r", "-rA")
    merged = project.run("quantgate", "merge", "runs/r", "--plan", "plan.json", GITHUB_ACTIONS="true")
    for done in (ran, merged):
        assert done.returncode == 10, done.stdout
        assert ": :error::no" in done.stdout
        assert not [line for line in done.stdout.splitlines() if line.lstrip().startswith("::") or "##[" in line]


def test_a_command_in_the_name_of_a_case_file_is_none(project: Project) -> None:
    (project.root / "cases" / "x\n::error::owned.yaml").write_text("cases:\n  a: {runners: [cpu]}\n")
    for more in ((), ("--collect-only", "-q")):
        done = project.run(sys.executable, "-m", "pytest", "--runner", "cpu", *more, GITHUB_ACTIONS="true")
        assert done.returncode not in (0, 5), done.stdout
        assert "owned.yaml" in done.stdout
        both = (done.stdout + done.stderr).splitlines()
        assert not [line for line in both if line.lstrip().startswith("::") or "##[" in line]
