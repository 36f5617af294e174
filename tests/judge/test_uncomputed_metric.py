"""A metric that has a limit and no value: it lies inside nothing."""

from __future__ import annotations

from builders import GOLDEN, make_comparison, make_evidence, make_limits, make_metric, make_trace

from harness.judge.verdict import observe
from harness.outcomes import Outcome


def test_a_limit_does_not_admit_a_value_that_is_not_there() -> None:
    absent = make_metric("ssim", None, status="not_computed", why="out of memory", worst_frame=None)
    verdict, (check,) = observe(make_evidence(comparison=make_comparison(absent)), "cpu")
    assert (check.metric, check.value, check.limit) == ("ssim", None, 0.98)
    assert (check.passed, check.margin_consumed) == (False, None)
    assert (verdict.outcome, verdict.cause) == (Outcome.REGRESSION, "metric_not_computed")
    assert [finding.code for finding in verdict.findings] == ["metric_not_computed"]


def test_it_does_not_pass_where_the_metric_does_not_gate_either() -> None:
    limits = make_limits()
    shown = limits.limits[0].model_copy(update={"gates": False, "limit": None, "why": "overlap"})
    absent = make_metric("ssim", None, status="not_computed", why="out of memory", worst_frame=None)
    golden = type(make_evidence().golden)(GOLDEN, (), make_trace(), limits.model_copy(update={"limits": (shown,)}))
    verdict, (check,) = observe(make_evidence(golden=golden, comparison=make_comparison(absent)), "cpu")
    assert not check.passed
    assert verdict.outcome is Outcome.REGRESSION
