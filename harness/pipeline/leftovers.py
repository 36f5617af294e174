"""Processes of engines whose owner is gone: told by a marker in their environment, and ended.

Guard and supervisor end everything of an engine. If both are killed in one instant, a process that left the worker's
session has nobody left above it; its environment still says which engine it is of, and which process owned that engine.
A process that also empties its environment is not found; `docs/security.md` says so.
"""

from __future__ import annotations

import os
import time
import uuid
from collections.abc import Callable
from pathlib import Path

from harness.pipeline.proc import Process, kill, look, processes

MARKER = "QUANTGATE_ENGINE"
"""Name of the variable. Its value: ``<owner's pid>:<owner's start>:<PID namespace>:<random>``."""
END_SECONDS = 5.0


def new_marker() -> str:
    """A marker for one engine of this process."""
    own = look(os.getpid())
    return f"{os.getpid()}:{own.started if own else 0}:{_namespace()}:{uuid.uuid4().hex}"


def marked(marker: str) -> list[Process]:
    """Every process of the engine with this marker."""
    return _with(lambda value: value == marker)


def leftovers() -> list[Process]:
    """Every process of an engine whose owner is gone.

    Only engines of this PID namespace are looked at: of another container's owner nothing is known here.
    """
    return _with(_orphaned)


def end_leftovers() -> tuple[int, ...]:
    """SIGKILL to all :func:`leftovers`, also to those that they start meanwhile.

    Returns:
        The process ids that were ended.
    """
    ended: set[int] = set()
    deadline = time.monotonic() + END_SECONDS
    while (left := leftovers()) and time.monotonic() < deadline:
        for process in left:
            kill(process)
            ended.add(process.pid)
        time.sleep(0.01)
    return tuple(sorted(ended))


def _with(wanted: Callable[[str], bool]) -> list[Process]:
    prefix = f"{MARKER}=".encode()
    matching = []
    for process in processes():
        try:
            entries = Path(f"/proc/{process.pid}/environ").read_bytes().split(b"\0")
        except OSError:  # another user's, or gone
            continue
        value = next((entry[len(prefix) :] for entry in entries if entry.startswith(prefix)), None)
        if value is not None and wanted(value.decode(errors="replace")):
            matching.append(process)
    return matching


def _orphaned(marker: str) -> bool:
    try:
        pid, started, namespace, _ = marker.split(":")
        owner = look(int(pid))
        return namespace == _namespace() and (owner is None or owner.started != int(started))
    except ValueError:
        return False


def _namespace() -> str:
    """The PID namespace of this process: numbers of another one mean other processes."""
    try:
        return str(Path("/proc/self/ns/pid").stat().st_ino)
    except OSError:
        return "-"
