"""The one comment and the one pull request, against a ``gh`` that writes down what it is asked."""

from __future__ import annotations

import json
import os
import stat
import subprocess
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from harness.cli import lane
from harness.errors import GoldenError, InfraError, InvalidCaseError
from harness.lane.github import post_comment, propose, pull_request_of
from harness.lane.summary import MARK

if TYPE_CHECKING:
    from conftest import Project

GH = """#!/usr/bin/env python3
import json, os, sys
from pathlib import Path
home = Path(os.environ["FAKE_GH"])
if (home / "broken").exists():
    sys.exit("gh: Not Found (HTTP 404)")
text = sys.stdin.read() if "-" in sys.argv else ""
with (home / "calls").open("a") as out:
    out.write(json.dumps({"arguments": sys.argv[1:], "text": text}) + "\\n")
if "--slurp" in sys.argv:
    print((home / "comments").read_text())
elif sys.argv[1:3] == ["pr", "create"]:
    print("https://example.com/pull/9")
"""


@pytest.fixture
def gh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Folder of a fake ``gh``: ``comments`` is what it answers, ``calls`` what it was asked."""
    home = tmp_path / "gh"
    home.mkdir()
    (home / "gh").write_text(GH)
    (home / "gh").chmod((home / "gh").stat().st_mode | stat.S_IXUSR)
    (home / "comments").write_text("[[]]")
    monkeypatch.setenv("PATH", f"{home}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("FAKE_GH", str(home))
    return home


def calls(home: Path) -> list[tuple[list[str], str]]:
    """What ``gh`` was asked, with what it read."""
    lines = [json.loads(line) for line in (home / "calls").read_text().splitlines()]
    return [(line["arguments"], line["text"]) for line in lines]


@pytest.mark.parametrize(
    ("branch", "number"),
    [
        ("pull-request/17", 17),
        ("refs/heads/pull-request/17", 17),
        ("main", None),
        ("pull-request/17/x", None),
        ("x/pull-request/17", None),
        ("pull-request/", None),
        ("pull-request/17\n", None),
        ("pull-request/1234567890", None),
    ],
)
def test_only_a_vetted_copy_has_a_number(branch: str, number: int | None) -> None:
    assert pull_request_of(branch) == number


def test_the_first_comment_is_created(gh: Path) -> None:
    assert post_comment("owner/name", 17, "all green; $(rm -r /) `x`") == "created"
    asked, written = calls(gh)
    assert asked[0] == ["api", "--paginate", "--slurp", "repos/owner/name/issues/17/comments"]
    assert written[0] == ["api", "--method", "POST", "repos/owner/name/issues/17/comments", "--input", "-"]
    assert json.loads(written[1]) == {"body": f"{MARK}\nall green; $(rm -r /) `x`"}


def test_the_second_replaces_it_and_nobody_elses(gh: Path) -> None:
    comments = [
        [{"id": 1, "user": {"login": "someone"}, "body": f"{MARK}\nmine, says someone"}],
        [
            {"id": 2, "user": {"login": "github-actions[bot]"}, "body": "another workflow"},
            {"id": 3, "user": {"login": "github-actions[bot]"}, "body": f"{MARK}\nold"},
        ],
    ]
    (gh / "comments").write_text(json.dumps(comments))
    assert post_comment("owner/name", 17, f"{MARK}\nnew") == "updated"
    assert calls(gh)[1][0] == ["api", "--method", "PATCH", "repos/owner/name/issues/comments/3", "--input", "-"]


def test_a_long_comment_is_cut_where_github_would_refuse_it(gh: Path) -> None:
    post_comment("owner/name", 17, "x" * 100_000)
    body = json.loads(calls(gh)[1][1])["body"]
    assert 60_000 < len(body) < 65_536
    assert body.endswith("The rest is in the job summary.\n")
    post_comment("owner/name", 17, "| &#64;team |\n" * 10_000)
    *rows, _, last = json.loads(calls(gh)[3][1])["body"].splitlines()[1:]
    assert last == "The rest is in the job summary."
    assert set(rows) == {"| &#64;team |"}


def test_a_refusal_of_gh_is_infra_and_a_strange_repository_is_not_asked(gh: Path) -> None:
    with pytest.raises(InvalidCaseError):
        post_comment("../../user", 17, "x")
    (gh / "broken").write_text("")
    with pytest.raises(InfraError, match="HTTP 404"):
        post_comment("owner/name", 17, "x")


def test_a_nightly_has_nobody_to_tell(gh: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "body").write_text("x")
    lane.comment_command(repo="owner/name", branch="main", body=tmp_path / "body")
    assert "no comment" in capsys.readouterr().out
    assert not (gh / "calls").exists()
    lane.comment_command(repo="owner/name", branch="pull-request/3", body=tmp_path / "body")
    assert "created on pull request 3" in capsys.readouterr().out


def git(root: Path, *arguments: str) -> str:
    """Run git."""
    identity = ["-c", "user.name=t", "-c", "user.email=t@example.com"]
    done = subprocess.run(["git", *identity, "-C", str(root), *arguments], capture_output=True, text=True, check=True)
    return done.stdout


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A checkout with an origin it may push to."""
    git(tmp_path, "init", "-q", "--bare", "-b", "main", str(tmp_path / "origin"))
    git(tmp_path, "clone", "-q", str(tmp_path / "origin"), str(tmp_path / "checkout"))
    root = tmp_path / "checkout"
    (root / "thresholds/b200").mkdir(parents=True)
    (root / "thresholds/b200/one.json").write_text("old")
    (root / "harness.py").write_text("code")
    git(root, "add", ".")
    git(root, "commit", "-q", "-m", "base")
    git(root, "push", "-q", "origin", "HEAD:main")
    return root


def looked(root: Path, pairs: Collection[tuple[str, str]]) -> None:
    """A check that finds nothing wrong."""


def changes(tmp_path: Path, files: dict[str, str]) -> Path:
    """What a regeneration left."""
    folder = tmp_path / "changes"
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder


def test_new_limits_become_a_branch_and_a_pull_request(gh: Path, tmp_path: Path, checkout: Path) -> None:
    new = changes(tmp_path, {"thresholds/b200/one.json": "new", "goldens/b200/x/accepted.json": "{}"})
    (checkout / "harness.py").write_text("changed by something else")
    title = "Regenerated; $(id) --evil"
    assert (
        propose(checkout, new, "regenerate/5", title, "@team because", "main", check=looked)
        == "https://example.com/pull/9"
    )
    origin = tmp_path / "origin"
    assert git(origin, "show", "regenerate/5:thresholds/b200/one.json") == "new"
    assert git(origin, "show", "regenerate/5:goldens/b200/x/accepted.json") == "{}"
    assert git(origin, "show", "regenerate/5:harness.py") == "code"
    assert git(origin, "log", "-1", "--format=%s|%an", "regenerate/5").strip() == f"{title}|github-actions[bot]"
    assert git(origin, "show", "main:thresholds/b200/one.json") == "old"
    (arguments, body), (started, _) = calls(gh)
    assert started == ["workflow", "run", "ci.yml", "--ref", "regenerate/5"]
    assert arguments[:6] == ["pr", "create", "--base", "main", "--head", "regenerate/5"]
    assert body == "@team because"


def test_a_proposal_is_checked_before_it_is_pushed(gh: Path, tmp_path: Path, checkout: Path) -> None:
    new = changes(tmp_path, {"thresholds/b200/one.json": "new", "goldens/b200/two/0123/manifest.json": "{}"})
    asked: list[set[tuple[str, str]]] = []

    def refuse(root: Path, pairs: Collection[tuple[str, str]]) -> None:
        asked.append(set(pairs))
        raise InvalidCaseError("damaged")

    with pytest.raises(InvalidCaseError, match="damaged"):
        propose(checkout, new, "regenerate/5", "t", "b", "main", check=refuse)
    assert asked == [{("b200", "one"), ("b200", "two")}]
    assert "regenerate" not in git(tmp_path / "origin", "branch", "--list", "--all")
    assert not (gh / "calls").exists()


def test_the_check_of_a_proposal_reads_the_files(project: Project) -> None:
    project.write_cases({"one": ("m1", "pass")})
    (project.root / "thresholds/b200").mkdir(parents=True)
    (project.root / "thresholds/b200/one.json").write_text("{}")
    with pytest.raises(InvalidCaseError, match="b200/one: limits and no golden"):
        lane.check_proposal(project.root, {("b200", "one")})


def test_nothing_new_is_no_pull_request(gh: Path, tmp_path: Path, checkout: Path) -> None:
    same = changes(tmp_path, {"thresholds/b200/one.json": "old"})
    assert propose(checkout, same, "regenerate/5", "t", "b", "main", check=looked) is None
    assert not (gh / "calls").exists()


@pytest.mark.parametrize(
    "name",
    [
        ".github/workflows/evil.yml",
        "harness/cli/app.py",
        "conftest.py",
        "cases/a.yaml",
        "goldens/store.json",
        "thresholds/b200/x.py",
        "goldens/b200/.hidden/manifest.json",
    ],
)
def test_a_regeneration_cannot_change_code(tmp_path: Path, checkout: Path, name: str) -> None:
    with pytest.raises(InvalidCaseError, match="nothing else"):
        propose(checkout, changes(tmp_path, {name: "x"}), "regenerate/5", "t", "b", "main", check=looked)
    assert git(checkout, "branch", "--list", "regenerate/*") == ""


def test_a_regeneration_cannot_bring_a_link(tmp_path: Path, checkout: Path) -> None:
    folder = changes(tmp_path, {"goldens/a": "x"})
    (folder / "goldens/b").symlink_to("/etc/passwd")
    with pytest.raises(InvalidCaseError, match="nothing else"):
        propose(checkout, folder, "regenerate/5", "t", "b", "main", check=looked)


@pytest.mark.parametrize("branch", ["--force", "a..b", "x y", "", "/x"])
def test_a_branch_is_a_plain_name(tmp_path: Path, checkout: Path, branch: str) -> None:
    with pytest.raises(InvalidCaseError, match="branch name"):
        propose(checkout, tmp_path, branch, "t", "b", "main", check=looked)


def test_a_link_of_the_checkout_is_not_written_through(tmp_path: Path, checkout: Path) -> None:
    (tmp_path / "victim").mkdir()
    (checkout / "goldens").symlink_to(tmp_path / "victim")
    with pytest.raises(GoldenError, match="is a link"):
        propose(
            checkout,
            changes(tmp_path, {"goldens/b200/a/accepted.json": "x"}),
            "regenerate/5",
            "t",
            "b",
            "main",
            check=looked,
        )
    assert list((tmp_path / "victim").iterdir()) == []
