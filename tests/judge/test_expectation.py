"""Negative controls and waivers."""

from __future__ import annotations

from datetime import date
from typing import Any

import pytest

from harness.judge.expectation import apply_expectation
from harness.records.verdict import Finding, Outcome, Verdict

TODAY = date(2026, 6, 1)
WAIVER = {"owner": "ann", "reason": "kernel", "issue": "https://example.org/1", "expires": "2026-06-30"}


def verdict(outcome: Outcome, cause: str = "none") -> Verdict:
    finding = Finding(stage="frames", code=cause, gating=outcome is not Outcome.PASS, message="x")
    return Verdict(outcome=outcome, cause=cause, summary="what was seen", findings=(finding,))


@pytest.mark.parametrize(
    ("expect", "observed", "cause", "final"),
    [
        ("pass", Outcome.PASS, "none", Outcome.PASS),
        ("pass", Outcome.REGRESSION, "noise", Outcome.REGRESSION),
        ("regression", Outcome.REGRESSION, "noise", Outcome.PASS),
        ("regression", Outcome.PASS, "none", Outcome.UNEXPECTED_PASS),
        ("regression", Outcome.INFRA, "oom", Outcome.INFRA),
        ("regression", Outcome.GOLDEN_MISSING, "golden_missing", Outcome.GOLDEN_MISSING),
        ("regression", Outcome.CHECKPOINT_FAULT, "nibble_order", Outcome.CHECKPOINT_FAULT),
        ("checkpoint_fault:nibble_order", Outcome.CHECKPOINT_FAULT, "nibble_order", Outcome.PASS),
        ("checkpoint_fault:nibble_order", Outcome.CHECKPOINT_FAULT, "scale_layout", Outcome.CHECKPOINT_FAULT),
        ("checkpoint_fault:nibble_order", Outcome.REGRESSION, "noise", Outcome.REGRESSION),
    ],
)
def test_negative_controls(make: Any, expect: str, observed: Outcome, cause: str, final: Outcome) -> None:
    said = apply_expectation(make.case(expect=expect), verdict(observed, cause), TODAY)
    assert said.outcome is final
    if final is Outcome.PASS and expect != "pass":
        assert said.observed is observed


def test_a_negative_control_that_fails_otherwise_says_so(make: Any) -> None:
    said = apply_expectation(
        make.case(expect="checkpoint_fault:nibble_order"), verdict(Outcome.CHECKPOINT_FAULT, "scale_layout"), TODAY
    )
    assert "must fail by 'nibble_order', and failed by 'scale_layout'" in said.summary


@pytest.mark.parametrize(
    ("observed", "today", "final"),
    [
        (Outcome.REGRESSION, TODAY, Outcome.WAIVED),
        (Outcome.REGRESSION, date(2026, 7, 1), Outcome.REGRESSION),
        (Outcome.PASS, TODAY, Outcome.UNEXPECTED_PASS),
        (Outcome.PASS, date(2026, 7, 1), Outcome.PASS),
        (Outcome.INFRA, TODAY, Outcome.INFRA),
        (Outcome.GOLDEN_MISSING, TODAY, Outcome.GOLDEN_MISSING),
    ],
)
def test_waivers(make: Any, observed: Outcome, today: date, final: Outcome) -> None:
    said = apply_expectation(make.case(waiver=WAIVER), verdict(observed), today)
    assert said.outcome is final


def test_the_last_day_of_a_waiver_counts(make: Any) -> None:
    said = apply_expectation(make.case(waiver=WAIVER), verdict(Outcome.REGRESSION), date(2026, 6, 30))
    assert said.outcome is Outcome.WAIVED


def test_an_expired_waiver_is_named(make: Any) -> None:
    said = apply_expectation(make.case(waiver=WAIVER), verdict(Outcome.REGRESSION), date(2026, 7, 1))
    assert said.findings[-1].code == "waiver_expired"
