"""The parent's side of an engine's process: start it with an exact environment, exchange messages, end all of it."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

from harness.engine.log import RedactedLog
from harness.engine.protocol import LineBuffer, Writer
from harness.engine.starter import Forked, Starter, StarterError
from harness.errors import InfraError
from harness.machine.processes import MARKER, Process, end_leftovers, kill, look, marked, new_marker, session_members
from harness.records.base import Json

DEADLINE_PASSED = "its deadline passed"
"""Message of a hang that the deadline ended. Any other hang is a worker that went silent before it."""
POLL_SECONDS = 0.25
END_GRACE_SECONDS = 10.0


class WorkerProcess:
    """One guard, its supervisor, and one worker. Not thread-safe.

    Args:
        environment: the whole environment; nothing else is inherited.
        log: file that takes the standard streams of the worker and of everything it starts.
        folder: working directory.
        secrets: values that must not reach the log, by the name that is shown in their place.
        starter: a warm process to fork the guard from; if ``None``, or if forking fails, the guard is a new program.
    """

    def __init__(
        self,
        environment: Mapping[str, str],
        log: Path,
        folder: Path,
        secrets: Mapping[str, str],
        starter: Starter | None = None,
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        log.parent.mkdir(parents=True, exist_ok=True)
        request_read, request_write = os.pipe()
        event_read, event_write = os.pipe()
        life_read, life_write = os.pipe()
        child_ends = (request_read, event_write, life_read)
        arguments = [sys.executable, "-m", "harness.engine.worker"]
        for name, descriptor in zip(("requests", "events", "life"), child_ends, strict=True):
            arguments += [f"--{name}", str(descriptor)]
        self._descriptors = [request_write, event_read, life_write]
        # engines of a dead parent may still hold the GPU that this engine needs
        end_leftovers()
        self._marker = new_marker()
        self.not_forked = ""
        """Why the starter could not be forked; empty if it was, or if none was given."""
        try:
            # the engine prints into a pipe, and the writer of its log redacts what comes out
            self._log = RedactedLog(log, secrets)
            with os.fdopen(self._log.writer, "wb") as out:
                whole = {**environment, MARKER: self._marker}
                forked = self._forked(starter, whole, folder, (*child_ends, out.fileno()))
                self._process: subprocess.Popen[bytes] | Forked = forked or subprocess.Popen(
                    arguments,
                    env=whole,
                    cwd=folder,
                    stdin=subprocess.DEVNULL,
                    stdout=out,
                    stderr=subprocess.STDOUT,
                    pass_fds=child_ends,
                    start_new_session=True,
                )
        except BaseException:
            for descriptor in self._descriptors:
                os.close(descriptor)
            raise
        finally:
            for descriptor in child_ends:
                os.close(descriptor)
        self._writer = Writer(request_write)
        self._events = event_read
        self._lines = LineBuffer()
        self._inbox: list[dict[str, Json]] = []

    def _forked(
        self, starter: Starter | None, environment: Mapping[str, str], folder: Path, descriptors: tuple[int, ...]
    ) -> Forked | None:
        """Return the forked guard; ``None`` without a usable starter or after a failed fork, whose rest is killed."""
        if starter is None or not starter.fits(environment):
            self.not_forked = starter.why if starter is not None else ""
            return None
        try:
            return starter.fork(environment, folder, descriptors)
        except StarterError as error:
            self.not_forked = str(error)
            deadline = time.monotonic() + END_GRACE_SECONDS
            while (processes := marked(self._marker)) and time.monotonic() < deadline:
                for process in processes:
                    kill(process)
            return None

    def settle_log(self) -> None:
        """Write all output that has arrived so far to the log."""
        self._log.settle()

    def append_to_log(self, text: str) -> None:
        """Write a text of the parent to the log, redacted like the engine's own output."""
        self._log.append(text)

    @property
    def pid(self) -> int:
        """Process id of the guard, the leader of the session of all processes of this engine."""
        return self._process.pid

    def send(self, message: dict[str, Json]) -> None:
        """Send one request.

        Raises:
            InfraError: kind ``crash``: the worker is gone.
        """
        try:
            self._writer.send(message)
        except OSError as error:
            raise InfraError("the engine's process is gone", kind="crash") from error

    def receive(self, deadline: float, silence_limit: float) -> dict[str, Json]:
        """Wait for the next message that is no heartbeat, and return it.

        Args:
            deadline: on the clock of ``time.monotonic``.
            silence_limit: seconds without any output after which the worker counts as frozen.

        Raises:
            InfraError: kind ``hang`` (deadline, or silence), ``crash`` (the process ended), ``protocol`` (no message).
        """
        heard = time.monotonic()
        while True:
            while self._inbox:
                message = self._inbox.pop(0)
                # a heartbeat only shows that the worker lives, which `heard` has noted
                if message.get("event") != "heartbeat":
                    return message
            now = time.monotonic()
            if now >= deadline:
                raise InfraError(DEADLINE_PASSED, kind="hang")
            if now - heard > silence_limit:
                raise InfraError(f"no sign of life for {silence_limit:g} s", kind="hang")
            # woken up regularly: a program of the backend may hold the pipe open after the worker's death
            readable, _, _ = select.select([self._events], [], [], max(0.0, min(POLL_SECONDS, deadline - now)))
            if readable:
                chunk = os.read(self._events, 1 << 16)
                if not chunk:
                    raise InfraError(self._how_it_ended(), kind="crash")
                heard = time.monotonic()
                self._inbox.extend(self._lines.feed(chunk))
            # only if nothing is left to read: the last lines of a dying engine hold its error
            elif self._process.poll() is not None:
                raise InfraError(self._how_it_ended(), kind="crash")

    def _how_it_ended(self) -> str:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(END_GRACE_SECONDS)
        return f"the engine's process ended by itself ({describe_exit(self._process.poll())})"

    @property
    def exit_code(self) -> int | None:
        """Exit status of the worker, 128 + signal if a signal ended it; ``None`` while it lives."""
        return self._process.poll()

    def end(self) -> None:
        """End the worker and everything it started, and reap it: SIGTERM, then SIGKILL. Safe to call twice."""
        if not self._descriptors:
            return
        if self._process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                self._process.send_signal(signal.SIGTERM)
        # the guard ends everything below it when the life pipe closes
        while self._descriptors:
            os.close(self._descriptors.pop())
        guard = look(self._process.pid)
        stopped = guard is not None and guard.state == "T"  # a stopped guard does not handle SIGTERM, so do not wait
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(0 if stopped else END_GRACE_SECONDS)
        # Normally nothing is left. If guard and supervisor were killed or do not react, find the engine's processes by
        # their session, or by the marker in their environment if they made a session of their own.
        if self._process.poll() is None:
            self._process.kill()
        deadline = time.monotonic() + END_GRACE_SECONDS
        while (processes := self._remaining()) and time.monotonic() < deadline:
            for process in processes:
                kill(process)
            time.sleep(0.01)
        self._process.wait()
        self._log.close()

    def _remaining(self) -> list[Process]:
        return session_members(self._process.pid) or marked(self._marker)


def describe_exit(code: int | None) -> str:
    """Return an exit status in words."""
    if code is None:
        return "still ending"
    # negative: as Popen reports a signal; over 128: as the guard reports the worker's
    number = -code if code < 0 else code - 128
    if code < 0 or code > 128:
        with contextlib.suppress(ValueError):
            return f"signal {signal.Signals(number).name}"
    return f"exit status {code}"
