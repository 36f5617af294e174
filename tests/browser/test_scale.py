"""300 cases, every one of them with pictures, open in under two seconds: the issue's own demand, asked of the page."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import pytest
from playwright.sync_api import Browser, expect

from harness.outcomes import Outcome
from harness.report.render import render_run

CASES = 300
MOST_MILLISECONDS = 2000


@pytest.fixture(scope="module")
def many(make: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("runs") / "many"
    golden = make.drawn_clip(2, 32, 48)
    broken = make.broken_clip(golden, 1)
    for index in range(CASES):
        candidate = broken if index % 2 else golden
        found = make.measured_record(f"case_{index:03d}", golden, candidate, inspection=None)
        make.write_case(run, found, golden, candidate)
    return render_run(run, tmp_path_factory.mktemp("report") / "out").parent


def test_the_overview_opens_in_time_and_works(chromium: Browser, many: Path) -> None:
    page = chromium.new_page()
    page.goto((many / "index.html").as_uri(), wait_until="load")
    timing = page.evaluate(
        "() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(() => done(performance.now()))))"
    )
    assert timing < MOST_MILLISECONDS
    expect(page.locator("[data-case]")).to_have_count(CASES)
    assert (
        len(
            {Outcome.PASS.value, Outcome.REGRESSION.value}
            & set(page.locator("h2").evaluate_all("h => h.map((x) => x.id)"))
        )
        == 2
    )
    began = page.evaluate("performance.now()")
    page.locator("[data-filter]").fill("case_299")
    expect(page.locator("[data-row]:visible")).to_have_count(1)
    assert page.evaluate("performance.now()") - began < MOST_MILLISECONDS
    page.close()
