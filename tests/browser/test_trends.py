"""The trend pages of the history."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, expect

from harness.records.limits import LimitCheck
from harness.report.history.store import open_history
from harness.report.history.trend_page import render_history


@pytest.fixture(scope="session")
def trends(make: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("history")
    records = [
        make.record(
            case,
            run=f"2026010{day}-000000-aaaa",
            started=f"2026-01-0{day}T00:00:00+00:00",
            runner=runner,
            limits=(
                LimitCheck(
                    metric="mad", value=day / 1000, limit=0.01, direction="lower_is_better", gates=True, passed=True,
                    margin_consumed=day / 10,
                ),
            ),
        )
        for case in ("first", make.HOSTILE)
        for runner in ("cpu", "b200")
        for day in range(1, 8)
    ]  # fmt: skip
    with open_history(folder / "h.sqlite") as history:
        history.add(records)
        return render_history(history, folder / "trend").parent


def test_drift_is_seen_and_leads_to_the_chart(context: Any, trends: Path) -> None:
    page = context.new_page()
    complaints: list[str] = []
    page.on("console", lambda message: complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.goto((trends / "index.html").as_uri())
    expect(page.locator("tbody tr").first).to_contain_text("at its limit in about 3 runs")
    page.get_by_role("link", name="first").click()
    expect(page.locator("svg.trend .series")).to_have_count(2)
    expect(page.locator("svg.trend .series-0 circle")).to_have_count(7)
    page.keyboard.press("o")
    expect(page.locator("h1")).to_have_text("History")
    assert page.title() != "owned"
    assert complaints == []


@pytest.mark.parametrize("name", ["index.html", "0001-first.html"])
def test_accessible(chromium: Browser, trends: Path, name: str) -> None:
    context = chromium.new_context(bypass_csp=True)
    page = context.new_page()
    page.goto((trends / name).as_uri())
    assert [item["id"] for item in Axe().run(page).response["violations"]] == []
    context.close()
