"""``quantgate report``, ``show``, ``diff`` and ``history``: parse, call `harness.report`, print."""

from __future__ import annotations

import sys
from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from harness.cli import options
from harness.project import HERE
from harness.records.base import write_text_atomic
from harness.records.run_folder import RunFolder
from harness.report.history.perf_trend import perf_table
from harness.report.history.store import DEFAULT, History, open_history
from harness.report.history.terminal import case_table, cases_table
from harness.report.history.trend_page import render_history
from harness.report.load import ReportError, Run, is_pending, load_pending, load_run
from harness.report.markdown import comment, job_summary, run_json
from harness.report.render import render
from harness.report.terminal import diff_runs, find_case, find_run, show_case


class Format(StrEnum):
    """The output formats of a run."""

    HTML = "html"
    SUMMARY = "summary"
    COMMENT = "comment"
    JSON = "json"


TEXTS: dict[Format, Callable[[Run], str]] = {
    Format.SUMMARY: job_summary,
    Format.COMMENT: comment,
    Format.JSON: run_json,
}


def report(directory: Path, kind: Format = Format.HTML, out: Path | None = None) -> str:
    """Render the records under ``directory``; no case is run again.

    Args:
        directory: a run's folder, one case of a run, joined shards, or ``.quantgate/pending``.
        kind: ``html`` writes a folder; the other formats are one text.
        out: path to write to; by default ``<directory>/report`` for ``html``, and no file for a text.

    Returns:
        Text to print: the path that was written, or the text itself if ``out`` is not given.

    Raises:
        ReportError: no records, or ``out`` holds something else.
    """
    run = load_pending(directory) if is_pending(directory) else load_run(directory)
    if kind is Format.HTML:
        default = RunFolder(directory.parent if is_pending(directory) else directory).report
        return str(render(run, out if out is not None else default))
    text = TEXTS[kind](run)
    if out is None:
        return text
    write_text_atomic(out, text)
    return str(out)


def report_command(
    directory: Annotated[Path, typer.Argument(help="a run's folder, such as runs/<run>; or .quantgate/pending")],
    kind: Annotated[Format, typer.Option("--format", help="what to write")] = Format.HTML,
    out: options.OptionalOut = None,
) -> None:
    """Render a run's records: offline HTML, a job summary, a comment, JSON. Nothing is run again.

    Without --out, HTML goes to DIRECTORY/report, and a text to the terminal.
    """
    typer.echo(report(directory, kind, out).rstrip("\n"))


RunName = Annotated[str, typer.Argument(help="a folder, the name of a run below --runs, or `last`")]


def show_command(
    run: RunName,
    case: Annotated[str, typer.Argument(help="id of the case, or runner/case")],
    runs: options.Runs = Path("runs"),
) -> None:
    """Show one case of a run in the terminal: verdict, findings, limits, what changed, next command."""
    typer.echo(show_case(find_case(load_run(find_run(run, runs)), case)))


def diff_command(before: RunName, after: RunName, runs: options.Runs = Path("runs")) -> None:
    """Say in which verdicts, measurements and ingredients the second run differs from the first."""
    typer.echo(diff_runs(load_run(find_run(before, runs)), load_run(find_run(after, runs))))


def history_command(
    case: Annotated[str | None, typer.Argument(help="id of a case; none: all cases")] = None,
    metric: Annotated[str | None, typer.Option("--metric", help="only this metric")] = None,
    runner: options.OptionalRunner = None,
    runs: options.Runs = HERE.runs,
    store: options.HistoryStore = DEFAULT,
    html: Annotated[Path | None, typer.Option("--html", help="write trend pages into this folder")] = None,
    perf: options.Perf = False,
) -> None:
    """How measurements moved over past runs, margin consumed, and what drifts towards its limit."""
    with open_history(store) as history:
        if runs.is_dir():
            add_runs(history, runs)
        case_ids = {name for name, _ in history.cases(runner)}
        if case is not None and case not in case_ids:
            raise ReportError(f"no record of case {case!r}", place=str(store), remedy="quantgate history")
        if html is not None:
            typer.echo(str(render_history(history, html, case, runner)))
            return
        if perf:
            table = perf_table(history, case, runner, metric)
        elif case is None and metric is None:
            table = cases_table(history, runner)
        else:
            table = case_table(history.points(case, metric, runner), case or "all cases", metric)
        Console(width=None if sys.stdout.isatty() else 160).print(table)


def add_runs(history: History, folder: Path) -> int:
    """Add every readable record under ``folder`` to the history. Return the number of new records."""
    try:
        run = load_run(folder)
    except ReportError:
        return 0
    return history.add(entry.record for entry in run.entries)
