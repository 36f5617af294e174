"""A warm process from which engines are forked: what every engine imports is imported once, not once an engine.

It is used where an engine's environment allows it. Some variables count before the first import (thread counts, the
instruction set, where the hub's files lie); an engine in which one of them has another value than in the starter is a
process of its own, as is every engine whose backend imports nothing heavy. The record of a load says which it was.

The starter holds no lease and no GPU. It ends with its owner; what it forked ends with it.
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
from typing import Any

from harness.machine.processes import MARKER, kill, look, new_marker

LATE = frozenset({"CUDA_VISIBLE_DEVICES", "CUDA_DEVICE_ORDER", "CUBLAS_WORKSPACE_CONFIG", MARKER})
"""Variables that nothing reads before an engine first uses its device: CUDA reads the first two when it is initialized,
cuBLAS the third when its first handle is made."""
MODULES = (
    "harness.engine.backends.needs",  # first: it hides packages that diffusers would pull in
    "harness.engine.backends.diffusers_backend",
    "harness.engine.fingerprint",
)
"""What the starter imports: everything that the ``diffusers`` backend needs."""
READY_SECONDS = 180.0
"""How long a fork waits for the starter's imports; then the engine is a process of its own."""
ANSWER_SECONDS = 20.0
MESSAGE_LIMIT = 1 << 16
SWITCH = "QUANTGATE_STARTER"
"""``0`` in the caller's environment: every engine is a process of its own."""


class StarterError(Exception):
    """The starter is gone, does not answer, or must not be forked."""


class Forked:
    """The guard of a forked engine: what ``subprocess.Popen`` is for one that was started."""

    def __init__(self, pid: int, status: int) -> None:
        self.pid = pid
        self.returncode: int | None = None
        self._status = status
        self._started = look(pid)

    def poll(self) -> int | None:
        """Exit status, negative where a signal ended it; ``None`` while it lives."""
        return self._end(0.0)

    def wait(self, timeout: float | None = None) -> int:
        """Wait for the exit status.

        Raises:
            subprocess.TimeoutExpired: it lives still.
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
                # a starter that was killed says nothing of its forks, which end then
                self.returncode = int(text) if text else -signal.SIGKILL
        return self.returncode

    def send_signal(self, number: int) -> None:
        """Send a signal to the guard, and to no other process that got its number."""
        if self.returncode is not None:
            return
        with contextlib.suppress(ProcessLookupError):
            handle = os.pidfd_open(self.pid)
            try:
                now = look(self.pid)
                if now is not None and self._started is not None and now.started == self._started.started:
                    signal.pidfd_send_signal(handle, number)
            finally:
                os.close(handle)

    def kill(self) -> None:
        """SIGKILL."""
        self.send_signal(signal.SIGKILL)


class Starter:
    """One warm process.

    Args:
        environment: of the engines to come; ``LATE`` is left out.
        modules: what is imported.
    """

    def __init__(self, environment: Mapping[str, str], modules: Sequence[str] = MODULES) -> None:
        self._environment = early(environment)
        self._ready: bool | None = None
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "harness.engine.warm", "--control", str(theirs.fileno()), *modules],
                env={**self._environment, MARKER: new_marker()},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                pass_fds=(theirs.fileno(),),
                start_new_session=True,
            )
        self._control = ours
        self.why = ""
        """Why nothing can be forked from it."""

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    def fits(self, environment: Mapping[str, str]) -> bool:
        """Whether an engine with this environment may be forked from it."""
        return not self.why and early(environment) == self._environment

    def fork(
        self, environment: Mapping[str, str], folder: Path, descriptors: Sequence[int], seconds: float = READY_SECONDS
    ) -> Forked:
        """Fork the guard of one engine, and leave the descriptors open here.

        Args:
            environment: the engine's whole environment, its marker among it.
            folder: working directory.
            descriptors: requests (read end), events (write end), life (read end), output.
            seconds: how long the starter's imports are waited for.

        Raises:
            StarterError: it cannot be done. No process was made then, and the starter is ended.
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
            os.close(status_write)

    def _require_ready(self, seconds: float) -> None:
        if self._ready is None:
            said = self._receive(seconds)
            self._ready = bool(said.get("ready"))
            self.why = str(said.get("why", ""))
        if not self._ready:
            raise StarterError(self.why or "the starter must not be forked")

    def _receive(self, seconds: float) -> dict[str, Any]:
        deadline = time.monotonic() + seconds
        readable, _, _ = select.select([self._control], [], [], max(0.0, deadline - time.monotonic()))
        data = self._control.recv(MESSAGE_LIMIT) if readable else b""
        if not data:
            raise StarterError("it does not answer" if not readable else "it ended")
        message = json.loads(data)
        if not isinstance(message, dict):
            raise StarterError("its answer is no object")
        return message

    def end(self) -> None:
        """End it, and with it what was forked from it. Safe to call twice."""
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
    """The variables that may be read while modules are imported."""
    return {name: value for name, value in environment.items() if name not in LATE}


class _Shared:
    """The starter of this process: made when an engine first wants one, of that engine's environment."""

    def __init__(self) -> None:
        self._starter: Starter | None = None
        self._owner = 0

    def get(self, environment: Mapping[str, str]) -> Starter | None:
        """The starter, if an engine with this environment may be forked from it."""
        if not usable(os.environ):
            return None
        if self._owner != os.getpid():  # none yet, or this process is a fork of the one that has it
            self._owner, self._starter = os.getpid(), None
        if self._starter is None:
            self._starter = Starter(environment)
            atexit.register(self.end)
        return self._starter if self._starter.fits(environment) else None

    def end(self) -> None:
        """End it; the next ``get`` makes another one."""
        if self._starter is not None and self._owner == os.getpid():
            self._starter.end()
        self._starter = None


SHARED = _Shared()
"""For all engines of this process."""


def usable(caller: Mapping[str, str]) -> bool:
    """Whether engines are forked here at all: on Linux, unless ``QUANTGATE_STARTER=0`` is set."""
    return sys.platform == "linux" and caller.get(SWITCH) != "0"
