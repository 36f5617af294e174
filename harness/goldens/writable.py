"""Can a file be written? Asked before the first of several is, since half of them must never be."""

from __future__ import annotations

import tempfile
from pathlib import Path

from harness.errors import disk_error

NOTHING_CHANGED = "nothing was changed"


def require_writable(target: Path) -> None:
    """Make a nameless file where ``target`` will be, or in the nearest folder above it that is there.

    Raises:
        InfraError: it cannot be made.
    """
    folder = next(one for one in target.absolute().parents if one.exists())
    try:
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise disk_error(error, NOTHING_CHANGED, where=str(target)) from error
