"""Show the progress of the running case: stage, step n of N."""

from __future__ import annotations

import sys
from contextlib import nullcontext
from typing import Any

import pytest

from harness.session.context import CaseFinished, Event, Progress, StageStarted


class ProgressLine:
    """Consume the events of one case: a terminal shows one line that is rewritten, a log the stages with ``-v``."""

    def __init__(self, config: pytest.Config, node: str) -> None:
        self._reporter: Any = config.pluginmanager.get_plugin("terminalreporter")
        self._capture: Any = config.pluginmanager.get_plugin("capturemanager")
        self._verbose = config.option.verbose > 0
        self._live = sys.__stdout__ is not None and sys.__stdout__.isatty()
        self._node = node

    def __call__(self, event: Event) -> None:
        """Show ``event``."""
        if self._reporter is None:
            return
        with self._capture.global_and_fixture_disabled() if self._capture else nullcontext():
            self._consume(event)

    def _consume(self, event: Event) -> None:
        if isinstance(event, StageStarted):
            self._show(event.stage)
        elif isinstance(event, Progress):
            if self._live:
                unit = "denoising step" if event.stage == "denoise" else "component"
                self._show(f"{unit} {event.done}/{event.total}")
        elif isinstance(event, CaseFinished) and self._live:
            self._reporter.rewrite("", erase=True)

    def _show(self, text: str) -> None:
        if self._live:
            self._reporter.rewrite(f"{self._node}  {text}", erase=True)
        elif self._verbose:
            self._reporter.write_line(f"{self._node}  {text}")
