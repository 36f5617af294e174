"""Read the state of the working tree from git: changed, untracked and tracked files, commit and branch."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

from harness.errors import InvalidCaseError
from harness.project import HERE
from harness.records.case_record import Checkout

MADE = HERE.written()
"""Folders that regeneration itself writes: a change there is no change of the code under test."""


def git_top(root: Path) -> Path | None:
    """Return the top of the git work tree that ``root`` lies in: ``root`` itself, or a folder above it.

    Returns:
        ``None`` if ``root`` lies in no work tree.
    """
    root = root.resolve()
    return next((place for place in (root, *root.parents) if (place / ".git").exists()), None)


def dirty_files(root: Path) -> tuple[str, ...]:
    """List changed and untracked files of the repository that contains ``root``.

    Returns:
        Paths relative to ``root``; the path of a file elsewhere in the repository begins with ``../``. Empty if
        ``root`` lies in no repository.

    Raises:
        InvalidCaseError: git is needed and absent, or fails.
    """
    names, fields = [], iter(_git(root, "status", "--porcelain=v1", "-z", "--untracked-files=all").split("\0"))
    for field in fields:
        if field:
            names.append(_relative(root, field[3:]))
            if field[0] in "RC":  # the next field is the old name of a rename
                next(fields, None)
    return tuple(name for name in names if not name.startswith(MADE))


def tracked_files(root: Path) -> tuple[str, ...]:
    """List tracked files of the repository that contains ``root``, without cases and folders of regeneration.

    Returns:
        ``mode blob stage<TAB>name``, the name relative to ``root``; empty if ``root`` lies in no repository.

    Raises:
        InvalidCaseError: git is needed and absent, or fails.
    """
    paths = []
    for row in _git(root, "ls-files", "--stage", "-z").split("\0"):
        state, tab, name = row.partition("\t")
        name = _relative(root, name) if name else ""
        if name and not name.startswith((f"{HERE.cases.name}/", *MADE)):
            paths.append(f"{state}{tab}{name}")
    return tuple(paths)


def _relative(root: Path, name: str) -> str:
    """Convert a path that is relative to the top of the work tree to a path relative to ``root``."""
    top = git_top(root)
    if top is None or top == root.resolve():
        return name
    return os.path.relpath(top / name, root.resolve())


def _git(root: Path, *arguments: str) -> str:
    """Return git's output for the whole work tree; empty if ``root`` lies in no work tree."""
    top = git_top(root)
    if top is None:
        return ""
    if shutil.which("git") is None:
        raise InvalidCaseError(
            f"{root} is a git repository, and there is no git to ask for changes", remedy="install git"
        )
    completed = run_git(top, *arguments)
    if completed.returncode:
        raise InvalidCaseError(f"git {arguments[0]} failed: {_text(completed.stderr)}", place=str(root))
    return os.fsdecode(completed.stdout)


_PULL = re.compile(r"^refs/pull/([0-9]+)/")
_RUNS: tuple[dict[str, str], ...] = (
    {"commit": "GITHUB_SHA", "branch": "GITHUB_HEAD_REF", "ref": "GITHUB_REF_NAME"},
    {"commit": "CI_COMMIT_SHA", "branch": "CI_COMMIT_REF_NAME", "pull": "CI_MERGE_REQUEST_IID", "run": "CI_JOB_URL"},
    {"commit": "BUILDKITE_COMMIT", "branch": "BUILDKITE_BRANCH", "pull": "BUILDKITE_PULL_REQUEST",
     "run": "BUILDKITE_BUILD_URL"},
)  # fmt: skip
"""Variables of GitHub Actions, GitLab and Buildkite, by the fact that each holds."""


def checkout_of(root: Path, environ: Mapping[str, str]) -> Checkout:
    """Return commit, branch, pull request and CI run of a run, read from git and the CI service's variables.

    Never raises: an unknown fact is left empty.

    Args:
        root: the project's root.
        environ: the caller's variables; those of GitHub Actions, GitLab and Buildkite are read.
    """
    names = next((names for names in _RUNS if environ.get(names["commit"])), {})

    def fact(name: str) -> str:
        return environ.get(names.get(name, ""), "")

    pull = fact("pull") if fact("pull").isdigit() else ""
    if match := _PULL.match(environ.get("GITHUB_REF", "")):
        pull = match[1]
    run = fact("run")
    if environ.get("GITHUB_RUN_ID", "").isdigit():
        server, repository = environ.get("GITHUB_SERVER_URL", ""), environ.get("GITHUB_REPOSITORY", "")
        run = f"{server}/{repository}/actions/runs/{environ['GITHUB_RUN_ID']}"
    head = head_of(root)
    branch = fact("branch") or fact("ref") or _quiet(root, "symbolic-ref", "--short", "-q", "HEAD")
    return Checkout(
        commit=head or fact("commit"),
        branch=branch,
        pull_request=pull,
        ci_run=run if run.startswith("https://") else "",
    )


def _quiet(root: Path, *arguments: str) -> str:
    """Return git's output; empty if git is absent, fails or takes more than 30 seconds."""
    try:
        completed = run_git(root, *arguments, seconds=30.0)
    except (OSError, subprocess.SubprocessError):
        return ""
    return _text(completed.stdout) if completed.returncode == 0 else ""


def head_of(root: Path) -> str:
    """Return the commit of the work tree, with ``+dirty`` if tracked files were changed; empty outside a work tree."""
    head = _quiet(root, "rev-parse", "HEAD")
    return f"{head}+dirty" if head and _quiet(root, "status", "--porcelain", "--untracked-files=no") else head


def run_git(
    root: Path, *arguments: str, stdin: bytes = b"", seconds: float = 120.0
) -> subprocess.CompletedProcess[bytes]:
    """Run git in ``root``, whatever its exit status.

    Raises:
        OSError, subprocess.TimeoutExpired: git is absent, or took longer than ``seconds``.
    """
    # a hook of git sets GIT_DIR and the like, which would direct these calls to another repository
    env = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    # replacement objects (`git replace`) are local to a clone, and could show other files than the commit holds
    env["GIT_NO_REPLACE_OBJECTS"] = "1"
    command = ["git", "-C", str(root), *arguments]
    return subprocess.run(command, input=stdin, capture_output=True, check=False, timeout=seconds, env=env)


def _text(output: bytes) -> str:
    return output.decode(errors="replace").strip()
