"""Limits that are absent, of another golden, incomplete, or not reached."""

from __future__ import annotations

from typing import Any

import pytest
from builders import GOLDEN, make_comparison, make_evidence, make_limits, make_metric, make_trace

from harness.judge.evidence import GoldenEvidence
from harness.judge.limits_rule import check_limits
from harness.judge.verdict import observe
from harness.outcomes import Outcome
from harness.records.limits import Limit, Sample


def with_limits(limits: Any) -> Any:
    return make_evidence(golden=GoldenEvidence(GOLDEN, (), make_trace(), limits))


def test_no_limits_are_inconclusive() -> None:
    verdict, _ = observe(with_limits(None), "cpu")
    assert (verdict.outcome, verdict.cause) == (Outcome.INCONCLUSIVE, "limits_missing")
    assert verdict.next_command == "quantgate regenerate --case one --runner cpu --reason '...'"


def test_limits_of_another_golden_are_inconclusive() -> None:
    verdict, _ = observe(with_limits(make_limits(golden_digest="9" * 64)), "cpu")
    assert verdict.cause == "limits_of_another_golden"


def test_a_metric_without_a_limit_is_inconclusive() -> None:
    comparison = make_comparison(make_metric(), make_metric("psnr", 40.0))
    verdict, _ = observe(make_evidence(comparison=comparison), "cpu")
    assert (verdict.cause, "psnr" in verdict.summary) == ("limits_incomplete", True)


def test_a_bit_exact_clip_needs_limits_too() -> None:
    """Limits that a change removed would be missed by nobody until the output differs."""
    evidence = with_limits(None).plus(comparison=make_comparison(bit_exact=True))
    verdict, _ = observe(evidence, "cpu")
    assert (verdict.outcome, verdict.cause) == (Outcome.INCONCLUSIVE, "limits_missing")
    same = with_limits(make_limits()).plus(comparison=make_comparison(bit_exact=True))
    assert observe(same, "cpu")[0].outcome is Outcome.PASS


def test_a_metric_that_could_not_be_computed_fails() -> None:
    absent = make_metric("lpips_alex", None, status="not_computed", why="no weights", worst_frame=None, mean=None)
    verdict, _ = observe(make_evidence(comparison=make_comparison(make_metric(), absent)), "cpu")
    assert (verdict.outcome, verdict.cause) == (Outcome.REGRESSION, "metric_not_computed")


def not_gating(metric: str, why: str = "benign and faulty runs overlap") -> Limit:
    return Limit(
        metric=metric,
        direction="higher_is_better",
        gates=False,
        limit=None,
        samples=(Sample(value=0.9, run="r", side="benign"),),
        method="tolerance_bound",
        why=why,
    )


def test_a_metric_that_does_not_gate_fails_nothing() -> None:
    limits = make_limits()
    evidence = with_limits(limits.model_copy(update={"limits": (*limits.limits, not_gating("psnr"))}))
    comparison = make_comparison(make_metric(), make_metric("psnr", 3.0))
    verdict, checks = observe(evidence.plus(comparison=comparison), "cpu")
    assert (verdict.outcome, [check.passed for check in checks]) == (Outcome.PASS, [True, True])


def test_limits_that_gate_nothing_are_inconclusive() -> None:
    """What such a file let through: an SSIM of .02, and 3 dB."""
    limits = make_limits().model_copy(update={"limits": (not_gating("ssim"), not_gating("psnr", "too noisy"))})
    comparison = make_comparison(make_metric(worst=0.02), make_metric("psnr", 3.0))
    verdict, _ = observe(with_limits(limits).plus(comparison=comparison), "cpu")
    assert (verdict.outcome, verdict.cause) == (Outcome.INCONCLUSIVE, "limits_gate_nothing")
    assert "benign and faulty runs overlap; too noisy" in verdict.summary
    assert verdict.next_command == "quantgate regenerate --case one --runner cpu --reason '...'"
    same = with_limits(limits).plus(comparison=make_comparison(bit_exact=True))
    assert observe(same, "cpu")[0].cause == "limits_gate_nothing"


def test_a_gating_limit_of_a_metric_that_was_not_measured_is_none() -> None:
    limits = make_limits()
    file = limits.model_copy(update={"limits": (*limits.limits, not_gating("psnr"))})
    evidence = with_limits(file).plus(comparison=make_comparison(make_metric("psnr", 3.0)))
    assert observe(evidence, "cpu")[0].cause == "limits_gate_nothing"


def test_limits_hold_for_every_golden_that_they_name() -> None:
    both = make_limits(golden_digest="9" * 64, also=(GOLDEN,))
    assert observe(with_limits(both), "cpu")[0].outcome is Outcome.PASS
    other = make_limits(golden_digest="9" * 64, also=("8" * 64,))
    assert observe(with_limits(other), "cpu")[0].cause == "limits_of_another_golden"


def test_lower_is_better() -> None:
    limit = Limit(
        metric="mad",
        direction="lower_is_better",
        gates=True,
        limit=2.0,
        unit="levels of 255",
        samples=(Sample(value=1.0, run="r", side="benign"),),
        method="repeats",
    )
    evidence = with_limits(make_limits().model_copy(update={"limits": (limit,)}))
    bad = make_metric("mad", 3.0, direction="lower_is_better", ideal=0.0)
    verdict, checks = observe(evidence.plus(comparison=make_comparison(bad)), "cpu")
    assert (verdict.cause, checks[0].margin_consumed) == ("mad_above_limit", pytest.approx(1.5))


@pytest.mark.parametrize(("worst", "passed"), [(0.95, True), (1.05, True), (0.7, False), (1.3, False)])
def test_two_sided(worst: float, passed: bool) -> None:
    limit = Limit(
        metric="ratio",
        direction="lower_is_better",
        gates=True,
        limit=0.1,
        samples=(Sample(value=0.05, run="r", side="benign"),),
        method="repeats",
    )
    evidence = with_limits(make_limits().model_copy(update={"limits": (limit,)}))
    measured = make_metric("ratio", worst, direction="two_sided")
    checks = check_limits(evidence.plus(comparison=make_comparison(measured)))
    assert [check.passed for check in checks] == [passed]
