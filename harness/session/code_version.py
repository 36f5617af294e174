"""Which code is being tested."""

from __future__ import annotations

import subprocess
from functools import cache
from pathlib import Path


@cache
def code_version(root: Path) -> str:
    """Commit of the checkout at ``root``, with ``+dirty`` where tracked files are changed; empty outside of git."""
    try:
        commit = _git(root, "rev-parse", "HEAD")
        dirty = _git(root, "status", "--porcelain", "--untracked-files=no")
    except (OSError, subprocess.SubprocessError):
        return ""
    return commit + ("+dirty" if dirty else "")


def _git(root: Path, *arguments: str) -> str:
    return subprocess.run(
        ["git", "-C", str(root), *arguments], capture_output=True, text=True, check=True, timeout=30
    ).stdout.strip()
