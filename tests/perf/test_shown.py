"""Times and memory where people look: the verdict, the case's page, the summary, the comment, the terminal's line."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
from builders import bare_evidence, make_case

from harness.judge.evidence import Evidence
from harness.judge.verdict import judge, observe
from harness.outcomes import Outcome
from harness.perf.baseline import build
from harness.perf.comparing import Look
from harness.perf.judging import Judge
from harness.records.case_record import CaseRecord
from harness.report.load import load_run
from harness.report.markdown import comment, job_summary
from harness.report.render import render
from harness.report.times import perf_counts, time_bars

runs: Any = sys.modules["perf_runs"]  # tests/perf/conftest.py loads it


def slow_report(machine: Any, slower: float = 1.12) -> Any:
    file, _ = build(runs.case(), "h200", machine.history(), author="ann", reason="first")
    looks = [
        Look(machine.generation(slower, ordinal=place), machine.engine(), machine.conditions()) for place in (1, 2, 3)
    ]
    further = iter(looks[1:])
    return Judge(runs.case(), file, machine.name).report(looks[0], lambda: next(further))


def evidence(report: Any, **perf: Any) -> Evidence:
    return bare_evidence(runs.case(**perf), perf=report)


def test_a_slow_case_is_a_regression_with_the_history_as_its_next_command(machine: Any) -> None:
    verdict, _ = observe(evidence(slow_report(machine)), "h200")
    assert (verdict.outcome, verdict.cause) == (Outcome.REGRESSION, "slower")
    assert "% per step (p = " in verdict.summary
    assert verdict.next_command == "quantgate history wan --runner h200 --perf"


@pytest.mark.parametrize("state", ["within", "unmeasured", "inconclusive", "faster", "less_memory"])
def test_nothing_else_is_red(machine: Any, state: str) -> None:
    report = slow_report(machine).model_copy(update={"state": state})
    verdict, _ = observe(evidence(report), "h200")
    assert verdict.outcome is not Outcome.REGRESSION
    assert any(finding.stage == "perf" for finding in verdict.findings) is (state not in ("within", "unmeasured"))


@pytest.mark.parametrize(
    ("state", "code", "gating"),
    [
        ("slower", "slower", True),
        ("more_memory", "more_memory", True),
        ("leak", "leak", True),
        ("faster", "faster", False),
        ("less_memory", "faster", False),
        ("inconclusive", "perf_inconclusive", False),
    ],
)
def test_each_state_has_its_code(machine: Any, state: str, code: str, gating: bool) -> None:
    report = slow_report(machine).model_copy(update={"state": state})
    verdict, _ = observe(evidence(report), "h200")
    [finding] = [finding for finding in verdict.findings if finding.stage == "perf"]
    assert (finding.code, finding.gating) == (code, gating)
    assert (verdict.outcome is Outcome.REGRESSION) is gating


def test_an_improvement_is_red_if_the_case_says_so(machine: Any) -> None:
    report = slow_report(machine, 0.64)
    assert report.state == "faster"
    verdict, _ = observe(evidence(report, improvement="red"), "h200")
    assert (verdict.outcome, verdict.cause) == (Outcome.REGRESSION, "faster")
    assert "regenerate --perf" in verdict.next_command


def test_a_waiver_may_name_it(machine: Any) -> None:
    from datetime import date

    case = runs.case()
    waiver = {
        "expect": "regression:slower", "owner": "ann", "reason": "known", "issue": "https://x/1",
        "expires": "2026-12-31",
    }  # fmt: skip
    waived = make_case(**case.model_dump(mode="json") | {"waiver": waiver})
    verdict, _ = judge(bare_evidence(waived, perf=slow_report(machine)), "h200", date(2026, 11, 28))
    assert verdict.outcome is Outcome.WAIVED


def written(machine: Any, folder: Path, **update: Any) -> CaseRecord:
    record = machine.record(30)
    record = record.model_copy(update={"perf": slow_report(machine), **update})
    record.write(folder / "wan" / "record.json")
    return record


def test_page_summary_and_comment_show_it(machine: Any, tmp_path: Path) -> None:
    written(machine, tmp_path / "run")
    run = load_run(tmp_path / "run")
    assert "% per step (p = " in job_summary(run)
    assert "pool h200" in comment(run)
    render(run, tmp_path / "report")
    page = next((tmp_path / "report").glob("cases/*.html")).read_text()
    assert "Time and memory" in page
    assert "way to the limit" in page
    assert "1755 MHz" in page
    assert "generated 2 more times" in page


def test_bars_show_what_is_worse_first_and_cut_what_lies_beyond(machine: Any) -> None:
    record = machine.record(30).model_copy(update={"perf": slow_report(machine, 2.0)})
    bars = time_bars(record)
    assert bars[0].state == "failed"
    assert bars[0].beyond
    assert bars[0].change.startswith("+")
    assert any(bar.measure == "first_step" and bar.state == "shown" for bar in bars)


def test_a_missing_baseline_is_counted_aloud(machine: Any) -> None:
    record = machine.record(1)
    look = Look(record.generation, record.engine, record.conditions)
    report = Judge(runs.case(), None, machine.name).report(look, lambda: None)
    unmeasured = record.model_copy(update={"perf": report})
    slow = record.model_copy(update={"perf": slow_report(machine)})
    assert perf_counts([unmeasured, slow, record]) == (
        "time and memory: 1 slower, 1 of 2 perf_unmeasured (quantgate regenerate --perf)"
    )
    assert perf_counts([record]) == ""
