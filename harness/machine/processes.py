"""Who runs on this machine, from /proc. Light enough for the supervisor."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple


class Process(NamedTuple):
    """One process that is not a zombie."""

    pid: int
    parent: int
    session: int
    state: str
    """The letter of proc_pid_stat(5): ``T`` is stopped by a signal, ``t`` by a debugger."""
    started: int
    """When it started, in clock ticks since boot: with the number, it names a process once and for all."""


def look(pid: int) -> Process | None:
    """Return one process; ``None`` where there is none, only a zombie, or no /proc.

    The file of its main thread is read. QEMU's user-mode emulation answers ``/proc/<own pid>/stat`` itself, with
    another start time than every other process reads: an engine would be taken for one whose owner is gone.
    """
    with contextlib.suppress(OSError, ValueError, IndexError):
        # The command's name, in parentheses, may hold blanks and parentheses itself.
        fields = Path(f"/proc/{pid}/task/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
        if fields[0] not in "ZX":
            return Process(pid, int(fields[1]), int(fields[3]), fields[0], int(fields[19]))
    return None


def processes() -> Iterator[Process]:
    """Every process but zombies; nothing where there is no /proc."""
    for entry in Path("/proc").glob("[0-9]*"):
        process = look(int(entry.name))
        if process is not None:
            yield process


def descendants(root: int) -> list[Process]:
    """All children of ``root``, their children, and so on."""
    everything = list(processes())
    tree: list[Process] = []
    wave = {root}
    while wave:
        children = [process for process in everything if process.parent in wave]
        wave = {process.pid for process in children}
        tree.extend(children)
    return tree


def session_members(leader: int) -> list[Process]:
    """Every other process of the session led by ``leader``.

    The leader may be reaped already: its number is not given away while its session has members.
    """
    return [process for process in processes() if process.session == leader and process.pid != leader]


def kill(process: Process) -> None:
    """SIGKILL to exactly this process: nothing happens if it ended and its number belongs to another one by now."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        if sys.platform != "linux":
            os.kill(process.pid, signal.SIGKILL)
            return
        handle = os.pidfd_open(process.pid)
        try:
            # From here on the descriptor means one process. Is it the one that was looked at?
            now = look(process.pid)
            if now is not None and now.started == process.started:
                signal.pidfd_send_signal(handle, signal.SIGKILL)
        finally:
            os.close(handle)


# Processes of engines whose owner is gone: told by a marker in their environment, and ended.


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
