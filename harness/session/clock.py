"""The newest time that a run knows of: a clock that was set back must not bring an expired waiver to life again."""

from __future__ import annotations

import functools
import subprocess
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path


def newest_time(now: datetime, root: Path, stated: Iterable[str] = ()) -> datetime:
    """The latest of this machine's clock, the checked-out commit, and the times that limits or goldens state.

    Args:
        now: the clock, with its time zone.
        root: the repository.
        stated: times as ISO 8601; one that cannot be read is left out, one without a zone is UTC.
    """
    known = [now, *(time for text in (*stated, _commit_time(root)) if (time := _read(text)) is not None)]
    return max(known)


def _read(text: str) -> datetime | None:
    try:
        time = datetime.fromisoformat(text)
    except ValueError:
        return None
    return time if time.tzinfo is not None else time.replace(tzinfo=UTC)


@functools.cache
def _commit_time(root: Path) -> str:
    """When the checked-out commit was made; empty where that cannot be told."""
    command = ["git", "-C", str(root), "log", "-1", "--format=%cI"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=30)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""
