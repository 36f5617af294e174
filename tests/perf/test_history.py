"""Times and memory in the history: change points with their commits, and the command that shows them."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from harness.calibrate.perf import write_baseline
from harness.errors import InvalidCaseError
from harness.goldens.workspace import Workspace
from harness.perf.baseline import baseline_path, build
from harness.perf.ceilings import limits_of
from harness.perf.comparing import Look
from harness.perf.judging import Judge
from harness.records.case_record import CaseRecord
from harness.report.history.perf_trend import perf_series
from harness.report.history.store import open_history
from harness.report.history.trend_page import render_history

runs: Any = sys.modules["perf_runs"]  # tests/perf/conftest.py loads it


def judged(machine: Any, count: int, slower: float, start: int) -> list[CaseRecord]:
    """Records whose report was made without a baseline, as on a lane that has none yet."""
    records = []
    for number in range(start, start + count):
        record = machine.record(number, machine.generation(slower))
        look = Look(record.generation, record.engine, record.conditions)
        report = Judge(runs.case(), None, machine.name).report(look, lambda: None)
        records.append(record.model_copy(update={"perf": report}))
    return records


def test_a_change_of_level_names_the_commits_between_which_it_lies(machine: Any) -> None:
    records = [*judged(machine, 15, 1.0, 0), *judged(machine, 10, 1.15, 15)]
    step = next(one for one in perf_series(records) if one.measure == "step")
    ((point, message),) = step.changes()
    assert point.run == "run-015"
    assert f"commits {14:040x}"[:20] in message
    assert "..".join((f"{14:040x}"[:12], f"{15:040x}"[:12])) in message
    vae = next(one for one in perf_series(records) if one.measure == "vae")
    assert vae.changes() == ()


def test_machines_have_series_of_their_own() -> None:
    fast, slow = runs.Machine(0, "GPU-a"), runs.Machine(1, "GPU-b", 1.6)
    records = [one for pair in zip(judged(fast, 10, 1.0, 0), judged(slow, 10, 1.0, 0), strict=True) for one in pair]
    steps = [one for one in perf_series(records) if one.measure == "step"]
    assert [one.pool for one in steps] == ["GPU-a", "GPU-b"]
    assert all(one.changes() == () for one in steps)


def test_the_history_shows_and_draws_it(machine: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from harness.cli.app import app

    monkeypatch.chdir(tmp_path)
    records = [*judged(machine, 12, 1.0, 0), *judged(machine, 8, 1.2, 12)]
    with open_history(tmp_path / "history.sqlite") as history:
        history.add(records)
        page = render_history(history, tmp_path / "pages")
    done = CliRunner().invoke(app, ["history", "wan", "--perf", "--store", "history.sqlite", "--metric", "step"])
    assert done.exit_code == 0, done.output
    assert "run-012" in done.output.replace("\n", "")
    drawn = next(path for path in page.parent.glob("0000-*.html")).read_text()
    assert "perf.step" in drawn
    assert "per step since run-012" in drawn


def test_a_looser_baseline_needs_a_reason(machine: Any, tmp_path: Path) -> None:
    (tmp_path / "thresholds" / "h200").mkdir(parents=True)
    old, _ = build(runs.case(), "h200", machine.history(8), author="ann", reason="first")
    slow, _ = build(
        runs.case(), "h200", [machine.record(n, machine.generation(1.2)) for n in range(8)], author="ann", reason=""
    )
    workspace = Workspace(tmp_path)
    assert write_baseline(workspace, old, None, reason="") == "thresholds/h200/wan.perf.json"
    with pytest.raises(InvalidCaseError, match="step in pool h200"):
        write_baseline(workspace, slow, old, reason=" ")
    assert write_baseline(workspace, slow, old, reason="the new attention is exact")
    assert write_baseline(workspace, old, slow, reason=""), "a tighter one needs none"
    assert baseline_path(tmp_path / "thresholds", "h200", "wan").is_file()
    assert limits_of(slow)["h200", "step"] > 1.15 * limits_of(old)["h200", "step"]
