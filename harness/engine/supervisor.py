"""Two small processes between the parent and the worker. They make sure that no process of an engine outlives it.

::

    pytest ── guard ── supervisor ── worker ── programs of the backend

Guard and supervisor both reap everything below them (``PR_SET_CHILD_SUBREAPER``), also processes that left the
worker's group or session. Each ends, and kills everything below it, when its child ends, when it gets SIGTERM, and
when the *life pipe* closes because the parent closed it or died in any way. There are two, so that each can watch the
other: the guard notices a supervisor that is killed or stopped (SIGSTOP), and the supervisor notices such a guard.
Neither ever imports a library that could hang or hold the interpreter lock.

If both are killed at the same instant, the kernel ends the worker (``PR_SET_PDEATHSIG``), and the parent ends the rest,
which it finds by the marker in the environment (``harness.machine.processes``). If the parent died too, the next engine
does so. Outside Linux there is neither reaper nor death signal: only the worker's process group is ended there.
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
from pathlib import Path

from harness.machine.processes import descendants, kill, look

TERM_GRACE_SECONDS = 2.0
POLL_SECONDS = 0.1
STOP_GRACE_SECONDS = 2.0
"""How many seconds guard or supervisor may be stopped before the engine is ended."""
_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36


def supervise(life: int, close_in_supervisor: tuple[int, ...], work: Callable[[], int]) -> int:
    """Run ``work`` two processes further down. Return its exit status after all its processes are gone.

    Args:
        life: read end of a pipe whose other end only the parent holds.
        close_in_supervisor: descriptors that only the worker may hold.
        work: the worker's function; returns its exit status.

    Returns:
        The worker's exit status, or 128 + signal if a signal ended the worker or the supervisor.
    """

    def supervisor() -> int:
        return _watch(life, close_in_supervisor, lambda: _worker(life, work), worker=True)

    return _watch(life, close_in_supervisor, supervisor, worker=False)


def _worker(life: int, work: Callable[[], int]) -> int:
    # a group of its own, so that one signal reaches all of its programs
    os.setpgid(0, 0)
    os.close(life)
    return work()


def _watch(life: int, close_here: tuple[int, ...], work: Callable[[], int], *, worker: bool) -> int:
    """Run ``work`` in a forked child and watch it. When this returns, no process below this one is left.

    Args:
        life, close_here: as for :func:`supervise`.
        work: the child's function.
        worker: whether the child is the worker. The worker leads a group of its own, and the parent notices a stopped
            worker by its silence. A supervisor has no reason to be stopped, so the guard checks for it.
    """
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)
    parent, own_pid = os.getppid(), os.getpid()
    child = os.fork()
    if child == 0:
        code = 1
        if worker:
            _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        try:
            if os.getppid() == own_pid:  # else this parent died before the death signal was requested
                code = work()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            # `_exit`: the fork must not run the parent's exit handlers
            os._exit(code)
    if worker:
        # the child calls setpgid as well: done on both sides, the group exists whichever of them runs first
        with contextlib.suppress(OSError):
            os.setpgid(child, child)
    for descriptor in close_here:
        os.close(descriptor)
    stop_request, stopped = _Asked(), _Stopped()
    status: int | None = None
    while status is None and not stop_request.to_end and _parent_lives(life, parent):
        status = _reap(child)
        # The supervisor checks its parent, the guard. The guard must not check its own: Ctrl-Z may suspend that.
        if status is None and stopped.too_long(parent if worker else child):
            status = 128 + signal.SIGSTOP
    if status is None and stop_request.to_end:
        status = _end_gently(child, group=worker)
    # after a normal end too: a backend may have left programs behind
    killed = _kill_all(child, group=worker)
    if worker:
        _end_stopped_guard(parent)
    return status if status is not None else killed


def _end_stopped_guard(guard: int) -> None:
    """Send SIGKILL to a stopped guard: it would stay stopped, and the parent could not see that the engine ended."""
    process = look(guard)
    if process is not None and process.state == "T" and os.getppid() == guard:
        kill(process)


class _Stopped:
    """Detects a process that is stopped for longer than ``STOP_GRACE_SECONDS``."""

    def __init__(self) -> None:
        self._since: float | None = None

    def too_long(self, pid: int) -> bool:
        """Return whether ``pid`` was stopped by a signal at each look during the last ``STOP_GRACE_SECONDS``."""
        process = look(pid)
        if process is None or process.state != "T":  # "t" means stopped by a debugger, which is allowed
            self._since = None
            return False
        now = time.monotonic()
        self._since = now if self._since is None else self._since
        return now - self._since > STOP_GRACE_SECONDS


class _Asked:
    """Remembers that SIGTERM, SIGINT or SIGHUP arrived."""

    def __init__(self) -> None:
        self.to_end = False
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, self._note)

    def _note(self, _number: int, _frame: object) -> None:
        self.to_end = True


def _prctl(option: int, value: int) -> None:
    """Call Linux's ``prctl`` for this process; a no-op on other systems, where only the group is ended."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(option, value, 0, 0, 0)


def _parent_lives(life: int, parent: int) -> bool:
    """Wait one poll interval. Return false if the other end of the life pipe is closed or the parent has changed."""
    readable, _, _ = select.select([life], [], [], POLL_SECONDS)
    closed = bool(readable) and os.read(life, 1) == b""
    return not closed and os.getppid() == parent


def _reap(worker: int) -> int | None:
    """Collect ended children. Return the worker's exit status if it has ended."""
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


def _end_gently(worker: int, *, group: bool) -> int | None:
    """Send SIGTERM to the child or its group. Return its exit status if it ends within the grace time."""
    with contextlib.suppress(ProcessLookupError):
        (os.killpg if group else os.kill)(worker, signal.SIGTERM)
    # the supervisor gives the worker a grace time first, so the guard waits twice as long for the supervisor
    deadline = time.monotonic() + (TERM_GRACE_SECONDS if group else 2 * TERM_GRACE_SECONDS)
    while time.monotonic() < deadline:
        status = _reap(worker)
        if status is not None:
            return status
        time.sleep(0.02)
    return None


def _kill_all(child: int, *, group: bool) -> int:
    """Send SIGKILL to the group, which is atomic even against a fork bomb, then to all other descendants; reap all."""
    status = 128 + signal.SIGKILL
    quiet = 0
    # two empty looks in a row: a process may fork between the listing and its death
    while quiet < 2:
        if group:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(child, signal.SIGKILL)
        processes = descendants(os.getpid())
        for process in processes:
            kill(process)
        ended = _reap(child)
        status = ended if ended is not None else status
        quiet = 0 if processes else quiet + 1
        time.sleep(0.01)
    return status


# Out-of-memory kills are read from a counter of this control group, not guessed from a signal.


_COUNTERS = (Path("/sys/fs/cgroup/memory.events"), Path("/sys/fs/cgroup/memory/memory.oom_control"))


def kernel_kills(counters: tuple[Path, ...] = _COUNTERS) -> int:
    """Return how many processes of this control group the kernel killed for memory; 0 if no counter can be read."""
    for path in counters:
        try:
            text = path.read_text(encoding="ascii")
        except OSError:
            continue
        for line in text.splitlines():
            name, _, value = line.partition(" ")
            if name == "oom_kill" and value.strip().isdigit():
                return int(value)
    return 0
