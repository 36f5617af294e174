"""List and end processes of this machine, from /proc. Imports little, so that the supervisor stays light.

psutil is not used here. Its ``create_time`` adds the time of boot, which moves when the clock is corrected: the owner
of a running engine would then seem to be another process, and its engine would be ended as a leftover. psutil also
checks a process before it sends a signal to its number; :func:`kill` sends the signal to the process itself.
"""

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
    """A process that is not a zombie."""

    pid: int
    parent: int
    session: int
    state: str
    """State letter of proc_pid_stat(5): ``T`` is stopped by a signal, ``t`` by a debugger."""
    started: int
    """Start time, in clock ticks since boot: together with the process id it is unique."""


def look(pid: int) -> Process | None:
    """Return the process with id ``pid``; ``None`` if there is none, only a zombie, or no /proc.

    Reads the file of the main thread: QEMU's user-mode emulation answers ``/proc/<own pid>/stat`` itself, with a
    start time that differs from the one that other processes read. An engine would then seem to have lost its owner.
    """
    with contextlib.suppress(OSError, ValueError, IndexError):
        # The command's name, in parentheses, may hold blanks and parentheses itself.
        fields = Path(f"/proc/{pid}/task/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
        if fields[0] not in "ZX":
            return Process(pid, int(fields[1]), int(fields[3]), fields[0], int(fields[19]))
    return None


def processes() -> Iterator[Process]:
    """Yield every process but zombies; nothing if there is no /proc."""
    for entry in Path("/proc").glob("[0-9]*"):
        process = look(int(entry.name))
        if process is not None:
            yield process


def descendants(root: int) -> list[Process]:
    """Return all children of ``root``, their children, and so on."""
    everything = list(processes())
    tree: list[Process] = []
    wave = {root}
    while wave:
        children = [process for process in everything if process.parent in wave]
        wave = {process.pid for process in children}
        tree.extend(children)
    return tree


def session_members(leader: int) -> list[Process]:
    """Return every other process of the session led by ``leader``.

    The leader may be reaped already: the kernel does not reuse its number while its session has members.
    """
    return [process for process in processes() if process.session == leader and process.pid != leader]


def kill(process: Process) -> None:
    """Send SIGKILL to exactly this process; do nothing if it ended, even if another process has its number now."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        if sys.platform != "linux":
            os.kill(process.pid, signal.SIGKILL)
            return
        handle = os.pidfd_open(process.pid)
        try:
            # The descriptor is bound to one process from here on; check that it is the process that was read before.
            now = look(process.pid)
            if now is not None and now.started == process.started:
                signal.pidfd_send_signal(handle, signal.SIGKILL)
        finally:
            os.close(handle)


# Processes of engines whose owner is gone: found by a marker in their environment, and ended.


MARKER = "QUANTGATE_ENGINE"
"""Name of the variable. Its value: ``<owner's pid>:<owner's start time>:<PID namespace>:<random>``."""
END_SECONDS = 5.0


def new_marker() -> str:
    """Return a new marker for one engine of this process."""
    process = look(os.getpid())
    return f"{os.getpid()}:{process.started if process else 0}:{_namespace()}:{uuid.uuid4().hex}"


def marked(marker: str) -> list[Process]:
    """Return every process of the engine with this marker."""
    return _with(lambda value: value == marker)


def leftovers() -> list[Process]:
    """Return every process of an engine whose owner is gone.

    Only engines of this PID namespace are checked: the owner of another container's engine is not visible here.
    """
    return _with(_orphaned)


def end_leftovers() -> tuple[int, ...]:
    """Send SIGKILL to all :func:`leftovers`, also to processes that they start meanwhile, for ``END_SECONDS`` at most.

    Returns:
        The process ids that were ended.
    """
    ended: set[int] = set()
    deadline = time.monotonic() + END_SECONDS
    while (processes_left := leftovers()) and time.monotonic() < deadline:
        for process in processes_left:
            kill(process)
            ended.add(process.pid)
        time.sleep(0.01)
    return tuple(sorted(ended))


def _with(matches: Callable[[str], bool]) -> list[Process]:
    prefix = f"{MARKER}=".encode()
    matching = []
    for process in processes():
        try:
            entries = Path(f"/proc/{process.pid}/environ").read_bytes().split(b"\0")
        except OSError:  # it belongs to another user, or has ended
            continue
        value = next((entry[len(prefix) :] for entry in entries if entry.startswith(prefix)), None)
        if value is not None and matches(value.decode(errors="replace")):
            matching.append(process)
    return matching


def _orphaned(marker: str) -> bool:
    try:
        pid, started, namespace, _ = marker.split(":")
        owner = look(int(pid))
        return namespace == _namespace() and (owner is None or owner.started != int(started))
    except ValueError:
        # Another program's value: leave its process alone.
        return False


def _namespace() -> str:
    """Return the PID namespace of this process: the same number means another process in another namespace."""
    try:
        return str(Path("/proc/self/ns/pid").stat().st_ino)
    except OSError:
        return "-"
