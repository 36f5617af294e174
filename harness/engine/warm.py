"""The starter's process: ``python -m harness.engine.warm``. Started by ``harness.engine.starter`` only.

It imports the modules that every engine of a backend needs, touches no GPU, starts no thread, and then forks an engine
per request. The fork is the engine's guard, with the usual processes below it (``harness.engine.supervisor``)::

    pytest ── starter ── guard ── supervisor ── worker ── programs of the backend

A request is one message on a socket: a JSON object, and five descriptors (requests, events, life, output, status). The
answer is ``{"pid": ...}``. When the guard has ended, its exit status is written to ``status`` as text. When the socket
closes because the owner closed it or died, this process ends; its guards notice that, and end their engines.
"""

from __future__ import annotations

import argparse
import array
import contextlib
import ctypes
import gc
import importlib
import json
import os
import select
import signal
import socket
import sys
import time
from pathlib import Path
from typing import Any

import psutil

from harness.engine.supervisor import supervise
from harness.engine.worker import serve
from harness.machine.processes import MARKER
from harness.reading import parse_object

DESCRIPTORS = 5
MESSAGE_LIMIT = 1 << 20
CUDA_MEMORY = "/dev/nvidia-uvm"
"""The device that CUDA opens when it is initialized. The driver's library (NVML), with which torch counts GPUs during
the imports, opens ``/dev/nvidiactl`` and each GPU's own device, and a process that did only that may be forked (torch's
documentation of ``torch.cuda.is_available`` promises it for `CHECK_WITHOUT_CUDA`)."""
CHECK_WITHOUT_CUDA = "PYTORCH_NVML_BASED_CUDA_CHECK"
"""torch's switch for counting GPUs through the driver's library instead of CUDA: a call of CUDA touches the GPU, and a
process that did so cannot be forked."""


def main() -> int:
    """Import the modules, report whether forking is possible, and fork engines until the socket closes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--control", type=int, required=True)
    parser.add_argument("module", nargs="*")
    options = parser.parse_args()
    place = _Place()
    control = socket.socket(fileno=options.control)
    began = time.monotonic()
    before = os.environ.get(CHECK_WITHOUT_CUDA)
    os.environ[CHECK_WITHOUT_CUDA] = "1"
    for name in options.module:
        importlib.import_module(name)
    if before is None:
        del os.environ[CHECK_WITHOUT_CUDA]
    else:
        os.environ[CHECK_WITHOUT_CUDA] = before
    gc.collect()
    gc.freeze()  # the collector no longer writes to present objects, so that forks keep sharing their memory
    why = unforkable() or place.unusable
    _send(control, {"ready": not why, "why": why, "seconds": time.monotonic() - began})
    if why:
        return 1
    _Forker(control, place).run()
    return 0


def unforkable() -> str:
    """Return the reason why this process must not be forked: threads, or CUDA; empty if it may be."""
    threads: int = psutil.Process().num_threads()
    if threads > 1:
        return f"{threads} threads run after the imports"
    # psutil lists open regular files, and a GPU is a device.
    for entry in Path("/proc/self/fd").glob("*"):
        with contextlib.suppress(OSError):
            if str(entry.readlink()).startswith(CUDA_MEMORY):
                return "the imports initialized CUDA"
    return ""


class _Place:
    """The place of the marker in this process's initial environment, which /proc also shows for every fork.

    The marker names the owner and the engine. A fork overwrites the starter's marker with its engine's, byte by byte.
    """

    def __init__(self) -> None:
        self.marker = os.environ.get(MARKER, "").encode()
        libc = ctypes.CDLL(None)
        libc.getenv.restype = ctypes.c_void_p
        self._address: int | None = libc.getenv(MARKER.encode())
        shown = _environ()
        self.unusable = "" if f"{MARKER}=".encode() + self.marker in shown else "/proc does not show the environment"

    def write(self, marker: str) -> None:
        """Make /proc show ``marker`` for the calling process."""
        data = marker.encode()
        if self._address is None or len(data) != len(self.marker):
            raise ValueError("this marker does not fit in the place of the starter's")
        ctypes.memmove(self._address, data, len(data))


def _environ() -> bytes:
    try:
        return Path("/proc/self/environ").read_bytes()
    except OSError:
        return b""


class _Forker:
    """Forks guards and reports their exit statuses."""

    def __init__(self, control: socket.socket, place: _Place) -> None:
        self._control, self._place = control, place
        self._status: dict[int, int] = {}
        self._woken, wake = os.pipe()
        # non-blocking: a signal handler must never wait for a full pipe
        for descriptor in (self._woken, wake):
            os.set_blocking(descriptor, False)
        self._wake = wake
        signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
        # a handler is needed for the wakeup descriptor to be written; it has no work to do
        signal.signal(signal.SIGCHLD, lambda *_: None)

    def run(self) -> None:
        """Serve requests until the other end is closed."""
        while True:
            readable, _, _ = select.select([self._control.fileno(), self._woken], [], [])
            if self._woken in readable:
                with contextlib.suppress(BlockingIOError):
                    os.read(self._woken, 4096)
                self._reap()
            if self._control.fileno() in readable:
                message, descriptors = _receive(self._control)
                if not message:
                    return
                self._fork(parse_object(message, "the parent"), descriptors)

    def _fork(self, request: dict[str, Any], descriptors: list[int]) -> None:
        *_, status = descriptors
        child = os.fork()
        if child == 0:
            code = 1
            try:
                code = self._engine(request, descriptors)
            finally:
                os._exit(code)
        for descriptor in descriptors[:-1]:
            os.close(descriptor)
        self._status[child] = status
        _send(self._control, {"pid": child})

    def _engine(self, request: dict[str, Any], descriptors: list[int]) -> int:
        """Become the guard of an engine, with its own session, environment and folder."""
        requests, events, life, output, status = descriptors
        # undo the starter's signal setup: the guard reaps its own children
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        self._control.close()
        # the other engines' status pipes too: an open copy here would keep them from closing
        for descriptor in (self._woken, self._wake, status, *self._status.values()):
            os.close(descriptor)
        # as `start_new_session` does for an engine that is started as a new program
        os.setsid()
        environment = {str(name): str(value) for name, value in request["environment"].items()}
        self._place.write(environment[MARKER])
        # the whole environment is the engine's: nothing of the starter's may leak into it
        os.environ.clear()
        os.environ.update(environment)
        os.chdir(request["folder"])
        os.dup2(output, 1)
        os.dup2(output, 2)
        os.close(output)
        os.set_inheritable(life, False)
        sys.argv = ["harness.engine.worker"]
        return supervise(life, (requests, events), lambda: serve(requests, events, started="fork"))

    def _reap(self) -> None:
        while True:
            try:
                pid, raw = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            status = self._status.pop(pid, None)
            if status is not None:
                with contextlib.suppress(OSError):  # the owner is gone
                    os.write(status, str(os.waitstatus_to_exitcode(raw)).encode())
                os.close(status)


def _send(control: socket.socket, message: dict[str, Any]) -> None:
    with contextlib.suppress(OSError):  # the owner is gone; the next read reports it
        control.send(json.dumps(message).encode())


def _receive(control: socket.socket) -> tuple[bytes, list[int]]:
    size = array.array("i").itemsize
    try:
        message, ancillary, _, _ = control.recvmsg(MESSAGE_LIMIT, socket.CMSG_LEN(DESCRIPTORS * size))
    except OSError:
        return b"", []
    descriptors = array.array("i")
    for level, kind, data in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            descriptors.frombytes(data[: len(data) - len(data) % size])
    for descriptor in descriptors:
        os.set_inheritable(descriptor, False)
    return message, list(descriptors)


if __name__ == "__main__":
    sys.exit(main())
