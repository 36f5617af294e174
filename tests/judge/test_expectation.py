"""Negative controls and waivers."""

from __future__ import annotations

from datetime import date
from typing import Any

import pytest
from builders import (
    GOLDEN,
    make_comparison,
    make_evidence,
    make_generation,
    make_limits,
    make_metric,
    make_receipts,
    make_sanity,
    make_trace,
    quantized_case,
)

from harness.judge.evidence import GoldenEvidence
from harness.judge.verdict import apply_expectation, judge
from harness.outcomes import Outcome
from harness.records.inspection import InspectionFinding, InspectionReport
from harness.records.limits import Limit, Sample
from harness.records.verdict import Finding, Verdict

TODAY = date(2026, 6, 1)
WAIVER = {
    "expect": "regression:flicker_above_limit",
    "owner": "ann",
    "reason": "kernel",
    "issue": "https://example.org/1",
    "expires": "2026-06-30",
}


def verdict(outcome: Outcome, cause: str = "none") -> Verdict:
    finding = Finding(stage="frames", code=cause, gating=outcome is not Outcome.PASS, message="x")
    return Verdict(outcome=outcome, cause=cause, summary="what was seen", findings=(finding,))


@pytest.mark.parametrize(
    ("expect", "observed", "cause", "final"),
    [
        ("pass", Outcome.PASS, "none", Outcome.PASS),
        ("pass", Outcome.REGRESSION, "noise", Outcome.REGRESSION),
        ("regression:noise", Outcome.REGRESSION, "noise", Outcome.PASS),
        ("regression:noise", Outcome.PASS, "none", Outcome.UNEXPECTED_PASS),
        ("regression:noise", Outcome.INFRA, "oom", Outcome.INFRA),
        ("regression:noise", Outcome.GOLDEN_MISSING, "golden_missing", Outcome.GOLDEN_MISSING),
        ("regression:noise", Outcome.CHECKPOINT_FAULT, "nibble_order", Outcome.CHECKPOINT_FAULT),
        ("checkpoint_fault:nibble_order", Outcome.CHECKPOINT_FAULT, "nibble_order", Outcome.PASS),
        ("checkpoint_fault:nibble_order", Outcome.CHECKPOINT_FAULT, "scale_layout", Outcome.CHECKPOINT_FAULT),
        ("checkpoint_fault:nibble_order", Outcome.REGRESSION, "noise", Outcome.REGRESSION),
    ],
)
def test_negative_controls(expect: str, observed: Outcome, cause: str, final: Outcome) -> None:
    message = apply_expectation(quantized_case(expect=expect), verdict(observed, cause), TODAY)
    assert message.outcome is final
    if final is Outcome.PASS and expect != "pass":
        assert message.observed is observed


def test_a_negative_control_that_fails_otherwise_says_so() -> None:
    message = apply_expectation(
        quantized_case(expect="checkpoint_fault:nibble_order"), verdict(Outcome.CHECKPOINT_FAULT, "scale_layout"), TODAY
    )
    assert "must fail by 'nibble_order', and failed by 'scale_layout'" in message.summary


FLICKER = "flicker_above_limit"


@pytest.mark.parametrize(
    ("observed", "cause", "today", "final"),
    [
        (Outcome.REGRESSION, FLICKER, TODAY, Outcome.WAIVED),
        (Outcome.REGRESSION, FLICKER, date(2026, 7, 1), Outcome.REGRESSION),
        (Outcome.REGRESSION, "nan", TODAY, Outcome.REGRESSION),
        (Outcome.PASS, "none", TODAY, Outcome.UNEXPECTED_PASS),
        (Outcome.PASS, "none", date(2026, 7, 1), Outcome.PASS),
        (Outcome.INFRA, "oom", TODAY, Outcome.INFRA),
        (Outcome.GOLDEN_MISSING, "golden_missing", TODAY, Outcome.GOLDEN_MISSING),
    ],
)
def test_waivers(observed: Outcome, cause: str, today: date, final: Outcome) -> None:
    message = apply_expectation(quantized_case(waiver=WAIVER), verdict(observed, cause), today)
    assert message.outcome is final


def test_the_last_day_of_a_waiver_counts() -> None:
    message = apply_expectation(quantized_case(waiver=WAIVER), verdict(Outcome.REGRESSION, FLICKER), date(2026, 6, 30))
    assert message.outcome is Outcome.WAIVED


def test_an_expired_waiver_is_named() -> None:
    message = apply_expectation(quantized_case(waiver=WAIVER), verdict(Outcome.REGRESSION, FLICKER), date(2026, 7, 1))
    assert message.findings[-1].code == "waiver_expired"


def flickering(**more: Any) -> Any:
    """A run whose one fault is the known one."""
    limit = Limit(
        metric="flicker",
        direction="lower_is_better",
        gates=True,
        limit=1.0,
        samples=(Sample(value=0.5, run="r", side="benign"),),
        method="repeats",
    )
    limits = make_limits().model_copy(update={"limits": (limit,)})
    comparison = make_comparison(make_metric("flicker", 1.03, direction="lower_is_better", ideal=0.0))
    golden = GoldenEvidence(GOLDEN, (), make_trace(), limits)
    return make_evidence(case=quantized_case(waiver=WAIVER), golden=golden, comparison=comparison).plus(**more)


def test_the_known_failure_is_waived() -> None:
    message, _ = judge(flickering(), "cpu", TODAY)
    assert (message.outcome, message.observed, message.cause) == (Outcome.WAIVED, Outcome.REGRESSION, FLICKER)


def test_a_waiver_hides_nothing_else() -> None:
    """NaN, a path that did not run, and absent limits all ended waived under a waiver for three percent of flicker."""
    bare = GoldenEvidence(GOLDEN, (), make_trace(), None)
    weights = InspectionReport(
        reference="x",
        base=None,
        outcome="inconclusive",
        summary="x",
        findings=(InspectionFinding(code="nibble_unproven", severity="inconclusive", message="no base"),),
    )
    for cause, outcome, more in (
        ("noise", Outcome.REGRESSION, {"sanity": make_sanity(ok=False)}),
        ("quantized_path_not_run", Outcome.REGRESSION, {"generation": make_generation(receipts=make_receipts("bf16"))}),
        ("limits_missing", Outcome.INCONCLUSIVE, {"golden": bare}),
        ("nibble_unproven", Outcome.INCONCLUSIVE, {"inspection": weights}),
    ):
        message, _ = judge(flickering(**more), "cpu", TODAY)
        assert (message.outcome, message.cause) == (outcome, cause)
        assert (
            f"; {cause} not waived: the waiver of ann (https://example.org/1) is for {WAIVER['expect']}"
            in message.summary
        )
        assert message.next_command


def test_missing_limits_beside_the_known_failure_are_red_with_their_own_next_command() -> None:
    evidence = flickering(golden=GoldenEvidence(GOLDEN, (), make_trace()))
    message, _ = judge(evidence, "cpu", TODAY)
    assert (message.outcome, message.cause) == (Outcome.INCONCLUSIVE, "limits_missing")
    assert message.next_command == "quantgate regenerate --case one --runner cpu --reason '...'"


def test_absent_limits_are_waived_by_no_name() -> None:
    waiver = {**WAIVER, "expect": "inconclusive:limits_missing"}
    message = apply_expectation(quantized_case(waiver=waiver), limits_missing(), TODAY)
    assert message.outcome is Outcome.INCONCLUSIVE


def limits_missing() -> Verdict:
    finding = Finding(stage="limits", code="limits_missing", gating=True, message="x")
    return Verdict(outcome=Outcome.INCONCLUSIVE, cause="limits_missing", summary="x", findings=(finding,))


def test_a_failure_with_several_causes_names_them_all() -> None:
    waiver = {**WAIVER, "expect": "regression:quantized_path_not_run,flicker_above_limit"}
    both = flickering(generation=make_generation(receipts=make_receipts("bf16")), case=quantized_case(waiver=waiver))
    assert judge(both, "cpu", TODAY)[0].outcome is Outcome.WAIVED


def test_what_sanity_finds_is_never_waived() -> None:
    waiver = {**WAIVER, "expect": "regression:noise,flicker_above_limit"}
    static = flickering(sanity=make_sanity(ok=False), case=quantized_case(waiver=waiver))
    assert judge(static, "cpu", TODAY)[0].outcome is Outcome.REGRESSION


def failed(*codes: str) -> Verdict:
    """A regression with these findings, each ``stage/code``."""
    findings = tuple(
        Finding(stage=stage, code=code, gating=True, message=f"{code} was seen")  # type: ignore[arg-type]
        for stage, _, code in (text.partition("/") for text in codes)
    )
    return Verdict(outcome=Outcome.REGRESSION, cause=findings[0].code, summary="x", findings=findings)


SSIM = "frames/ssim_below_limit"


@pytest.mark.parametrize(
    ("expect", "seen", "final"),
    [
        ("regression:ssim_below_limit", (SSIM,), Outcome.PASS),
        ("regression:frames/ssim_below_limit", (SSIM, "sanity/noise"), Outcome.PASS),
        ("regression:frames/timestep", ("trace/timestep",), Outcome.REGRESSION),
        ("regression:trace/timestep", ("trace/timestep", SSIM), Outcome.PASS),
        ("regression:ssim_below_limit,timestep", (SSIM,), Outcome.REGRESSION),
        ("regression:ssim_below_limit,timestep", (SSIM, "trace/timestep"), Outcome.PASS),
        ("regression:ssim_below_limit", ("sanity/nan", SSIM), Outcome.REGRESSION),
        ("regression:ssim_below_limit", (SSIM, "sanity/shape"), Outcome.REGRESSION),
        ("regression:nan", ("sanity/nan", SSIM), Outcome.PASS),
    ],
)
def test_a_control_is_met_only_by_what_it_names(expect: str, seen: tuple[str, ...], final: Outcome) -> None:
    message = apply_expectation(quantized_case(expect=expect), failed(*seen), TODAY)
    assert message.outcome is final
    if final is Outcome.REGRESSION and any(one.startswith("sanity") for one in seen):
        assert "this negative control must fail by" in message.summary


def test_the_same_cause_by_another_outcome_is_not_waived() -> None:
    waiver = {**WAIVER, "expect": "checkpoint_fault:flicker_above_limit"}
    message = apply_expectation(quantized_case(waiver=waiver), verdict(Outcome.REGRESSION, FLICKER), TODAY)
    assert message.outcome is Outcome.REGRESSION
