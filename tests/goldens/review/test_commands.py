"""``quantgate pending | accept | reject`` in a terminal."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from harness.cli import review
from harness.cli.review import accept as accept_command
from harness.errors import GoldenError, QuantgateError
from harness.goldens.accept import accept
from harness.goldens.folder import FolderStore
from harness.goldens.workspace import Workspace
from harness.records.identity import FieldChange

app = typer.Typer()
app.command()(review.pending)
app.command()(accept_command)
app.command()(review.reject)


def run(workspace: Workspace, *arguments: str) -> str:
    """The output of a command; errors of ours come through."""
    (workspace.root / "cases").mkdir(parents=True, exist_ok=True)
    result = CliRunner().invoke(app, [*arguments, "--root", str(workspace.root)])
    if isinstance(result.exception, QuantgateError):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result.output


def test_pending_says_what_and_the_command_to_type(workspace: Workspace, left: Callable) -> None:
    assert "nothing is pending" in run(workspace, "pending")
    change = FieldChange(identity_class="request", field="sampling.seed", golden=0, run=1)
    left(golden="a" * 64, changes=(change,))
    text = run(workspace, "pending")
    assert "b200/nvfp4  golden_missing" in text
    assert "instead of golden aaaaaaaaaaaaaaaa" in text
    assert "request.sampling.seed: 0 -> 1" in text
    assert "quantgate accept nvfp4 --runner b200 --reason" in text
    assert "1 pending" in text


def test_damaged_candidate_is_listed_as_damaged(workspace: Workspace, left: Callable) -> None:
    (left() / "candidate.json").write_text("{")
    text = run(workspace, "pending")
    assert "b200/nvfp4  DAMAGED" in text
    assert "not a candidate" in text


def test_accept_says_what_to_commit(workspace: Workspace, left: Callable) -> None:
    left()
    text = run(workspace, "accept", "nvfp4", "--reason", "new kernel", "--author", "Eve")
    (golden,) = FolderStore(workspace.goldens).find("b200", "nvfp4")
    assert f"accepted b200/nvfp4 as golden {golden.digest[:16]}" in text
    assert "next: quantgate regenerate" in text
    assert golden.manifest.author == "Eve"
    assert f"git add goldens/b200/nvfp4/{golden.digest[:16]} goldens/b200/nvfp4/accepted.json" in text


def test_the_commit_that_accept_prints_is_the_whole_change(workspace: Workspace, left: Callable) -> None:
    workspace.root.mkdir(parents=True)
    git = ["git", "-c", "user.name=Eve", "-c", "user.email=eve@example.org"]
    subprocess.run([*git, "init", "-q"], cwd=workspace.root, check=True)
    left()
    text = run(workspace, "accept", "nvfp4", "--reason", "r", "--author", "Eve")
    command = text.split("to commit: ")[1].split()
    subprocess.run(command, cwd=workspace.root, check=True)
    status = subprocess.run(
        ["git", "status", "--porcelain", "-uall"], cwd=workspace.root, check=True, capture_output=True, text=True
    )
    rows = status.stdout.splitlines()
    assert rows
    assert all(row.startswith("A ") for row in rows), rows


def test_author_is_gits_user_unless_named(workspace: Workspace, left: Callable) -> None:
    workspace.root.mkdir(parents=True)
    subprocess.run(["git", "init", "-q"], cwd=workspace.root, check=True)
    subprocess.run(["git", "config", "user.name", "Grace"], cwd=workspace.root, check=True)
    left()
    run(workspace, "accept", "nvfp4", "--reason", "r")
    assert FolderStore(workspace.goldens).find("b200", "nvfp4")[0].manifest.author == "Grace"


def test_accept_from_an_artifact(workspace: Workspace, left: Callable, tmp_path: Path) -> None:
    folder = left()
    source = tmp_path / "artifact"
    folder.rename(source)
    run(workspace, "accept", "nvfp4", "--reason", "r", "--from", str(source))
    assert len(FolderStore(workspace.goldens).find("b200", "nvfp4")) == 1


def test_reject(workspace: Workspace, left: Callable) -> None:
    left()
    assert "rejected" in run(workspace, "reject", "nvfp4")
    with pytest.raises(GoldenError, match="no candidate"):
        run(workspace, "reject", "nvfp4")


def test_reason_is_not_optional(workspace: Workspace, left: Callable) -> None:
    left()
    result = CliRunner().invoke(app, ["accept", "nvfp4", "--root", str(workspace.root)])
    assert result.exit_code == 2
    assert FolderStore(workspace.goldens).cases() == ()


def test_pending_finishes_what_was_interrupted(workspace: Workspace, left: Callable) -> None:
    class Killed(BaseException):
        pass

    def hook(name: str) -> None:
        if name == "journal written":
            raise Killed

    left()
    with pytest.raises(Killed):
        accept(workspace, "nvfp4", reason="good", author="a", hook=hook)
    text = run(workspace, "pending")
    assert "an interrupted command was finished: accept nvfp4: good" in text
    assert "nothing is pending" in text
