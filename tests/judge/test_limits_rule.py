"""Limits that are absent, of another golden, incomplete, or not reached."""

from __future__ import annotations

from typing import Any

import pytest

from harness.judge.evidence import GoldenEvidence
from harness.judge.limits_rule import check_limits
from harness.judge.verdict import observe
from harness.records.limits import Limit, Sample
from harness.records.verdict import Outcome


def with_limits(make: Any, limits: Any) -> Any:
    return make.healthy(golden=GoldenEvidence(make.GOLDEN, (), make.trace(), limits))


def test_no_limits_are_inconclusive(make: Any) -> None:
    verdict, _ = observe(with_limits(make, None), "cpu")
    assert (verdict.outcome, verdict.cause) == (Outcome.INCONCLUSIVE, "limits_missing")
    assert verdict.next_command == "quantgate regenerate --case one --runner cpu --reason '...'"


def test_limits_of_another_golden_are_inconclusive(make: Any) -> None:
    verdict, _ = observe(with_limits(make, make.limits(golden_digest="9" * 64)), "cpu")
    assert verdict.cause == "limits_of_another_golden"


def test_a_metric_without_a_limit_is_inconclusive(make: Any) -> None:
    comparison = make.comparison(make.metric(), make.metric("psnr", 40.0))
    verdict, _ = observe(make.healthy(comparison=comparison), "cpu")
    assert (verdict.cause, "psnr" in verdict.summary) == ("limits_incomplete", True)


def test_a_bit_exact_clip_needs_no_limits(make: Any) -> None:
    evidence = with_limits(make, None).plus(comparison=make.comparison(bit_exact=True))
    assert observe(evidence, "cpu")[0].outcome is Outcome.PASS


def test_a_metric_that_could_not_be_computed_fails(make: Any) -> None:
    absent = make.metric("lpips_alex", None, status="not_computed", why="no weights", worst_frame=None, mean=None)
    verdict, _ = observe(make.healthy(comparison=make.comparison(make.metric(), absent)), "cpu")
    assert (verdict.outcome, verdict.cause) == (Outcome.REGRESSION, "metric_not_computed")


def test_a_metric_that_does_not_gate_fails_nothing(make: Any) -> None:
    limit = Limit(
        metric="ssim",
        direction="higher_is_better",
        gates=False,
        limit=None,
        samples=(Sample(value=0.9, run="r", side="benign"),),
        method="tolerance_bound",
        why="benign and faulty runs overlap",
    )
    evidence = with_limits(make, make.limits().model_copy(update={"limits": (limit,)}))
    verdict, checks = observe(evidence.plus(comparison=make.comparison(make.metric(worst=0.1))), "cpu")
    assert (verdict.outcome, checks[0].passed) == (Outcome.PASS, True)


def test_lower_is_better(make: Any) -> None:
    limit = Limit(
        metric="mad",
        direction="lower_is_better",
        gates=True,
        limit=2.0,
        unit="levels of 255",
        samples=(Sample(value=1.0, run="r", side="benign"),),
        method="repeats",
    )
    evidence = with_limits(make, make.limits().model_copy(update={"limits": (limit,)}))
    bad = make.metric("mad", 3.0, direction="lower_is_better", ideal=0.0)
    verdict, checks = observe(evidence.plus(comparison=make.comparison(bad)), "cpu")
    assert (verdict.cause, checks[0].margin_consumed) == ("mad_above_limit", pytest.approx(1.5))


@pytest.mark.parametrize(("worst", "passed"), [(0.95, True), (1.05, True), (0.7, False), (1.3, False)])
def test_two_sided(make: Any, worst: float, passed: bool) -> None:
    limit = Limit(
        metric="ratio",
        direction="lower_is_better",
        gates=True,
        limit=0.1,
        samples=(Sample(value=0.05, run="r", side="benign"),),
        method="repeats",
    )
    evidence = with_limits(make, make.limits().model_copy(update={"limits": (limit,)}))
    measured = make.metric("ratio", worst, direction="two_sided")
    checks = check_limits(evidence.plus(comparison=make.comparison(measured)))
    assert [check.passed for check in checks] == [passed]
