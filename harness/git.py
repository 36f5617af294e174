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


def git_top(root: Path) -> Path | None:
    """Return the top of the git work tree that ``root`` lies in: ``root`` itself, or a folder above it.

    Returns:
        ``None`` where ``root`` lies in no work tree.
    """
    root = root.resolve()
    return next((place for place in (root, *root.parents) if (place / ".git").exists()), None)


def dirty_files(root: Path) -> tuple[str, ...]:
    """List changed and untracked files of the repository that ``root`` lies in.

    Returns:
        Paths relative to ``root``; those of a file elsewhere in the repository begin with ``../``. Empty where ``root``
        lies in no repository.

    Raises:
        InvalidCaseError: git is needed and absent, or fails.
    """
    names, fields = [], iter(_git(root, "status", "--porcelain=v1", "-z", "--untracked-files=all").split("\0"))
    for field in fields:
        if field:
            names.append(_relative(root, field[3:]))
            if field[0] in "RC":  # a rename is followed by the name it had
                next(fields, None)
    return tuple(name for name in names if not name.startswith(MADE))


def tracked_files(root: Path) -> tuple[str, ...]:
    """List what the repository that ``root`` lies in tracks, but for cases and what regeneration writes.

    Returns:
        ``mode blob stage<TAB>name``, the name relative to ``root``; empty where ``root`` lies in no repository.

    Raises:
        InvalidCaseError: git is needed and absent, or fails.
    """
    kept = []
    for row in _git(root, "ls-files", "--stage", "-z").split("\0"):
        told, tab, name = row.partition("\t")
        name = _relative(root, name) if name else ""
        if name and not name.startswith((f"{HERE.cases.name}/", *MADE)):
            kept.append(f"{told}{tab}{name}")
    return tuple(kept)


def _relative(root: Path, name: str) -> str:
    """A path that git gives relative to the top of the work tree, relative to ``root``."""
    top = git_top(root)
    if top is None or top == root.resolve():
        return name
    return os.path.relpath(top / name, root.resolve())


def _git(root: Path, *arguments: str) -> str:
    """What git says of the whole work tree; nothing where ``root`` lies in none."""
    top = git_top(root)
    if top is None:
        return ""
    git = shutil.which("git")
    if git is None:
        raise InvalidCaseError(
            f"{root} is a git repository, and there is no git to ask for changes", remedy="install git"
        )
    env = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    command = [git, "-C", str(top), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=env)
    if done.returncode:
        raise InvalidCaseError(f"git {arguments[0]} failed: {done.stderr.strip()}", where=str(root))
    return done.stdout
