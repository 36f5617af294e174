"""The newest known time. A clock that was set back must not make an expired waiver valid again."""

from __future__ import annotations

import functools
import subprocess
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path


def newest_time(now: datetime, root: Path, stated: Iterable[str] = ()) -> datetime:
    """Return the latest of the clock, the time of the checked-out commit, and the times in limits or goldens.

    Args:
        now: the clock, with its time zone.
        root: the repository.
        stated: times as ISO 8601; an unreadable time is ignored, a time without a zone is UTC.
    """
    times = [now, *(time for text in (*stated, _commit_time(root)) if (time := _read(text)) is not None)]
    return max(times)


def _read(text: str) -> datetime | None:
    try:
        time = datetime.fromisoformat(text)
    except ValueError:
        return None
    return time if time.tzinfo is not None else time.replace(tzinfo=UTC)


@functools.cache
def _commit_time(root: Path) -> str:
    """Return the time of the checked-out commit (ISO 8601); empty if git cannot report it."""
    command = ["git", "-C", str(root), "log", "-1", "--format=%cI"]
    try:
        completed = subprocess.run(command, capture_output=True, text=True, check=False, timeout=30)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return completed.stdout.strip() if completed.returncode == 0 else ""
