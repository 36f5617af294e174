"""A project in a folder of a repository: git's answers are those of the repository, paths those of the project."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from harness.git import dirty_files, git_top, tracked_files
from harness.lane.coverage import coverage_against

RUNNER = "name: cpu\ndevice_kind: cpu\narchitectures: [x86_64]\nmarker: cpu\nlabels: [x]\n"
CASES = """\
defaults:
  runners: [cpu]
  model: {path: ./model}
  sampling: {prompt: x, width: 96, height: 64, num_frames: 5, num_inference_steps: 1, guidance_scale: 1.0}
cases:
  one: {}
"""


@pytest.fixture
def gate(tmp_path: Path) -> Path:
    files = {
        "gate/cases/a.yaml": CASES + "  two: {}\n",
        "gate/runners/cpu.yaml": RUNNER,
        "gate/draw.py": "",
        "gate/goldens/cpu/one/x.json": "",
        "lib/engine.py": "",
        "cases/theirs.yaml": "",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    git(tmp_path, "init", "-q", "-b", "main")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-q", "-m", "all")
    return tmp_path / "gate"


def git(root: Path, *arguments: str) -> None:
    identity = ("-c", "user.name=t", "-c", "user.email=t@example.com")
    subprocess.run(["git", *identity, *arguments], cwd=root, check=True, capture_output=True)


def test_changes_of_the_whole_repository_count(gate: Path) -> None:
    assert git_top(gate) == gate.parent
    assert dirty_files(gate) == ()
    (gate / "draw.py").write_text("1")
    (gate.parent / "lib/engine.py").write_text("1")
    (gate / "goldens/cpu/one/x.json").write_text("1")
    (gate / "new.py").write_text("1")
    assert sorted(dirty_files(gate)) == ["../lib/engine.py", "draw.py", "new.py"]
    assert all((gate / name).is_file() for name in dirty_files(gate))
    every = ["gate/draw.py", "gate/goldens/cpu/one/x.json", "gate/new.py", "lib/engine.py"]
    assert sorted(dirty_files(gate.parent)) == every


def test_code_is_what_the_repository_tracks_but_for_the_cases_of_the_project(gate: Path) -> None:
    names = [row.partition("\t")[2] for row in tracked_files(gate)]
    assert names == ["../cases/theirs.yaml", "draw.py", "runners/cpu.yaml", "../lib/engine.py"]


def test_outside_of_a_repository_there_is_nothing_to_ask(tmp_path: Path) -> None:
    assert (git_top(tmp_path), dirty_files(tmp_path), tracked_files(tmp_path)) == (None, (), ())


def test_a_removed_case_is_seen_from_the_folder(gate: Path) -> None:
    from harness.definitions.loading import load_cases
    from harness.project import case_files

    (gate / "cases/a.yaml").write_text(CASES)
    cases = [located.case for located in load_cases(case_files(gate), gate)]
    coverage = coverage_against(gate, "main", "cpu", cases)
    assert [(change.kind, change.case) for change in coverage.changes] == [("removed", "two")]


def test_attributes_of_the_repository_hide_no_case_from_the_comparison(gate: Path) -> None:
    """``export-ignore`` leaves files out of ``git archive``; a replacement object shows another commit."""
    (gate.parent / ".gitattributes").write_text("gate/cases/** export-ignore\n*.yaml export-subst\n")
    git(gate, "add", ":/")
    git(gate, "commit", "-q", "-m", "attributes")
    (gate / "cases/a.yaml").write_text(CASES)
    coverage = coverage_against(gate, "HEAD", "cpu", [])
    assert [(change.kind, change.case) for change in coverage.without_reason()] == [
        ("removed", "one"),
        ("removed", "two"),
    ]
    git(gate, "rm", "-q", "-f", "cases/a.yaml")
    git(gate, "commit", "-q", "-m", "no cases")
    git(gate, "replace", "HEAD~1", "HEAD")
    coverage = coverage_against(gate, "HEAD~1", "cpu", [])
    assert {change.case for change in coverage.of("removed")} == {"one", "two"}


def test_a_link_of_the_base_is_read_inside_the_commit_only(
    gate: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    outside = tmp_path_factory.mktemp("outside") / "b.yaml"
    outside.write_text(CASES.replace("one:", "from_outside:"))
    (gate / "cases/b.yaml").symlink_to(outside)
    (gate / "more.yaml").write_text("")
    (gate / "cases/sub").mkdir()
    (gate / "cases/sub/c.yaml").symlink_to("../../cases/a.yaml")
    git(gate, "add", ".")
    git(gate, "commit", "-q", "-m", "links")
    coverage = coverage_against(gate, "HEAD", "cpu", [])
    assert {change.case for change in coverage.changes} == {"one", "two"}
