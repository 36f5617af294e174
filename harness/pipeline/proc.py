"""Who runs on this machine, from /proc. Light enough for the supervisor."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple


class Process(NamedTuple):
    """One process that is not a zombie."""

    pid: int
    parent: int
    session: int


def processes() -> Iterator[Process]:
    """Every process but zombies; nothing where there is no /proc."""
    for entry in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError, ValueError, IndexError):
            # The command's name, in parentheses, may hold blanks and parentheses itself.
            state, parent, _group, session = entry.read_text(errors="replace").rpartition(")")[2].split()[:4]
            if state not in "ZX":
                yield Process(int(entry.parent.name), int(parent), int(session))


def descendants(root: int) -> list[int]:
    """Process ids of all children of ``root``, their children, and so on."""
    parents = {process.pid: process.parent for process in processes()}
    found: list[int] = []
    wave = {root}
    while wave:
        wave = {pid for pid, parent in parents.items() if parent in wave}
        found.extend(wave)
    return found


def session_members(leader: int) -> list[int]:
    """Every other process of the session led by ``leader``.

    The leader may be reaped already: its number is not given away while its session has members.
    """
    return [process.pid for process in processes() if process.session == leader and process.pid != leader]
