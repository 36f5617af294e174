"""A warm process from which engines are forked, so that the common imports are made once instead of once per engine.

It is used if an engine's environment allows it. Some variables count before the first import (thread counts, the
instruction set, the place of the hub's files): such an environment has a starter of its own. Beyond two environments,
an engine is started as a new program, as is every engine whose backend imports nothing heavy. The record of a load
names the way.

The starter holds no lease and no GPU. It ends with its owner, and its forks end with it.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.machine.processes import MARKER, kill, look, new_marker
from harness.reading import UnreadableError, parse_object

if TYPE_CHECKING:
    from harness.definitions.case import Case

LATE = frozenset({"CUDA_VISIBLE_DEVICES", "CUDA_DEVICE_ORDER", "CUBLAS_WORKSPACE_CONFIG", MARKER})
"""Variables that are read only when an engine first uses its device: CUDA reads the first two when it is initialized,
cuBLAS the third when its first handle is made."""
MODULES = (
    "harness.engine.backends.needs",  # first: it hides packages that diffusers would pull in
    "harness.engine.backends.diffusers_backend",
    "harness.engine.fingerprint",
)
"""Modules that the starter imports: everything that the ``diffusers`` backend needs."""
READY_SECONDS = 180.0
"""How many seconds a fork waits for the starter's imports; after that the engine is started as a new program."""
ANSWER_SECONDS = 20.0
MESSAGE_LIMIT = 1 << 16
SWITCH = "QUANTGATE_STARTER"
"""``0`` in the caller's environment turns the starter off: every engine is started as a new program."""


class StarterError(Exception):
    """The starter is gone, does not reply, or must not be forked."""


class Forked:
    """The guard of a forked engine, with the interface of ``subprocess.Popen`` that ``WorkerProcess`` uses."""

    def __init__(self, pid: int, status: int) -> None:
        self.pid = pid
        self.returncode: int | None = None
        self._status = status
        self._started = look(pid)

    def poll(self) -> int | None:
        """Return the exit status, negative if a signal ended the guard; ``None`` while it lives."""
        return self._end(0.0)

    def wait(self, timeout: float | None = None) -> int:
        """Wait for the exit status.

        Raises:
            subprocess.TimeoutExpired: the guard still lives.
        """
        code = self._end(timeout)
        if code is None:
            raise subprocess.TimeoutExpired("engine", timeout or 0.0)
        return code

    def _end(self, timeout: float | None) -> int | None:
        if self.returncode is None:
            readable, _, _ = select.select([self._status], [], [], timeout)
            if readable:
                text = os.read(self._status, 64)
                os.close(self._status)
                # a killed starter cannot report the status of its forks; they are killed with it
                self.returncode = int(text) if text else -signal.SIGKILL
        return self.returncode

    def send_signal(self, number: int) -> None:
        """Send a signal to the guard, and never to another process that got its process id."""
        if self.returncode is not None:
            return
        with contextlib.suppress(ProcessLookupError):
            # the pidfd pins the process: if its start time is right now, the signal cannot reach a successor
            handle = os.pidfd_open(self.pid)
            try:
                now = look(self.pid)
                if now is not None and self._started is not None and now.started == self._started.started:
                    signal.pidfd_send_signal(handle, number)
            finally:
                os.close(handle)

    def kill(self) -> None:
        """Send SIGKILL to the guard."""
        self.send_signal(signal.SIGKILL)


class Starter:
    """One warm process.

    Args:
        environment: environment of the later engines; ``LATE`` is removed.
        modules: names of the modules to import.
    """

    def __init__(self, environment: Mapping[str, str], modules: Sequence[str] = MODULES) -> None:
        self._environment = early(environment)
        self._ready: bool | None = None
        parent_end, child_end = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with child_end:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "harness.engine.warm", "--control", str(child_end.fileno()), *modules],
                env={**self._environment, MARKER: new_marker()},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                pass_fds=(child_end.fileno(),),
                # Ctrl-C in a terminal goes to the owner, which ends its engines in order
                start_new_session=True,
            )
        self._control = parent_end
        self.why = ""
        """Reason why the starter cannot be forked; empty if it can."""

    @property
    def pid(self) -> int:
        """Process id of the starter."""
        return self._process.pid

    def fits(self, environment: Mapping[str, str]) -> bool:
        """Return whether an engine with this environment may be forked from this starter."""
        return not self.why and self.has(environment)

    def has(self, environment: Mapping[str, str]) -> bool:
        """Return whether the starter's environment is that of an engine, as far as it counts before an import."""
        return early(environment) == self._environment

    def fork(
        self, environment: Mapping[str, str], folder: Path, descriptors: Sequence[int], seconds: float = READY_SECONDS
    ) -> Forked:
        """Fork the guard of one engine, and leave the descriptors open here.

        Args:
            environment: the engine's whole environment, including its marker.
            folder: working directory.
            descriptors: requests (read end), events (write end), life (read end), output.
            seconds: how long to wait for the starter's imports.

        Raises:
            StarterError: the fork failed. No process was created then, and the starter is ended.
        """
        status_read, status_write = os.pipe()
        try:
            self._require_ready(seconds)
            request = json.dumps({"environment": dict(environment), "folder": str(folder)}).encode()
            socket.send_fds(self._control, [request], [*descriptors, status_write])
            answer = self._receive(ANSWER_SECONDS)
            return Forked(int(answer["pid"]), status_read)
        except (OSError, ValueError, KeyError, StarterError) as error:
            os.close(status_read)
            self.why = str(error)
            self.end()
            raise StarterError(str(error)) from error
        finally:
            # the starter has its own copy; an open copy here would hide the end of the pipe
            os.close(status_write)

    def _require_ready(self, seconds: float) -> None:
        if self._ready is None:
            answer = self._receive(seconds)
            self._ready = bool(answer.get("ready"))
            self.why = str(answer.get("why", ""))
        if not self._ready:
            raise StarterError(self.why or "the starter must not be forked")

    def _receive(self, seconds: float) -> dict[str, Any]:
        deadline = time.monotonic() + seconds
        readable, _, _ = select.select([self._control], [], [], max(0.0, deadline - time.monotonic()))
        data = self._control.recv(MESSAGE_LIMIT) if readable else b""
        if not data:
            raise StarterError("it does not answer" if not readable else "it ended")
        try:
            return parse_object(data, "the starter")
        except UnreadableError as error:
            raise StarterError("its answer is no object") from error

    def end(self) -> None:
        """End the starter, and with it its forks. Safe to call twice."""
        self._control.close()
        self.why = self.why or "it was ended"
        try:
            self._process.wait(2.0)
        except subprocess.TimeoutExpired:
            process = look(self._process.pid)
            if process is not None:
                kill(process)
            self._process.wait()


def early(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the variables that may be read while modules are imported."""
    return {name: value for name, value in environment.items() if name not in LATE}


def imports_itself(case: Case) -> bool:
    """Return whether a case sets variables that may be read during an import: other cases' starter does not fit it."""
    return bool({*case.env, *case.pass_env} - LATE)


MOST_STARTERS = 2
"""Starters of one process. Each holds 350 MB of imported modules, and a suite has few environments: its own, and seldom
one of a single case."""


class _Shared:
    """The starters of this process: one for each environment, created when the first engine requests it."""

    def __init__(self) -> None:
        self._starters: list[Starter] = []
        self._owner = 0

    def get(self, environment: Mapping[str, str]) -> Starter | None:
        """Return the starter of an engine's environment; ``None`` if there are others, and no more may be created."""
        if not usable(os.environ):
            return None
        if self._owner != os.getpid():  # no starter yet, or this process is a fork of the starters' owner
            self._owner, self._starters = os.getpid(), []
        # one that must not be forked is returned too, because it says why
        starter = next((starter for starter in self._starters if starter.has(environment)), None)
        if starter is None and len(self._starters) < MOST_STARTERS:
            if not self._starters:
                atexit.register(self.end)
            starter = Starter(environment)
            self._starters.append(starter)
        return starter

    def end(self) -> None:
        """End the starters. The next ``get`` creates a new one."""
        starters, self._starters = self._starters, []
        if self._owner == os.getpid():
            for starter in starters:
                starter.end()


SHARED = _Shared()
"""The starters for all engines of this process."""


def usable(caller: Mapping[str, str]) -> bool:
    """Return whether engines may be forked at all: on Linux, unless ``QUANTGATE_STARTER=0`` is set."""
    return sys.platform == "linux" and caller.get(SWITCH) != "0"
