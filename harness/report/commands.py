"""``quantgate report`` and ``quantgate history``. Thin: parse, call, print."""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from harness.records.base import write_text_atomic
from harness.report.as_json import run_json
from harness.report.junit import junit_xml
from harness.report.load import Run, load_run
from harness.report.markdown import comment, job_summary
from harness.report.render import render_run


class Format(StrEnum):
    """What a run can be rendered as."""

    HTML = "html"
    JUNIT = "junit"
    SUMMARY = "summary"
    COMMENT = "comment"
    JSON = "json"


TEXTS: dict[Format, Callable[[Run], str]] = {
    Format.JUNIT: junit_xml,
    Format.SUMMARY: job_summary,
    Format.COMMENT: comment,
    Format.JSON: run_json,
}


def report(directory: Path, kind: Format = Format.HTML, out: Path | None = None) -> str:
    """Render the records under ``directory``; nothing is run again.

    Args:
        directory: a run's folder, one case of it, or shards joined.
        kind: ``html`` writes a folder; the others are one text.
        out: where to write; by default ``<directory>/report`` for ``html``, and for a text nowhere.

    Returns:
        What to print: the path of what was written, or the text itself where ``out`` is absent.

    Raises:
        ReportError: no records, or ``out`` holds something else.
    """
    if kind is Format.HTML:
        return str(render_run(directory, out))
    text = TEXTS[kind](load_run(directory))
    if out is None:
        return text
    write_text_atomic(out, text)
    return str(out)


def report_command(
    directory: Annotated[Path, typer.Argument(help="a run's folder, such as runs/<run>")],
    kind: Annotated[Format, typer.Option("--format", help="what to write")] = Format.HTML,
    out: Annotated[
        Path | None, typer.Option("--out", help="where to; default: DIRECTORY/report, or for a text the terminal")
    ] = None,
) -> None:
    """Render a run's records: offline HTML, JUnit, a job summary, a comment, JSON. Nothing is run again."""
    typer.echo(report(directory, kind, out).rstrip("\n"))
