"""A real browser. Without one these tests fail: a page that nobody opened is not known to work.

``make test-browser`` installs what they need; ``QUANTGATE_CHROMIUM`` names another Chromium.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
import report_runs
from playwright.sync_api import Browser, BrowserContext, Page, sync_playwright

ARGUMENTS = [
    "--no-sandbox",  # root in a container has no user namespace to fall back on
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


@pytest.fixture(scope="session")
def chromium() -> Iterator[Browser]:
    path = os.environ.get("QUANTGATE_CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
    if path is None:
        pytest.fail("there is no Chromium; next: apt-get install chromium, or set QUANTGATE_CHROMIUM", pytrace=False)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=ARGUMENTS)
        yield browser
        browser.close()


class Tab:
    """A page that remembers every complaint of the browser."""

    def __init__(self, context: BrowserContext, folder: Path) -> None:
        self.page: Page = context.new_page()
        self.folder = folder
        self.complaints: list[str] = []
        self.requests: list[str] = []
        self.page.on("console", lambda message: self._hear(message.type, message.text))
        self.page.on("pageerror", lambda error: self.complaints.append(f"pageerror: {error}"))
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.on("requestfailed", lambda request: self.complaints.append(f"failed: {request.url}"))

    def _hear(self, kind: str, text: str) -> None:
        if kind in ("error", "warning"):
            self.complaints.append(f"{kind}: {text}")

    def open(self, name: str) -> Page:
        """Open a file of the folder, and wait until the player has drawn, where there is one."""
        self.page.goto((self.folder / name).as_uri())
        if self.page.locator("[data-player]").count():
            self.page.wait_for_selector("[data-player][data-drawn=true]")
        return self.page


@pytest.fixture
def context(chromium: Browser) -> Iterator[BrowserContext]:
    context = chromium.new_context(viewport={"width": 1280, "height": 900}, color_scheme="light")
    yield context
    context.close()


@pytest.fixture(scope="session")
def make() -> ModuleType:
    """The factories of ``tests/support/report_runs.py``."""
    return report_runs


@pytest.fixture(scope="session")
def report(make: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report of a run with one case of every kind, one of them hostile and one too large to be kept lossless."""
    from harness.outcomes import Outcome
    from harness.records.verdict import Verdict
    from harness.report.render import render_run

    run = make.sample_run(tmp_path_factory.mktemp("runs") / "20260102-030405-abcd")
    golden = make.drawn_clip(3)
    text = make.HOSTILE
    hostile = make.measured_record(
        "hostile", golden, make.broken_clip(golden, 1),
        request={"sampling": {"prompt": text}, text: text}, node=f"cases/x.yaml::{text}", log_tail=(text,),
        verdict=Verdict(outcome=Outcome.REGRESSION, cause=text, summary=text, next_command=text),
    )  # fmt: skip
    make.write_case(run, hostile, golden, make.broken_clip(golden, 1))
    large = make.drawn_clip(9, 480, 832)
    make.write_case(run, make.measured_record("large", large, make.broken_clip(large)), large, make.broken_clip(large))
    return render_run(run, tmp_path_factory.mktemp("report") / "out").parent


@pytest.fixture
def tab(context: BrowserContext, report: Path) -> Iterator[Tab]:
    """A tab; whatever a test does, the browser must have had nothing to complain about."""
    tab = Tab(context, report)
    yield tab
    assert tab.complaints == []
    assert [url for url in tab.requests if not url.startswith("file://")] == []
