"""Decisions on the page of all candidates become one command, which a shell understands as they were made."""

from __future__ import annotations

import shlex
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from playwright.sync_api import BrowserContext, expect

from harness.goldens.golden import describe
from harness.records.candidate import Candidate
from harness.records.golden import Provenance
from harness.records.identity import Identity
from harness.report.load import Entry, Run
from harness.report.render import render_review


@pytest.fixture
def page(context: BrowserContext, make: ModuleType, tmp_path: Path) -> Any:
    golden = make.drawn_clip(3)
    entries = []
    for case in ("a", "b", "c"):
        record = make.measured_record(case, golden, make.broken_clip(golden, 1))
        folder = make.write_case(tmp_path / "run", record, golden, make.broken_clip(golden, 1))
        parts = {"record": describe(folder / "record.json", "application/json", "record.json")}
        candidate = Candidate.sealed(
            case=case, runner="cpu", identity=Identity(request={}, hardware={}, weights={}, env={}, subject={}),
            parts=parts,
            created="2026-01-01", provenance=Provenance(run="r"), outcome=record.verdict.outcome, summary="s",
        )  # fmt: skip
        entries.append(Entry(folder, record, case, candidate))
    run = Run(tmp_path / "run", "pending", tuple(entries))
    opened = context.new_page()
    opened.goto(render_review(run, tmp_path / "out", {("cpu", "b"): ["its frames are sick"]}).as_uri())
    return opened


def test_decisions_become_one_command(page: Any) -> None:
    expect(page.locator("h1")).to_contain_text("3 candidates to decide")
    expect(page.locator('[data-choice="cpu/b"]')).to_contain_text("its frames are sick")
    expect(page.locator(".command.main")).to_be_hidden()
    page.locator('[data-choice="cpu/a"] input[value=accept]').check()
    page.locator('[data-choice="cpu/b"] input[value=reject]').check()
    page.locator("[data-reason]").fill("it's right; $(rm -rf x)")
    accept, reject = page.locator("[data-decided]").inner_text().split(" && ")
    assert shlex.split(accept) == ["quantgate", "accept", "cpu/a", "--reason", "it's right; $(rm -rf x)"]
    assert shlex.split(reject) == ["quantgate", "reject", "cpu/b"]
    page.locator("[data-accept-all]").click()
    assert shlex.split(page.locator("[data-decided]").inner_text())[2:5] == ["cpu/a", "cpu/b", "cpu/c"]


def test_nothing_is_cut_off_on_a_phone(page: Any) -> None:
    page.set_viewport_size({"width": 390, "height": 844})
    page.locator("[data-accept-all]").click()
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
