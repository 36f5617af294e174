"""A run on another architecture of CPU than the golden's: green inside the limits, one sentence outside of them."""

from __future__ import annotations

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
)

from harness.judge.evidence import GoldenEvidence
from harness.judge.verdict import observe, stop_before_generation
from harness.outcomes import Outcome
from harness.records.identity import FieldChange

OTHER = FieldChange(identity_class="hardware", field="device", golden="x86_64", run="aarch64")


def on_arm(*more: FieldChange, **evidence: Any) -> Any:
    golden = GoldenEvidence(GOLDEN, (OTHER, *more), make_trace(), make_limits())
    return make_evidence(golden=golden, **evidence)


def test_inside_the_limits_it_is_green_and_says_where_the_golden_was_made() -> None:
    assert not stop_before_generation(on_arm(generation=None, sanity=None, comparison=None))
    verdict, checks = observe(on_arm(), "cpu")
    assert (verdict.outcome, verdict.next_command) == (Outcome.PASS, "")
    assert verdict.summary.endswith("(on aarch64; the golden was made on x86_64)")
    assert [check.passed for check in checks] == [True]


def test_a_little_outside_it_is_the_cpu_or_the_code_and_says_so_in_one_sentence() -> None:
    verdict, _ = observe(on_arm(comparison=make_comparison(make_metric(worst=0.97))), "cpu")
    assert (verdict.outcome, verdict.cause) == (Outcome.ENVIRONMENT_MISMATCH, "cpu_differs")
    assert verdict.summary.startswith("this CPU is aarch64, and the golden was made on x86_64")
    assert "ssim is 0.97" in verdict.summary
    assert verdict.next_command == "quantgate report runs/1"


def test_far_outside_it_is_a_regression_on_any_cpu() -> None:
    verdict, _ = observe(on_arm(comparison=make_comparison(make_metric(worst=0.3))), "cpu")
    assert (verdict.outcome, verdict.cause) == (Outcome.REGRESSION, "ssim_below_limit")


@pytest.mark.parametrize("stage", ["sanity", "receipts"])
def test_what_no_cpu_explains_stays_a_regression(stage: str) -> None:
    broken = {
        "sanity": {"sanity": make_sanity(ok=False)},
        "receipts": {"generation": make_generation(receipts=make_receipts("bf16"))},
    }
    evidence = on_arm(comparison=make_comparison(make_metric(worst=0.97)), **broken[stage])
    verdict, _ = observe(evidence, "cpu")
    assert verdict.outcome is Outcome.REGRESSION
    assert verdict.cause != "cpu_differs"


def test_another_gpu_is_another_class_of_hardware() -> None:
    gpu = FieldChange(identity_class="hardware", field="device", golden="NVIDIA H200", run="NVIDIA B200")
    golden = GoldenEvidence(GOLDEN, (gpu,), make_trace(), make_limits())
    verdict, checks = observe(make_evidence(golden=golden), "cpu")
    assert (verdict.outcome, verdict.cause, checks) == (Outcome.ENVIRONMENT_MISMATCH, "hardware_differs", ())


def test_other_weights_on_another_cpu_are_a_stale_golden() -> None:
    weights = FieldChange(identity_class="weights", field="transformer", golden="a", run="b")
    verdict, _ = observe(on_arm(weights), "cpu")
    assert verdict.outcome is Outcome.GOLDEN_STALE
