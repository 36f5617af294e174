"""``quantgate pending | review | accept | reject`` in a terminal."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from harness.cli import review
from harness.cli.review import accept as accept_command
from harness.errors import GoldenError, InvalidCaseError, QuantgateError
from harness.goldens.accept import accept
from harness.goldens.folder import FolderStore
from harness.goldens.workspace import Workspace
from harness.records.frames import SanityEvidence
from harness.records.identity import FieldChange
from tests.goldens.review.conftest import check

app = typer.Typer()
app.command()(review.pending)
app.command()(accept_command)
app.command()(review.reject)
app.command("review")(review.review_command)


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


@pytest.mark.parametrize("reason", ["...", "…"])
def test_the_reason_of_a_printed_command_is_not_taken_as_it_stands(
    workspace: Workspace, left: Callable, reason: str
) -> None:
    left()
    with pytest.raises(InvalidCaseError, match="holds no word"):
        run(workspace, "accept", "nvfp4", "--reason", reason)
    assert FolderStore(workspace.goldens).cases() == ()
    assert "accepted b200/nvfp4" in run(workspace, "accept", "nvfp4", "--reason", "正しい")


def test_pending_names_the_command_that_works(workspace: Workspace, left: Callable) -> None:
    """`accept` refuses frames that failed a check, so the command is `reject`."""
    left(sanity=SanityEvidence(checks=(check(ok=False),)))
    text = run(workspace, "pending")
    assert "quantgate accept" not in text
    assert "quantgate reject nvfp4 --runner b200" in text
    run(workspace, "reject", "nvfp4", "--runner", "b200")


def test_accept_names_the_case_whose_limits_are_missing(workspace: Workspace, left: Callable) -> None:
    left()
    text = run(workspace, "accept", "nvfp4", "--reason", "right")
    assert "limits: there are none yet; next: quantgate regenerate --case nvfp4 --runner b200\n" in text


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


def three(left: Callable) -> None:
    """Candidates of two cases on one runner, and of one of them on another."""
    for case, runner in (("nvfp4", "b200"), ("fp8", "b200"), ("fp8", "cpu")):
        left(case=case, runner=runner)


def accepted(workspace: Workspace) -> list[str]:
    store = FolderStore(workspace.goldens)
    return sorted(f"{runner}/{case}" for runner, case in store.cases() if store.find(runner, case))


@pytest.mark.parametrize(
    ("arguments", "chosen"),
    [
        (["fp8", "nvfp4"], ["b200/fp8", "b200/nvfp4", "cpu/fp8"]),
        (["b200/*"], ["b200/fp8", "b200/nvfp4"]),
        (["f*", "--runner", "b200"], ["b200/fp8"]),
        (["--all"], ["b200/fp8", "b200/nvfp4", "cpu/fp8"]),
    ],
)
def test_several_are_accepted_or_rejected_at_once(
    workspace: Workspace, left: Callable, arguments: list[str], chosen: list[str]
) -> None:
    three(left)
    text = run(workspace, "accept", *arguments, "--reason", "r", "--author", "Eve")
    assert accepted(workspace) == chosen
    if len(chosen) > 1:
        assert f"{len(chosen)} accepted, 0 refused" in text
    (line,) = (line for line in text.splitlines() if line.startswith("to commit: git add "))
    assert all(f"goldens/{name}/accepted.json" in line for name in chosen)
    three(left)
    text = run(workspace, "reject", *arguments)
    assert text.count("rejected") == len(chosen)


def test_one_that_is_refused_holds_no_other_up(workspace: Workspace, left: Callable) -> None:
    three(left)
    sick = workspace.pending("b200", "fp8") / "candidate.json"
    sick.write_text(sick.read_text().replace("run-1", "run-2"))
    (workspace.root / "cases").mkdir(parents=True, exist_ok=True)
    result = CliRunner().invoke(app, ["accept", "--all", "--reason", "r", "--root", str(workspace.root)])
    assert result.exit_code == GoldenError("x").exit_code
    assert accepted(workspace) == ["b200/nvfp4", "cpu/fp8"]
    assert "refused b200/fp8: " in result.output
    assert "2 accepted, 1 refused" in result.output


def test_globs_choose_from_an_artifact_too(workspace: Workspace, left: Callable, tmp_path: Path) -> None:
    three(left)
    shutil.move(workspace.pending_root, tmp_path / "artifact")
    run(workspace, "accept", "b200/*", "--reason", "r", "--from", str(tmp_path / "artifact"))
    assert accepted(workspace) == ["b200/fp8", "b200/nvfp4"]
    archive = shutil.make_archive(str(tmp_path / "zipped"), "zip", tmp_path / "artifact")
    run(workspace, "accept", "cpu/*", "--reason", "r", "--from", archive, "--unseen")
    assert accepted(workspace) == ["b200/fp8", "b200/nvfp4", "cpu/fp8"]


def test_a_name_that_matches_nothing_accepts_nothing(workspace: Workspace, left: Callable) -> None:
    three(left)
    with pytest.raises(GoldenError, match="no candidate matches 'x'") as caught:
        run(workspace, "accept", "fp8", "x", "--reason", "r")
    assert "b200/fp8, b200/nvfp4, cpu/fp8" in caught.value.remedy
    assert accepted(workspace) == []


def test_review_writes_the_page_of_all_candidates(workspace: Workspace, left: Callable) -> None:
    with pytest.raises(GoldenError, match="nothing is pending"):
        run(workspace, "review")
    three(left)
    shutil.rmtree(workspace.state / "report")  # the fixture's, and no report
    text = run(workspace, "review")
    page = (workspace.state / "report" / "review.html").read_text()
    assert "3 candidates: " in text
    assert [f'data-choice="{name}"' in page for name in ("b200/fp8", "b200/nvfp4", "cpu/fp8")] == [True] * 3
    assert "no report shows it" not in page
    assert "quantgate accept" in page  # for a browser without scripts
    run(workspace, "review", "--runner", "cpu")
    assert 'data-choice="b200/fp8"' not in (workspace.state / "report" / "review.html").read_text()


def test_review_of_an_artifact_names_it_in_the_command(workspace: Workspace, left: Callable, tmp_path: Path) -> None:
    three(left)
    shutil.move(workspace.pending_root, tmp_path / "an artifact")
    run(workspace, "review", "--from", str(tmp_path / "an artifact"))
    page = (tmp_path / "an artifact" / "report" / "review.html").read_text()
    assert "--from &#39;" in page
    assert "an artifact&#39;" in page
    archive = shutil.make_archive(str(tmp_path / "zipped"), "zip", tmp_path / "an artifact")
    with pytest.raises(GoldenError, match="unpack it first"):
        run(workspace, "review", "--from", archive)
