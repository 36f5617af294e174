"""What git says of the working tree: changed, untracked and tracked files."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

from harness.errors import InvalidCaseError
from harness.project import HERE

MADE = HERE.written()
"""What regeneration itself writes: a change there is no change of what is measured."""


def dirty_files(root: Path) -> tuple[str, ...]:
    """Changed and untracked files of the repository at ``root``; none where it is no repository.

    Raises:
        InvalidCaseError: git is needed and absent, or fails.
    """
    names, fields = [], iter(_git(root, "status", "--porcelain=v1", "-z", "--untracked-files=all").split("\0"))
    for field in fields:
        if field:
            names.append(field[3:])
            if field[0] in "RC":  # a rename is followed by the name it had
                next(fields, None)
    return tuple(name for name in names if not name.startswith(MADE))


def tracked_files(root: Path) -> tuple[str, ...]:
    """``mode blob stage<TAB>name`` of what is tracked at ``root``, but for cases and what regeneration writes; nothing
    where it is no repository.

    Raises:
        InvalidCaseError: git is needed and absent, or fails.
    """
    rows = [row for row in _git(root, "ls-files", "--stage", "-z").split("\0") if row]
    return tuple(row for row in rows if not row.partition("\t")[2].startswith((f"{HERE.cases.name}/", *MADE)))


def _git(root: Path, *arguments: str) -> str:
    """What git says; nothing where ``root`` is no repository."""
    if not (root / ".git").exists():
        return ""
    git = shutil.which("git")
    if git is None:
        raise InvalidCaseError(
            f"{root} is a git repository, and there is no git to ask for changes", remedy="install git"
        )
    env = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    command = [git, "-C", str(root), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=env)
    if done.returncode:
        raise InvalidCaseError(f"git {arguments[0]} failed: {done.stderr.strip()}", where=str(root))
    return done.stdout
