"""axe-core finds nothing, in both themes, at desk and phone width."""

from __future__ import annotations

from pathlib import Path

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser

RULES = {"runOnly": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]}


def violations(browser: Browser, url: str, scheme: str, width: int, keys: tuple[str, ...] = ()) -> list[str]:
    # axe is put into the page from outside, which the page's own policy rightly refuses.
    context = browser.new_context(bypass_csp=True, color_scheme=scheme, viewport={"width": width, "height": 900})
    page = context.new_page()
    page.goto(url)
    for key in keys:
        page.keyboard.press(key)
    found = Axe().run(page, options=RULES).response["violations"]
    context.close()
    return [
        f"{item['id']}: {node['html'][:160]} {node['failureSummary'][:300]}" for item in found for node in item["nodes"]
    ]


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("name", ["index.html", "cases/broken.html", "cases/fault.html", "cases/crashed.html"])
def test_pages(chromium: Browser, report: Path, name: str, scheme: str, width: int) -> None:
    assert violations(chromium, (report / name).as_uri(), scheme, width) == []


@pytest.mark.parametrize("key", ["2", "3", "4", "?"])
def test_views_and_help(chromium: Browser, report: Path, key: str) -> None:
    assert violations(chromium, (report / "cases" / "large.html").as_uri(), "light", 1280, (key,)) == []


def test_axe_finds_what_is_wrong(chromium: Browser, tmp_path: Path) -> None:
    page = tmp_path / "bad.html"
    page.write_text("<!doctype html><html><title>x</title><main><img src='x.png'><h1>a</h1></main></html>")
    found = " ".join(violations(chromium, page.as_uri(), "light", 1280))
    assert "image-alt" in found
    assert "html-has-lang" in found
