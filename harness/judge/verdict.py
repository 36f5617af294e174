"""Evidence in, verdict out. The order below is the order in which evidence is believed."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import date

from harness.judge.evidence import Evidence
from harness.judge.expectation import apply_expectation
from harness.judge.limits_rule import check_limits, judge_limits, limits_problem
from harness.judge.next_command import next_command
from harness.judge.probe_rule import judge_probe
from harness.judge.receipts_rule import judge_receipts
from harness.judge.trace_rule import judge_trace
from harness.records.identity import FieldChange
from harness.records.limits import LimitCheck
from harness.records.verdict import Finding, Outcome, Verdict

_SHOWN_FIELDS = 4
_WIDTH = 36
"""Characters of a value that are shown, and how many of them stand before the first that differs."""
_BEFORE = 12


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
    checks = check_limits(evidence) if pixels_gate(evidence) else ()
    findings = tuple(_findings(evidence, checks))
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
    decided = ("request_differs", "hardware_differs")
    known = finding.stage == "inspection" or finding.code in decided or bool(finding.data.get("stops"))
    return finding.gating and known


def _findings(evidence: Evidence, checks: tuple[LimitCheck, ...]) -> Iterator[Finding]:
    if evidence.error is not None:
        yield Finding(stage="engine", code=_error_code(evidence), gating=True, message=evidence.error.what)
    yield from _inspection(evidence)
    yield from _identity(evidence)
    yield from judge_probe(evidence, anchored=pixels_gate(evidence))
    yield from judge_receipts(evidence)
    yield from _sanity(evidence)
    if pixels_gate(evidence):
        yield from judge_trace(evidence)
        yield from judge_limits(evidence, checks)
        problem = limits_problem(evidence)
        if problem is not None:
            yield problem


def pixels_gate(evidence: Evidence) -> bool:
    """Whether the golden was made from these weights, in this environment, on this request and hardware."""
    return evidence.golden is not None and not evidence.golden.changed("request", "hardware", "weights", "env")


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


def _identity(evidence: Evidence) -> Iterator[Finding]:
    golden = evidence.golden
    if golden is None:
        return
    rules = (
        ("request", "request_differs", "the golden was made from another request"),
        ("hardware", "hardware_differs", "the golden was made on another class of hardware"),
    )
    for identity_class, code, text in rules:
        changes = golden.changed(identity_class)
        if changes:
            yield Finding(stage="identity", code=code, gating=True, message=f"{text}: {_fields(changes)}")
    changes = golden.changed("weights", "env")
    if changes:
        message = f"weights or environment are not the golden's, so pixels do not gate: {_fields(changes)}"
        yield Finding(stage="identity", code="weights_or_env_differ", gating=False, message=message)


def _fields(changes: tuple[FieldChange, ...]) -> str:
    rows = [f"{change.field} {' -> '.join(_shorts(change.golden, change.run))}" for change in changes[:_SHOWN_FIELDS]]
    more = len(changes) - _SHOWN_FIELDS
    return ", ".join(rows) + (f" and {more} more" if more > 0 else "")


def _shorts(first: object, second: object) -> tuple[str, str]:
    """Two values, each cut to what fits around the place where they begin to differ."""
    texts = [value if isinstance(value, str) else str(value) for value in (first, second)]
    same = next((i for i, (a, b) in enumerate(zip(*texts, strict=False)) if a != b), min(map(len, texts)))
    start = max(min(same - _BEFORE, max(map(len, texts)) - _WIDTH), 0)
    mine, theirs = (_cut(value, text, start) for value, text in zip((first, second), texts, strict=True))
    return mine, theirs


def _cut(value: object, text: str, start: int) -> str:
    part = text[start : start + _WIDTH]
    part = repr(part) if isinstance(value, str) else part
    return f"{'...' if start else ''}{part}{'...' if start + _WIDTH < len(text) else ''}"


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
        (Outcome.GOLDEN_STALE, first("identity", code="request_differs")),
        (Outcome.ENVIRONMENT_MISMATCH, first("identity", code="hardware_differs")),
        (Outcome.REGRESSION, first("receipts")),
        (Outcome.REGRESSION, first("probe")),
        (Outcome.REGRESSION, first("sanity")),
        (Outcome.REGRESSION, first("trace")),
        (Outcome.REGRESSION, first("frames")),
        (Outcome.INCONCLUSIVE, first("inspection", gating=False) if evidence.case.inspection == "gate" else None),
        (Outcome.GOLDEN_STALE, first("identity", code="weights_or_env_differ", gating=False)),
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
    if evidence.comparison.bit_exact:
        return "bit-exact: every frame equals the golden's"
    gating = [check for check in checks if check.gates]
    consumed = [(check.margin_consumed, check.metric) for check in gating if check.margin_consumed is not None]
    if not consumed:
        return f"{len(gating)} gating metrics inside their limits"
    share, metric = max(consumed)
    return f"{len(gating)} gating metrics inside their limits; {metric} comes nearest, {share:.0%} of its margin used"
