"""The small process between the parent and the worker: it makes sure that nothing of an engine outlives it.

The supervisor forks the worker into a process group of its own and becomes the reaper of everything that the worker
starts (``PR_SET_CHILD_SUBREAPER``), also of processes that left the group. It ends, and takes all of them with it, when
the worker ends, when it gets SIGTERM, and when the *life pipe* closes because the parent closed it or died in any way.
It never imports a library that could hang or hold the interpreter lock.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import select
import signal
import sys
import time
from collections.abc import Callable

from harness.pipeline.proc import descendants

TERM_GRACE_SECONDS = 2.0
POLL_SECONDS = 0.1
_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36


def supervise(life: int, close_in_supervisor: tuple[int, ...], work: Callable[[], int]) -> int:
    """Run ``work`` in a forked child and return its exit status once nothing of it is left.

    Args:
        life: read end of a pipe whose other end only the parent holds.
        close_in_supervisor: descriptors that only the worker may hold.
        work: what the worker does; returns its exit status.

    Returns:
        The worker's exit status, or 128 + signal where a signal ended it.
    """
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)
    parent, supervisor = os.getppid(), os.getpid()
    worker = os.fork()
    if worker == 0:
        os.setpgid(0, 0)
        os.close(life)
        _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != supervisor:
            os._exit(1)
        code = 1
        try:
            code = work()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
    with contextlib.suppress(OSError):
        os.setpgid(worker, worker)
    for descriptor in close_in_supervisor:
        os.close(descriptor)
    asked = _Asked()
    status: int | None = None
    while status is None and not asked.to_end and _parent_lives(life, parent):
        status = _reap(worker)
    if status is None and asked.to_end:
        status = _end_gently(worker)
    killed = _kill_all(worker)
    return status if status is not None else killed


class _Asked:
    """Remembers SIGTERM and SIGINT."""

    def __init__(self) -> None:
        self.to_end = False
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, self._note)

    def _note(self, _number: int, _frame: object) -> None:
        self.to_end = True


def _prctl(option: int, value: int) -> None:
    """Ask Linux for something about this process; elsewhere nothing is asked, and only the group is ended."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(option, value, 0, 0, 0)


def _parent_lives(life: int, parent: int) -> bool:
    """Wait one poll interval; false once the other end of the life pipe is closed or the parent is another one."""
    readable, _, _ = select.select([life], [], [], POLL_SECONDS)
    closed = bool(readable) and os.read(life, 1) == b""
    return not closed and os.getppid() == parent


def _reap(worker: int) -> int | None:
    """Collect ended children; the worker's exit status once it has ended."""
    status = None
    while True:
        try:
            pid, raw = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return status
        if pid == 0:
            return status
        if pid == worker:
            code = os.waitstatus_to_exitcode(raw)
            status = code if code >= 0 else 128 - code


def _end_gently(worker: int) -> int | None:
    """SIGTERM to the worker's group, and its exit status where it ends within the grace time."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(worker, signal.SIGTERM)
    deadline = time.monotonic() + TERM_GRACE_SECONDS
    while time.monotonic() < deadline:
        status = _reap(worker)
        if status is not None:
            return status
        time.sleep(0.02)
    return None


def _kill_all(worker: int) -> int:
    """SIGKILL to the group, which is atomic even against a fork bomb, then to whatever left the group; reap all."""
    status = 128 + signal.SIGKILL
    quiet = 0
    while quiet < 2:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(worker, signal.SIGKILL)
        left = descendants(os.getpid())
        for pid in left:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
        ended = _reap(worker)
        status = ended if ended is not None else status
        quiet = 0 if left else quiet + 1
        time.sleep(0.01)
    return status
