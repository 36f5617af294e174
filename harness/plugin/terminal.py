"""Terminal output of a run: the verdict table at its end; signals, the number of workers, and the times of a run."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from filelock import FileLock

from harness.errors import QuantgateError
from harness.harmless import HarmlessStream
from harness.in_ci import ci_variable
from harness.outcomes import GREEN, SEVERITY, Outcome
from harness.plugin import options
from harness.plugin.printing import printable
from harness.plugin.state import PluginState
from harness.plugin.unwritable import warn_if_unwritable

if TYPE_CHECKING:
    from harness.plugin.state import PluginState


_COLOURS = {Outcome.PASS: "green", Outcome.WAIVED: "yellow", Outcome.INFRA: "purple", Outcome.NO_RUNNER: "purple"}


def print_verdicts(reporter: Any, state: PluginState) -> None:
    """Print one line per case, worst last, and the folder of the records."""
    records = state.records
    if state.other_runners:
        reporter.write_line(f"cases for other runners were deselected: {', '.join(state.other_runners)}")
    if not records or state.is_worker:
        return
    reporter.ensure_newline()
    from harness.report.times import perf_counts, perf_sentence

    reporter.section("quantgate verdicts")
    width = max(len(record.case) for record in records)
    for record in sorted(records, key=lambda item: (-SEVERITY.index(item.verdict.outcome), item.node)):
        verdict = record.verdict
        note = (
            f" [{verdict.observed.value}: {verdict.cause}]"
            if verdict.observed and verdict.observed != verdict.outcome
            else ""
        )
        colour = {_COLOURS.get(verdict.outcome, "red"): True}
        reporter.write(f"{verdict.outcome.value:<21}", **colour)
        line = f"{record.case:<{width}}  {record.timing.total:6.1f} s{note}  {printable(verdict.summary)}"
        reporter.write_line(line)
        if record.perf is not None and record.perf.state not in ("within", "unmeasured") and perf_sentence(record):
            reporter.write_line(f"{'':21}{'':{width}}  time and memory: {printable(perf_sentence(record))}")
        if verdict.next_command and verdict.outcome not in GREEN:
            reporter.write_line(f"{'':21}{'':{width}}  next: {printable(verdict.next_command)}")
    counts = Counter(record.verdict.outcome for record in records)
    counted = ", ".join(f"{counts[outcome]} {outcome.value}" for outcome in SEVERITY if counts[outcome])
    reporter.write_line("")
    reporter.write_line(f"{len(records)} case{'s' * (len(records) != 1)} on runner {records[0].runner}: {counted}")
    if counted := perf_counts(records):
        reporter.write_line(counted)
    reporter.write_line(f"frames and records: {state.run_folder}")
    if not state.config.getoption("no_report"):
        from harness.report.render import render_run

        with warn_if_unwritable(state, "the report"):
            reporter.write_line(f"report: {render_run(state.run_folder)}")
    for line in state.unwritten:
        reporter.write_line(line, red=True)


# Treat SIGTERM as an interrupt: pytest then ends as after Ctrl-C, instead of immediately.


_PR_SET_PDEATHSIG = 1


def pass_no_command_on(config: pytest.Config) -> None:
    """Let nothing that pytest prints be a command to a CI service: pytest prints names of files as they are."""
    reporter: Any = config.pluginmanager.get_plugin("terminalreporter")
    if ci_variable(os.environ) and reporter is not None:
        writer = reporter._tw  # there is no public way to the stream
        writer._file = HarmlessStream(writer._file)


@contextmanager
def as_interrupt() -> Iterator[None]:
    """Raise ``KeyboardInterrupt`` at the first SIGTERM; a second one ends the process at once.

    Nothing is changed if another handler of SIGTERM is set, or outside the main thread, which alone may set one.
    """
    in_main_thread = threading.current_thread() is threading.main_thread()
    if not in_main_thread or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        yield
        return
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _interrupt(_number: int, _frame: object) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    raise KeyboardInterrupt("SIGTERM")


def end_with_parent() -> None:
    """Let the kernel send SIGTERM to this process when its parent dies in any way: for workers of xdist.

    A worker whose controller was killed would finish its case first, without a reader. Linux only; elsewhere the worker
    notices at its next message. Call it in the main thread of a process that the main thread of another one started.
    """
    if sys.platform != "linux":
        return
    parent = os.getppid()
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
    if os.getppid() != parent:  # the parent died before the request took effect
        os.kill(os.getpid(), signal.SIGTERM)


# Hooks for the lane: one worker per GPU by default, and the times of this run for the next plan.


def workers(config: pytest.Config) -> int | None:
    """Return the number of workers for ``-n auto``: one per GPU of the runner. ``None``: xdist's own rule applies."""
    if not runs_cases(config):
        return None
    from harness.session.context import devices_for

    try:
        profile = PluginState.of(config).profile()
        return len(devices_for(profile)) if profile.device_kind == "cuda" else None
    except (QuantgateError, pytest.UsageError):
        return 1  # no device, or a wrong option: the run itself reports it, once


def note_times(config: pytest.Config) -> None:
    """Add the times of this run to ``runs/history.json``, which orders the next run and the next plan."""
    state = PluginState.of(config)
    if state.is_worker or not any(record.generation for record in state.records):
        return
    # Two runs may end at the same time: each must read, add and write without the other in between.
    with FileLock(state.history_file.with_suffix(".lock")):
        state.read_history().with_records(state.records).write(state.history_file)


def runs_cases(config: pytest.Config) -> bool:
    """Return whether a path of the command line lies below the folder of the case files, or contains it."""
    if not PluginState.of(config).is_configured:
        return False
    cases = options.project(config).cases
    places = (Path(config.invocation_params.dir, argument.partition("::")[0]) for argument in config.args)
    return any(place.is_relative_to(cases) or cases.is_relative_to(place) for place in places)
