"""Render the records of a run as a folder of offline HTML."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from harness.records.base import write_text_atomic
from harness.records.candidate import SHOWN_FILE
from harness.records.run_folder import RunFolder
from harness.records.temporary import temporary_folder
from harness.report import text
from harness.report.case_page import case_page
from harness.report.load import ReportError, Run, load_run
from harness.report.media import Media, write_media
from harness.report.overview_page import overview_page
from harness.report.review_page import REVIEW_FILE, Notes, review_page
from harness.report.text import LABELS
from harness.text import clean

HERE = Path(__file__).parent
MARKER = ".quantgate-report"
"""Name of a file that marks a folder as a report, which may be replaced."""

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
    "base-uri 'none'; form-action 'none'; require-trusted-types-for 'script'"
)
"""Content security policy: no inline code, no foreign source. Under ``file://`` Chromium reads ``'self'`` as files."""


def render_run(run_dir: Path, out: Path | None = None) -> Path:
    """Render every record under ``run_dir``.

    Args:
        run_dir: a run's folder, or any folder with records below it.
        out: folder of the report; ``<run_dir>/report`` by default. An existing report is replaced.

    Returns:
        The overview, ``<out>/index.html``.

    Raises:
        ReportError: no record, or ``out`` holds something else.
    """
    return render(load_run(run_dir), out if out is not None else RunFolder(run_dir).report)


def render(run: Run, target: Path) -> Path:
    """Render a loaded run. Returns and raises as :func:`render_run`."""
    return replace_folder(target, lambda folder: write_report(run, folder)) / "index.html"


def render_review(run: Run, target: Path, notes: Notes, source: Path | None = None) -> Path:
    """Render candidates and the page on which a person decides about them.

    Args:
        run: of ``load_pending``, or of an artifact.
        target: folder of the report.
        notes: reasons for which ``accept`` would refuse a candidate, by runner and case.
        source: the artifact; ``None``: the candidates are pending in this checkout.

    Returns:
        The page of decisions.

    Raises:
        ReportError: as :func:`render_run`.
    """

    def write(folder: Path) -> None:
        media = write_report(run, folder)
        html = renderer()("review.html.j2", **review_page(run, media, notes, source))
        write_text_atomic(folder / REVIEW_FILE, html)

    return replace_folder(target, write) / REVIEW_FILE


def write_report(run: Run, folder: Path) -> dict[str, Media]:
    """Write the overview, a page for each case, pictures, styles and scripts into ``folder``.

    `SHOWN_FILE` lists the candidates that the report shows: ``quantgate accept`` refuses a candidate that no report
    shows.
    """
    media = {entry.slug: write_media(entry, folder) for entry in run.entries}
    shutil.copytree(HERE / "static", folder / "static")
    page = renderer()
    write_text_atomic(folder / "index.html", page("overview.html.j2", **overview_page(run, media)))
    for place, entry in enumerate(run.entries):
        html = page("case.html.j2", **case_page(run, place, media[entry.slug]))
        write_text_atomic(folder / "cases" / f"{entry.slug}.html", html)
    shown = {entry.candidate.seal: f"cases/{entry.slug}.html" for entry in run.entries if entry.candidate is not None}
    write_text_atomic(folder / SHOWN_FILE, json.dumps(shown, indent=2, sort_keys=True) + "\n")
    return media


def replace_folder(target: Path, write: Callable[[Path], object]) -> Path:
    """Fill a new folder with ``write``, then replace ``target`` by it; if ``write`` fails, ``target`` is unchanged.

    Raises:
        ReportError: ``target`` exists and is no report of quantgate.
    """
    # never delete a folder that quantgate did not write
    if target.exists() and not (target / MARKER).is_file():
        raise ReportError(
            "this is there already and is no report, so it is not replaced",
            place=str(target),
            remedy="give another folder with --out",
        )
    # beside the target, because a rename cannot cross file systems
    fresh = temporary_folder(target.parent, f".{target.name}.")
    try:
        # `mkdtemp` creates folders that only their owner can enter
        fresh.chmod(0o755)
        (fresh / MARKER).write_text(
            "This folder was written by quantgate and is replaced as a whole.\n", encoding="utf-8"
        )
        write(fresh)
        if target.exists():
            old = temporary_folder(target.parent, f".{target.name}.")
            target.replace(old)
            fresh.replace(target)
            shutil.rmtree(old)
        else:
            fresh.replace(target)
    except BaseException:
        shutil.rmtree(fresh, ignore_errors=True)
        raise
    return target


@cache
def environment() -> Environment:
    """Return the templates' environment: it escapes always, cleans text, and raises at an unknown name."""
    env = Environment(
        loader=FileSystemLoader(HERE / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_clean,
    )
    env.filters |= {
        "number": text.number,
        "percent": text.percent,
        "seconds": text.seconds,
        "size": text.size,
        "plain": text.plain,
        "short": text.short_digest,
        "parts": text.parts,
    }
    env.globals |= {"label": LABELS.__getitem__, "policy": POLICY}
    return env


def _clean(value: object) -> object:
    return clean(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def renderer() -> Callable[..., str]:
    """Return a function that renders a template by name."""

    def page(template: str, **context: Any) -> str:
        return environment().get_template(template).render(**context)

    return page
