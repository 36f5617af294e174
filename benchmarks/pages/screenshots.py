"""Take pictures of a report for a README: ``python -m benchmarks.pages.screenshots RUN_DIR --out docs/img``.

Needs the optional dependency ``playwright`` and a Chromium on this machine.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Annotated, NamedTuple

import typer

from harness.errors import QuantgateError
from harness.report.load import ReportError
from harness.report.render import render_run

_ARGUMENTS = ("--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run")


class Shot(NamedTuple):
    """One picture."""

    name: str
    page: str
    width: int
    height: int
    scheme: str


def shots(case: str) -> tuple[Shot, ...]:
    """Return the shots of the overview and one case: light and dark, at a desk and on a phone."""
    page = f"cases/{case}.html"
    return (
        Shot("overview-light", "index.html", 1440, 900, "light"),
        Shot("overview-dark", "index.html", 1440, 900, "dark"),
        Shot("overview-phone", "index.html", 390, 844, "light"),
        Shot("case-light", page, 1440, 1000, "light"),
        Shot("case-dark", page, 1440, 1000, "dark"),
        Shot("case-phone", page, 390, 844, "light"),
        Shot("case-phone-dark", page, 390, 844, "dark"),
    )


def chromium() -> str:
    """Return the path of a Chromium: ``QUANTGATE_CHROMIUM``, or ``chromium`` on the ``PATH``.

    Raises:
        ReportError: there is no Chromium.
    """
    browser = os.environ.get("QUANTGATE_CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
    if browser is None:
        raise ReportError("there is no Chromium", remedy="apt-get install chromium, or set QUANTGATE_CHROMIUM")
    return browser


def take(run_dir: Path, out: Path, case: str = "") -> tuple[Path, ...]:
    """Render a run and photograph its overview and one case, by default the worst.

    Raises:
        ReportError: no records, no such case, no Chromium, or playwright is not installed.
    """
    try:
        from playwright.sync_api import sync_playwright
    except ImportError as error:
        raise ReportError("playwright is not installed", remedy="pip install playwright") from error
    written: list[Path] = []
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch, sync_playwright() as playwright:
        index = render_run(run_dir, Path(scratch) / "report")
        names = sorted(path.stem for path in (index.parent / "cases").iterdir())
        chosen = case or _first(index)
        if chosen not in names:
            raise ReportError(f"there is no case {chosen!r} in this run", place=str(run_dir), remedy=", ".join(names))
        browser = playwright.chromium.launch(executable_path=chromium(), args=list(_ARGUMENTS))
        for shot in shots(chosen):
            page = browser.new_page(
                viewport={"width": shot.width, "height": shot.height},
                color_scheme="dark" if shot.scheme == "dark" else "light",
            )
            page.goto((index.parent / shot.page).as_uri(), wait_until="load")
            if page.locator("[data-player]").count():
                page.wait_for_selector("[data-player][data-drawn=true]")
            target = out / f"{shot.name}.png"
            page.screenshot(path=target)
            written.append(target)
            page.close()
        browser.close()
    return tuple(written)


def _first(index: Path) -> str:
    """Return the slug of the first case on the overview."""
    text = index.read_text(encoding="utf-8")
    return text.split('href="cases/', 1)[1].split(".html", 1)[0]


def main(
    run_dir: Annotated[Path, typer.Argument(help="a run's folder")],
    out: Annotated[Path, typer.Option("--out", help="where the pictures go")] = Path("docs/img"),
    case: Annotated[str, typer.Option("--case", help="which case; default: the worst")] = "",
) -> None:
    """Photograph a run's report."""
    try:
        for path in take(run_dir, out, case):
            typer.echo(str(path))
    except QuantgateError as error:
        typer.echo(f"error: {error}", err=True)
        sys.exit(error.exit_code)


if __name__ == "__main__":
    typer.run(main)
