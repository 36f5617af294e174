"""What a run looks like in the terminal: progress while it runs, the verdict table at its end."""

from __future__ import annotations

import sys
from collections import Counter
from contextlib import nullcontext
from shutil import get_terminal_size
from typing import TYPE_CHECKING, Any

import pytest

from harness.harmless import harmless
from harness.plugin.writing import or_said
from harness.records.verdict import GREEN, SEVERITY, Outcome
from harness.session.events import CaseFinished, Event, Progress, StageStarted

if TYPE_CHECKING:
    from harness.plugin.state import PluginState

_COLOURS = {Outcome.PASS: "green", Outcome.WAIVED: "yellow", Outcome.INFRA: "purple", Outcome.NO_RUNNER: "purple"}


class ProgressLine:
    """Consumes the events of one case: a terminal shows one line that is rewritten, a log the stages, with ``-v``."""

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
                self._show(f"denoising step {event.done}/{event.total}")
        elif isinstance(event, CaseFinished) and self._live:
            self._reporter.rewrite("", erase=True)

    def _show(self, text: str) -> None:
        if self._live:
            self._reporter.rewrite(f"{self._node}  {text}", erase=True)
        elif self._verbose:
            self._reporter.write_line(f"{self._node}  {text}")


def print_verdicts(reporter: Any, state: PluginState) -> None:
    """Print one line a case, worst last, and where the records are."""
    records = state.records
    if state.other_runners:
        reporter.write_line(f"cases for other runners were deselected: {', '.join(state.other_runners)}")
    if not records or state.is_worker:
        return
    reporter.ensure_newline()
    reporter.section("quantgate verdicts")
    width = max(len(record.case) for record in records)
    for record in sorted(records, key=lambda one: (-SEVERITY.index(one.verdict.outcome), one.node)):
        verdict = record.verdict
        note = (
            f" [{verdict.observed.value}: {verdict.cause}]"
            if verdict.observed and verdict.observed != verdict.outcome
            else ""
        )
        colour = {_COLOURS.get(verdict.outcome, "red"): True}
        reporter.write(f"{verdict.outcome.value:<21}", **colour)
        line = f"{record.case:<{width}}  {record.timing.total:6.1f} s{note}  {harmless(verdict.summary)}"
        room = (get_terminal_size().columns if sys.stdout.isatty() else 180) - 22
        reporter.write_line(line if verdict.outcome not in GREEN or len(line) <= room else f"{line[: room - 3]}...")
        if verdict.next_command and verdict.outcome not in GREEN:
            reporter.write_line(f"{'':21}{'':{width}}  next: {harmless(verdict.next_command)}")
    counts = Counter(record.verdict.outcome for record in records)
    counted = ", ".join(f"{counts[outcome]} {outcome.value}" for outcome in SEVERITY if counts[outcome])
    reporter.write_line("")
    reporter.write_line(f"{len(records)} cases on runner {records[0].runner}: {counted}")
    reporter.write_line(f"frames and records: {state.run_folder}")
    if not state.config.getoption("no_report"):
        from harness.report.render import render_run

        with or_said(state, "the report"):
            reporter.write_line(f"report: {render_run(state.run_folder)}")
    for line in state.unwritten:
        reporter.write_line(line, red=True)
