"""Which runs made elsewhere may stand on the healthy side."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from harness.calibrate.samples import Result, healthy
from harness.outcomes import Outcome
from harness.records.verdict import Finding, Verdict


def result(outcome: Outcome, *, observed: Outcome | None = None, expect: str = "pass", stage: Any = None) -> Result:
    findings = (Finding(stage=stage, code="x", gating=True, message="x"),) if stage else ()
    verdict = Verdict(outcome=outcome, cause="x", summary="x", findings=findings, observed=observed)
    record: Any = SimpleNamespace(
        case="one", identity=SimpleNamespace(digest=lambda: "d"), verdict=verdict, request={"expect": expect}
    )
    return Result("label", record, Path())


@pytest.mark.parametrize(
    ("one", "counts"),
    [
        (result(Outcome.PASS), True),
        (result(Outcome.GOLDEN_MISSING), True),
        (result(Outcome.REGRESSION, stage="frames"), True),
        (result(Outcome.REGRESSION, stage="sanity"), False),
        (result(Outcome.INFRA), False),
        (result(Outcome.PASS, observed=Outcome.REGRESSION, expect="regression:noise"), False),
        (result(Outcome.PASS, observed=Outcome.REGRESSION, expect="regression:noise", stage="frames"), False),
        (result(Outcome.GOLDEN_MISSING, expect="regression:noise"), False),
        (result(Outcome.REGRESSION, expect="regression:noise", stage="frames"), False),
        (result(Outcome.WAIVED, observed=Outcome.REGRESSION, stage="frames"), False),
        (result(Outcome.UNEXPECTED_PASS, observed=Outcome.PASS), False),
    ],
)
def test_only_what_was_observed_healthy_counts(one: Result, counts: bool) -> None:
    assert healthy([one], "one", "d") == ((one,) if counts else ())
