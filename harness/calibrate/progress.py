"""Report the progress of a regeneration: n of N runs, an estimate, and the stage of the present run."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from types import TracebackType

from harness.inspector.identity import HASHING
from harness.session.context import Event, Progress, StageStarted

FIRST_SECONDS = 2.0
"""A stage that takes longer than this is reported."""
LONGEST_WAIT = 30.0
"""Seconds between two lines of one stage, at most; they begin at ``FIRST_SECONDS`` and double."""


class RunProgress:
    """Reports every stage that takes longer than ``FIRST_SECONDS``, from its own thread.

    Args:
        total: largest number of runs.
        report_line: called with one line.
        clock: returns seconds.
    """

    def __init__(
        self, total: int, report_line: Callable[[str], None], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._total, self._report_line, self._clock = total, report_line, clock
        self._lock = threading.Lock()
        self._ended = threading.Event()
        self._begun = 0
        self._label = self._stage = ""
        self._part = ""
        self._started = self._since = clock()
        self._next = FIRST_SECONDS
        self._thread = threading.Thread(target=self._run, name="progress", daemon=True)

    def begin(self, label: str) -> None:
        """Record that the next run starts; the previous run, if any, is done."""
        with self._lock:
            self._begun += 1
            self._label = label
            self._enter("")

    def watch(self, event: Event) -> None:
        """Record the stage or its progress from an event of the session."""
        with self._lock:
            if isinstance(event, StageStarted):
                self._enter(event.stage)
            elif isinstance(event, Progress):
                self._part = f" {event.done} of {event.total}"

    def line(self) -> str:
        """Return the line to report now; empty if the stage is new or was reported recently."""
        with self._lock:
            now = self._clock()
            spent = now - self._since
            if not self._begun or spent < self._next:
                return ""
            self._next = spent + min(self._next, LONGEST_WAIT)
            stage = f": {self._stage}{self._part or _hashed()}" if self._stage else ""
            total = max(self._total, self._begun)
            return f"run {self._begun} of {total}, {self._estimate(now)}; {self._label}{stage}, for {spent:.0f} s"

    def _estimate(self, now: float) -> str:
        finished = self._begun - 1
        if finished == 0:
            return "no estimate before the first is done"
        seconds_left = (now - self._started) / finished * (max(self._total, self._begun) - finished)
        return f"about {seconds_left:.0f} s left" if seconds_left < 120 else f"about {seconds_left / 60:.0f} min left"

    def _enter(self, stage: str) -> None:
        self._stage, self._part = stage, ""
        self._since, self._next = self._clock(), FIRST_SECONDS

    def _run(self) -> None:
        while not self._ended.wait(0.5):
            if line := self.line():
                self._report_line(line)

    def __enter__(self) -> RunProgress:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        self._thread.join(5.0)


def _hashed() -> str:
    hashed, total = HASHING.state()
    return f" {hashed / 1e9:.1f} of {total / 1e9:.1f} GB hashed" if total else ""
