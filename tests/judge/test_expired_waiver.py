"""The day after a waiver ended: it counts for nothing, and is named, as part of what is wrong or beside a pass."""

from __future__ import annotations

from datetime import date

import pytest
from builders import make_comparison, make_evidence, make_metric, quantized_case

from harness.definitions.case import Case, Waiver
from harness.judge.verdict import judge
from harness.outcomes import Outcome
from harness.records.verdict import Finding

ENDED = date(2026, 6, 30)


def waived() -> Case:
    """A case with a waiver; built without validation, so that only what the rule reads must be there."""
    waiver = Waiver.model_construct(
        owner="ann", reason="kernel", issue="https://example.org/1", expires=ENDED, expect="regression"
    )
    case: Case = quantized_case().model_copy(update={"waiver": waiver})
    return case


@pytest.mark.parametrize(("worst", "outcome", "gating"), [(0.5, Outcome.REGRESSION, True), (0.99, Outcome.PASS, False)])
def test_an_expired_waiver_gates_exactly_where_the_case_fails(worst: float, outcome: Outcome, gating: bool) -> None:
    evidence = make_evidence(case=waived(), comparison=make_comparison(make_metric(worst=worst)))
    verdict, _ = judge(evidence, "cpu", date(2026, 7, 1))
    (found,) = [finding for finding in verdict.findings if finding.code == "waiver_expired"]
    assert isinstance(found, Finding)
    assert (verdict.outcome, verdict.observed, found.gating) == (outcome, None, gating)
    assert "ended on 2026-06-30" in found.message
