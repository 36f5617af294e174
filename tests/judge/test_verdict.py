"""Each thing that can be wrong, alone, and in the order in which evidence is believed."""

from __future__ import annotations

from datetime import date
from typing import Any

import pytest
from builders import (
    GOLDEN,
    make_comparison,
    make_evidence,
    make_limits,
    make_metric,
    make_sanity,
    make_trace,
    quantized_case,
)

from harness.errors import InfraError, InvalidCaseError
from harness.judge.evidence import GoldenEvidence
from harness.judge.verdict import judge, observe, stop_before_generation
from harness.outcomes import Outcome
from harness.records.contents import ContentChange
from harness.records.identity import FieldChange
from harness.records.inspection import InspectionFinding, InspectionReport


def inspected(severity: str, code: str = "nibble_order") -> InspectionReport:
    finding = InspectionFinding(code=code, severity=severity, message="the bytes say low nibble first")  # type: ignore[arg-type]
    return InspectionReport(
        reference="./x",
        base=None,
        outcome="fault" if severity == "fault" else "clean",
        summary="x",
        findings=(finding,),
    )


def change(identity_class: str) -> tuple[FieldChange, ...]:
    return (FieldChange(identity_class=identity_class, field="sampling.seed", golden=0, run=1),)  # type: ignore[arg-type]


def test_a_healthy_run_passes() -> None:
    verdict, checks = observe(make_evidence(), "cpu")
    assert (verdict.outcome, verdict.cause, verdict.next_command) == (Outcome.PASS, "none", "")
    assert [(check.metric, check.passed) for check in checks] == [("ssim", True)]
    assert checks[0].margin_consumed == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("identity_class", "outcome"),
    [
        ("request", Outcome.GOLDEN_STALE),
        ("hardware", Outcome.ENVIRONMENT_MISMATCH),
        ("weights", Outcome.GOLDEN_STALE),
        ("env", Outcome.GOLDEN_STALE),
        ("subject", Outcome.PASS),
    ],
)
def test_identity_classes(identity_class: str, outcome: Outcome) -> None:
    golden = GoldenEvidence(GOLDEN, change(identity_class), make_trace(), make_limits())
    verdict, _ = observe(make_evidence(golden=golden), "cpu")
    assert verdict.outcome is outcome
    if identity_class != "subject":
        assert "sampling.seed 0 -> 1" in verdict.summary


@pytest.mark.parametrize(("identity_class", "stops"), [("request", False), ("hardware", True), ("weights", False)])
def test_what_stops_before_generation(identity_class: str, stops: bool) -> None:
    golden = GoldenEvidence(GOLDEN, change(identity_class))
    evidence = make_evidence(golden=golden, generation=None, sanity=None, comparison=None)
    assert stop_before_generation(evidence) is stops


def test_a_fault_in_the_checkpoint_stops_before_generation_and_is_named() -> None:
    evidence = make_evidence(inspection=inspected("fault"), generation=None, sanity=None, comparison=None)
    assert stop_before_generation(evidence)
    verdict, _ = observe(evidence, "cpu")
    assert (verdict.outcome, verdict.cause) == (Outcome.CHECKPOINT_FAULT, "nibble_order")


def test_a_fault_outranks_a_stale_golden() -> None:
    golden = GoldenEvidence(GOLDEN, change("weights"))
    verdict, _ = observe(make_evidence(inspection=inspected("fault"), golden=golden), "cpu")
    assert verdict.outcome is Outcome.CHECKPOINT_FAULT


def test_an_inconclusive_inspection_is_never_a_pass() -> None:
    verdict, _ = observe(make_evidence(inspection=inspected("inconclusive")), "cpu")
    assert verdict.outcome is Outcome.INCONCLUSIVE


@pytest.mark.parametrize("severity", ["fault", "inconclusive"])
def test_a_control_of_the_frames_looks_past_the_inspector(severity: str) -> None:
    case = quantized_case(inspection="report", expect="regression:noise")
    evidence = make_evidence(case=case, inspection=inspected(severity))
    assert not stop_before_generation(evidence)
    assert observe(evidence, "cpu")[0].outcome is Outcome.PASS
    static = evidence.plus(sanity=make_sanity(ok=False))
    assert (observe(static, "cpu")[0].outcome, observe(static, "cpu")[0].cause) == (Outcome.REGRESSION, "noise")


@pytest.mark.parametrize("severity", ["warning", "info"])
def test_a_warning_decides_nothing(severity: str) -> None:
    verdict, _ = observe(make_evidence(inspection=inspected(severity)), "cpu")
    assert verdict.outcome is Outcome.PASS


ENCODER = ContentChange("text_encoder", changed=("shared.weight", "block.0.wo.weight", "block.1.wo.weight"), tensors=9)
NAMED = "text_encoder: 3 of 9 tensors changed (shared.weight, block.0.wo.weight and 1 more)"


def moved(identity_class: str = "weights", **more: Any) -> GoldenEvidence:
    """A golden of another text encoder, or of another environment."""
    field = "text_encoder" if identity_class == "weights" else "ONEDNN_MAX_CPU_ISA"
    row = FieldChange(identity_class=identity_class, field=field, golden="0a", run="1b")  # type: ignore[arg-type]
    contents = (ENCODER,) if identity_class == "weights" else ()
    fields = {"trace": make_trace(), "limits": make_limits(), **more}
    return GoldenEvidence(GOLDEN, (row,), contents=contents, **fields)


def test_weights_that_differ_do_not_hide_a_fault_in_the_frames() -> None:
    verdict, checks = observe(make_evidence(golden=moved(), sanity=make_sanity(ok=False)), "cpu")
    assert (verdict.outcome, verdict.cause) == (Outcome.REGRESSION, "weights_changed")
    assert verdict.summary.startswith(f"the weights are not the golden's: {NAMED}; correlation of neighbouring")
    assert [check.metric for check in checks] == ["ssim"]


@pytest.mark.parametrize(("identity_class", "cause"), [("weights", "weights_changed"), ("env", "env_changed")])
def test_frames_of_other_weights_or_environment_gate(identity_class: str, cause: str) -> None:
    comparison = make_comparison(make_metric(worst=0.26), make_metric("psnr", worst=4.8, unit="dB"))
    evidence = make_evidence(golden=moved(identity_class), comparison=comparison)
    verdict, _ = observe(evidence, "cpu")
    assert (verdict.outcome, verdict.cause) == (Outcome.REGRESSION, cause)
    assert "ssim is 0.26 at frame 1, below its limit of 0.98 (ssim 0.26, psnr 4.8 dB)" in verdict.summary
    assert "accept" not in verdict.next_command
    assert {cause, "ssim_below_limit"} <= {finding.code for finding in verdict.findings if finding.gating}


@pytest.mark.parametrize(("identity_class", "cause"), [("weights", "weights_changed"), ("env", "env_changed")])
def test_frames_of_other_weights_that_agree_make_the_golden_stale(identity_class: str, cause: str) -> None:
    verdict, checks = observe(make_evidence(golden=moved(identity_class)), "cpu")
    assert (verdict.outcome, verdict.cause) == (Outcome.GOLDEN_STALE, cause)
    assert (
        "the frames agree, inside every limit: ssim 0.99; ssim comes nearest to its limit, 50% used" in verdict.summary
    )
    assert verdict.next_command == (
        "quantgate report runs/1  # look at its frames; if they are right: "
        "quantgate accept one --runner cpu --reason '...'"
    )
    assert not any(finding.gating for finding in verdict.findings)
    assert [check.passed for check in checks] == [True]


def test_a_trace_of_other_weights_gates() -> None:
    trace = make_trace().model_copy(update={"scheduler": {"flow_shift": 5.0}})
    verdict, _ = observe(make_evidence(golden=moved(trace=trace)), "cpu")
    assert (verdict.outcome, verdict.cause) == (Outcome.REGRESSION, "weights_changed")
    assert "flow_shift 5.0 -> 3.0" in verdict.summary


def test_equal_frames_of_other_weights_agree() -> None:
    golden = moved(limits=None)
    evidence = make_evidence(golden=golden, comparison=make_comparison(bit_exact=True))
    verdict, _ = observe(evidence, "cpu")
    assert (verdict.outcome, verdict.cause) == (Outcome.GOLDEN_STALE, "weights_changed")
    assert "the frames agree: every one equals the golden's" in verdict.summary


def test_without_limits_nobody_claims_that_frames_agree() -> None:
    comparison = make_comparison(make_metric(worst=0.26))
    verdict, _ = observe(make_evidence(golden=moved(limits=None), comparison=comparison), "cpu")
    assert verdict.outcome is Outcome.GOLDEN_STALE
    assert "ssim 0.26, and there is a golden and there are no limits for it" in verdict.summary
    assert "nobody knows whether the frames agree" in verdict.summary


def test_a_waiver_of_the_symptom_does_not_cover_other_weights() -> None:
    waiver = {
        "expect": "regression:ssim_below_limit",
        "owner": "ann",
        "reason": "3 % below",
        "issue": "https://example.org/1",
        "expires": "2099-01-01",
    }
    evidence = make_evidence(
        case=quantized_case(waiver=waiver), golden=moved(), comparison=make_comparison(make_metric(worst=0.5))
    )
    verdict, _ = judge(evidence, "cpu", date(2026, 1, 1))
    assert (verdict.outcome, verdict.cause) == (Outcome.REGRESSION, "weights_changed")
    same = evidence.plus(golden=GoldenEvidence(GOLDEN, (), make_trace(), make_limits()))
    assert judge(same, "cpu", date(2026, 1, 1))[0].outcome is Outcome.WAIVED


def test_a_control_may_wait_for_changed_weights() -> None:
    evidence = make_evidence(
        case=quantized_case(expect="regression:weights_changed"),
        golden=moved(),
        comparison=make_comparison(make_metric(worst=0.5)),
    )
    assert judge(evidence, "cpu", date(2026, 1, 1))[0].outcome is Outcome.PASS


def test_a_sick_run_of_another_request_is_red() -> None:
    golden = GoldenEvidence(GOLDEN, change("request"))
    evidence = make_evidence(golden=golden, comparison=None, sanity=make_sanity(ok=False))
    assert observe(evidence, "cpu")[0].outcome is Outcome.REGRESSION


def test_no_golden_is_not_a_pass() -> None:
    verdict, _ = observe(make_evidence(golden=None, comparison=None), "cpu")
    assert (verdict.outcome, verdict.cause) == (Outcome.GOLDEN_MISSING, "golden_missing")
    assert verdict.next_command == (
        "quantgate report runs/1  # look at its frames; if they are right: "
        "quantgate accept one --runner cpu --reason '...'"
    )


def test_no_golden_does_not_hide_static() -> None:
    verdict, _ = observe(make_evidence(golden=None, comparison=None, sanity=make_sanity(ok=False)), "cpu")
    assert verdict.outcome is Outcome.REGRESSION


def test_nothing_generated_is_not_run() -> None:
    verdict, _ = observe(make_evidence(generation=None, sanity=None, comparison=None), "cpu")
    assert verdict.outcome is Outcome.NOT_RUN


def test_frames_outside_their_limit() -> None:
    verdict, checks = observe(make_evidence(comparison=make_comparison(make_metric(worst=0.5))), "cpu")
    assert (verdict.outcome, verdict.cause) == (Outcome.REGRESSION, "ssim_below_limit")
    assert "0.5 at frame 1, below its limit of 0.98" in verdict.summary
    assert [check.passed for check in checks] == [False]


def test_an_infra_error_says_nothing_of_the_checkpoint() -> None:
    error = InfraError("the engine was killed", kind="oom", remedy="read the log")
    verdict, _ = observe(make_evidence(error=error, generation=None, sanity=None, comparison=None), "cpu")
    assert (verdict.outcome, verdict.cause, verdict.next_command) == (Outcome.INFRA, "oom", "read the log")


def test_an_invalid_case_is_no_infra() -> None:
    verdict, _ = observe(make_evidence(error=InvalidCaseError("no folder"), generation=None, comparison=None), "cpu")
    assert (verdict.outcome, verdict.cause) == (Outcome.INVALID_CASE, "invalid_case")


def test_names_in_the_next_command_are_quoted() -> None:
    evidence = make_evidence(golden=None, comparison=None, run_dir="runs/a b; rm -rf x")
    verdict, _ = observe(evidence, "cpu")
    assert verdict.next_command.startswith("quantgate report 'runs/a b; rm -rf x'  # ")


def test_a_regression_is_run_again() -> None:
    evidence = make_evidence(comparison=make_comparison(make_metric(worst=0.5)))
    verdict, _ = observe(evidence, "cpu")
    assert verdict.next_command == f"pytest {evidence.node} --runner cpu"


def _told(golden: Any, run: Any) -> str:
    row = FieldChange(identity_class="request", field="sampling.prompt", golden=golden, run=run)
    return observe(make_evidence(golden=GoldenEvidence(GOLDEN, (row,))), "cpu")[0].summary


@pytest.mark.parametrize(
    ("golden", "run", "message"),
    [
        (
            "a yellow square moving down on a purple background",
            "a yellow square moving down on a purple wall",
            "sampling.prompt ...'e moving down on a purple background' -> ...'e moving down on a purple wall'",
        ),
        ("x" * 30 + "a" + "y" * 60, "x" * 30 + "b" + "y" * 60, f"...'{'x' * 12}a{'y' * 23}'..."),
        ("a" * 60, "b" * 60, f"'{'a' * 36}'... -> '{'b' * 36}'..."),
        ("a red", "a blue", "'a red' -> 'a blue'"),
        ("x" * 50, "x" * 51, "-> "),
        (None, "x" * 50, f"None -> '{'x' * 36}'..."),
        (3.0, 4.0, "3.0 -> 4.0"),
    ],
)
def test_two_values_are_cut_where_they_differ(golden: Any, run: Any, message: str) -> None:
    summary = _told(golden, run)
    assert message in summary
    assert summary.count("'") % 2 == 0
    mine, theirs = summary.split("sampling.prompt ")[1].split(" -> ")
    assert mine != theirs


def test_a_golden_of_another_request_is_replaced_on_purpose() -> None:
    golden = GoldenEvidence(GOLDEN, change("request"))
    verdict, _ = observe(make_evidence(golden=golden), "cpu")
    assert verdict.summary.startswith("the golden is of another request: sampling.seed 0 -> 1")
    assert verdict.next_command == (
        "quantgate report runs/1  # look at its frames; if they are right: "
        "quantgate regenerate --case one --runner cpu --replace-golden --reason '...'"
    )


def test_without_a_base_the_same_run_is_not_advised() -> None:
    without = make_evidence(inspection=inspected("inconclusive", "base_missing"))
    assert observe(without, "cpu")[0].next_command.startswith("add `base:` to one")
    other = make_evidence(inspection=inspected("inconclusive", "encoding_inconclusive"))
    assert observe(other, "cpu")[0].next_command == "quantgate inspect --case one"
