"""Evidence in, verdict out. The order below is the order in which evidence is believed."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import date

from harness.judge.evidence import Evidence
from harness.judge.expectation import apply_expectation
from harness.judge.limits_rule import check_limits, judge_limits, limits_problem
from harness.judge.next_command import next_command
from harness.judge.origin_rule import (
    ENV,
    HARDWARE,
    REQUEST,
    WEIGHTS,
    frames_compare,
    judge_origin,
    same_origin,
    with_outcome,
)
from harness.judge.probe_rule import judge_probe
from harness.judge.receipts_rule import judge_receipts
from harness.judge.trace_rule import judge_trace
from harness.records.base import Json
from harness.records.frames import ComparisonEvidence
from harness.records.limits import LimitCheck
from harness.records.verdict import Finding, Outcome, Verdict


def judge(evidence: Evidence, runner: str, today: date) -> tuple[Verdict, tuple[LimitCheck, ...]]:
    """Decide a case.

    Args:
        evidence: what was found out; a stage that did not run is absent.
        runner: name of the runner profile, for the next command.
        today: for the expiry of waivers.

    Returns:
        The verdict after expectation and waiver, and every limit as it was held against the measured value.
    """
    observed, checks = observe(evidence, runner)
    final = apply_expectation(evidence.case, observed, today)
    if final.observed is None and final.cause != observed.cause:  # something that the waiver is not for
        final = final.model_copy(update={"next_command": next_command(evidence, final.outcome, final.cause, runner)})
    return final, checks


def observe(evidence: Evidence, runner: str) -> tuple[Verdict, tuple[LimitCheck, ...]]:
    """What the evidence says, before the case's expectation and waiver are asked."""
    checks = check_limits(evidence) if frames_compare(evidence) else ()
    findings = with_outcome(evidence, tuple(_findings(evidence, checks)), checks)
    outcome, leading = _decide(evidence, findings)
    cause = leading.code if leading else "none"
    verdict = Verdict(
        outcome=outcome,
        cause=cause,
        summary=leading.message if leading else _passed(evidence, checks),
        findings=findings,
        next_command=next_command(evidence, outcome, cause, runner),
    )
    return verdict, checks


def stop_before_generation(evidence: Evidence) -> bool:
    """Whether what is known already decides the case, so that no GPU time need be spent on it."""
    findings = tuple(_findings(evidence, ()))
    return any(_stops(finding) for finding in findings)


def _stops(finding: Finding) -> bool:
    known = finding.stage == "inspection" or finding.code == HARDWARE or bool(finding.data.get("stops"))
    return finding.gating and known


def _findings(evidence: Evidence, checks: tuple[LimitCheck, ...]) -> Iterator[Finding]:
    if evidence.error is not None:
        output: dict[str, Json] = dict(getattr(evidence.error, "output", {}))
        code, message = _error_code(evidence), evidence.error.what
        yield Finding(stage="engine", code=code, gating=True, message=message, data=output)
    yield from _inspection(evidence)
    yield from judge_origin(evidence)
    yield from judge_probe(evidence, anchored=same_origin(evidence))
    yield from judge_receipts(evidence)
    yield from _sanity(evidence)
    if frames_compare(evidence):
        yield from judge_trace(evidence)
        yield from judge_limits(evidence, checks)
        problem = limits_problem(evidence)
        if problem is not None:
            yield problem


def _error_code(evidence: Evidence) -> str:
    kind = getattr(evidence.error, "kind", None)
    return str(kind or getattr(evidence.error, "outcome", Outcome.INFRA).value)


def _inspection(evidence: Evidence) -> Iterator[Finding]:
    if evidence.inspection is None:
        return
    gates = evidence.case.inspection == "gate"
    for item in evidence.inspection.findings:
        if item.severity == "fault" or (item.severity == "inconclusive" and gates):
            yield Finding(
                stage="inspection",
                code=item.code,
                gating=item.severity == "fault" and gates,
                message=item.message,
                data={"severity": item.severity, "next": item.next_command},
            )


def _sanity(evidence: Evidence) -> Iterator[Finding]:
    if evidence.sanity is None:
        return
    for check in evidence.sanity.checks:
        if not check.ok:
            yield Finding(
                stage="sanity",
                code=check.name,
                gating=True,
                message=check.message,
                data={"value": check.value, "limit": check.limit, "frame": check.frame},
            )


def _decide(evidence: Evidence, findings: tuple[Finding, ...]) -> tuple[Outcome, Finding | None]:
    def first(*stages: str, code: str | None = None, gating: bool = True) -> Finding | None:
        return next((f for f in findings if f.stage in stages and f.gating is gating and code in (None, f.code)), None)

    if evidence.error is not None:
        return evidence.error.outcome, first("engine")
    ordered: tuple[tuple[Outcome, Finding | None], ...] = (
        (Outcome.CHECKPOINT_FAULT, first("inspection")),
        (Outcome.ENVIRONMENT_MISMATCH, first("identity", code=HARDWARE)),
        (Outcome.REGRESSION, first("receipts")),
        (Outcome.REGRESSION, first("probe")),
        (Outcome.REGRESSION, first("identity", code=WEIGHTS)),
        (Outcome.REGRESSION, first("identity", code=ENV)),
        (Outcome.REGRESSION, first("sanity")),
        (Outcome.REGRESSION, first("trace")),
        (Outcome.REGRESSION, first("frames")),
        (Outcome.INCONCLUSIVE, first("inspection", gating=False) if evidence.case.inspection == "gate" else None),
        (Outcome.GOLDEN_STALE, first("identity", code=REQUEST)),
        (Outcome.GOLDEN_STALE, first("identity", code=WEIGHTS, gating=False)),
        (Outcome.GOLDEN_STALE, first("identity", code=ENV, gating=False)),
        (Outcome.INCONCLUSIVE, first("limits")),
    )
    for outcome, finding in ordered:
        if finding is not None:
            return outcome, finding
    if evidence.golden is None:
        return Outcome.GOLDEN_MISSING, Finding(
            stage="identity",
            code="golden_missing",
            gating=True,
            message="there is no golden; everything that needs none is clean, and the candidate was kept",
        )
    if evidence.generation is None or evidence.comparison is None:
        return Outcome.NOT_RUN, None
    return Outcome.PASS, None


def _passed(evidence: Evidence, checks: tuple[LimitCheck, ...]) -> str:
    if evidence.comparison is None:
        return "no result"
    return f"{_inside(evidence.comparison, checks)}{_unproven(evidence)}"


def _unproven(evidence: Evidence) -> str:
    """The mark of a pass whose quantized kernels nothing proves."""
    formats = set(evidence.case.quantization.model_dump().values())
    generation = evidence.generation
    return f"; {generation.unproven}" if generation is not None and generation.unproven and formats != {"bf16"} else ""


def _inside(comparison: ComparisonEvidence, checks: tuple[LimitCheck, ...]) -> str:
    if comparison.bit_exact:
        return "bit-exact: every frame equals the golden's"
    gating = [check for check in checks if check.gates]
    consumed = [(check.margin_consumed, check.metric) for check in gating if check.margin_consumed is not None]
    if not consumed:
        return f"{len(gating)} gating metrics inside their limits"
    share, metric = max(consumed)
    return f"{len(gating)} gating metrics inside their limits; {metric} comes nearest, {share:.0%} of its margin used"
