"""Compute the verdict of a case from its evidence. `_decide` ranks the evidence, most trusted first."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from datetime import date

from harness.definitions.case import Case, Waiver
from harness.definitions.causes import names_nothing
from harness.judge.evidence import Evidence
from harness.judge.limits_rule import check_limits, judge_limits, limits_problem
from harness.judge.origin_rule import (
    CPU,
    ENV,
    HARDWARE,
    MOVED,
    REQUEST,
    WEIGHTS,
    frames_compare,
    judge_origin,
    other_cpu,
    same_origin,
    with_outcome,
)
from harness.judge.perf_rule import judge_perf
from harness.judge.probe_rule import judge_probe
from harness.judge.receipts_rule import judge_receipts
from harness.judge.schedule_rule import judge_schedule
from harness.judge.trace_rule import judge_trace
from harness.outcomes import Outcome
from harness.records.base import Json
from harness.records.frames import ComparisonEvidence
from harness.records.limits import LimitCheck
from harness.records.verdict import Finding, Verdict

# Expectation and waiver: convert the observed verdict of a negative control or of a waived case.


WAIVABLE = frozenset({Outcome.REGRESSION, Outcome.CHECKPOINT_FAULT, Outcome.INCONCLUSIVE})
BROKEN = frozenset({"nan", "inf", "shape", "flat", "frozen"})
"""Sanity checks that fail only if the output is broken. They never satisfy a control that does not name them."""


def apply_expectation(case: Case, observed: Verdict, today: date) -> Verdict:
    """Compare the observed verdict with ``expect`` and ``waiver`` of the case, and return the final verdict.

    A negative control passes only if the evidence shows every named cause, in the named stage, and the output is not
    broken besides; the expectation to fail is never evidence. ``infra`` and every other outcome that does not concern
    the checkpoint stays as it is. A waiver never covers a finding of sanity.
    """
    if case.expect != "pass":
        return _negative_control(case, observed)
    if case.waiver is not None:
        return _waived(case, observed, today)
    return observed


def _negative_control(case: Case, observed: Verdict) -> Verdict:
    outcome, _, named = case.expect.partition(":")
    expected_causes = case.must_be_seen()
    unseen = [cause for stage, cause in expected_causes if not _is_seen(stage, cause, observed)]
    # Broken output fails any gate, so a control that breaks it proves nothing about the cause that it names.
    broken = [
        finding
        for finding in observed.findings
        if finding.stage == "sanity" and finding.gating and finding.code in BROKEN
        if finding.code not in {cause for _, cause in expected_causes}
    ]
    if observed.outcome == outcome and broken:
        codes = ", ".join(dict.fromkeys(finding.code for finding in broken))
        summary = f"this negative control must fail by {named!r} alone, and the output is {codes}: {broken[0].message}"
        return observed.model_copy(update={"summary": summary, "cause": broken[0].code, "observed": observed.outcome})
    if observed.outcome == outcome and expected_causes and not unseen:
        return observed.model_copy(
            update={
                "outcome": Outcome.PASS,
                "observed": observed.outcome,
                "summary": f"negative control failed as it must ({case.expect}): {observed.summary}",
                "next_command": "",
            }
        )
    if observed.outcome is Outcome.PASS:
        return observed.model_copy(
            update={
                "outcome": Outcome.UNEXPECTED_PASS,
                "observed": observed.outcome,
                "cause": "negative_control_passed",
                "summary": f"this negative control must fail as {case.expect}, and nothing failed: the gate is blind",
            }
        )
    if observed.outcome == outcome:
        summary = f"this negative control must fail by {named!r}, and failed by {observed.cause!r}: {observed.summary}"
        return observed.model_copy(update={"summary": summary, "observed": observed.outcome})
    return observed


def _is_seen(stage: str, cause: str, observed: Verdict) -> bool:
    """Return whether a gating finding has this cause and, if ``stage`` is not empty, is of this stage."""
    return any(
        finding.gating and finding.code == cause and stage in ("", finding.stage) for finding in observed.findings
    ) or (not stage and cause == observed.cause)


def _waived(case: Case, observed: Verdict, today: date) -> Verdict:
    waiver = case.waiver
    if waiver is None:
        return observed
    # a waiver holds through its last day
    if today > waiver.expires:
        finding = Finding(
            stage="limits",
            code="waiver_expired",
            gating=observed.outcome is not Outcome.PASS,
            message=f"the waiver of {waiver.owner} ({waiver.issue}) ended on {waiver.expires.isoformat()}",
        )
        return observed.model_copy(update={"findings": (*observed.findings, finding)})
    if observed.outcome in WAIVABLE:
        others = tuple(unwaived(case, waiver, observed))
        # one waived fault must not hide another
        if others:
            return _red(waiver, observed, others)
        summary = f"waived until {waiver.expires.isoformat()} by {waiver.owner} ({waiver.issue}): {observed.summary}"
        return observed.model_copy(
            update={"outcome": Outcome.WAIVED, "observed": observed.outcome, "summary": summary, "next_command": ""}
        )
    if observed.outcome is Outcome.PASS:
        return observed.model_copy(
            update={
                "outcome": Outcome.UNEXPECTED_PASS,
                "observed": observed.outcome,
                "cause": "waived_case_passed",
                "summary": f"the case passes and {waiver.owner} still waives it: remove the waiver ({waiver.issue})",
            }
        )
    return observed


def unwaived(case: Case, waiver: Waiver, observed: Verdict) -> Iterator[tuple[Outcome, Finding]]:
    """Yield every finding that fails this case and that the waiver does not cover, with the outcome it leads to."""
    for finding in observed.findings:
        outcome = _outcome(case, finding, observed)
        # Any breakage can have a code of `names_nothing`, so a waiver of it would cover failures that nobody reviewed.
        never = finding.stage in ("sanity", "limits") or names_nothing(finding.code)
        covered = outcome == waiver.outcome and finding.code in waiver.causes and not never
        if outcome is not None and not covered:
            yield outcome, finding


def _outcome(case: Case, finding: Finding, observed: Verdict) -> Outcome | None:
    """Return the outcome of the case if this were its only finding; ``None`` if it would not fail."""
    if finding.stage == "inspection":
        if case.inspection != "gate":
            return None
        return Outcome.CHECKPOINT_FAULT if finding.gating else Outcome.INCONCLUSIVE
    if not finding.gating:
        return None
    if finding.stage == "engine":
        return observed.outcome
    if finding.stage == "identity":
        if finding.code in MOVED:
            return Outcome.REGRESSION
        return Outcome.GOLDEN_STALE if finding.code == REQUEST else Outcome.ENVIRONMENT_MISMATCH
    return Outcome.INCONCLUSIVE if finding.stage == "limits" else Outcome.REGRESSION


def _red(waiver: Waiver, observed: Verdict, others: Sequence[tuple[Outcome, Finding]]) -> Verdict:
    outcome, finding = others[0]
    codes = ", ".join(dict.fromkeys(other.code for _, other in others))
    summary = (
        f"{finding.message}; {codes} not waived: the waiver of {waiver.owner} ({waiver.issue}) is for {waiver.expect}"
    )
    return observed.model_copy(update={"outcome": outcome, "cause": finding.code, "summary": summary})


# The next command to type, per outcome and cause.


_NO_BASE = frozenset({"base_missing", "contract_unproven"})
"""Codes of an inspection that has no base. A repeat returns the same code, so the next command asks for a base."""
_ACCEPT = frozenset({Outcome.GOLDEN_MISSING, Outcome.GOLDEN_STALE})


def next_command(evidence: Evidence, outcome: Outcome, cause: str, runner: str) -> str:
    """Return one line to paste into a shell, with every name quoted. `accept` never comes without `report` before."""
    case, node = shlex.quote(evidence.case.id), shlex.quote(evidence.node)
    if outcome in (Outcome.PASS, Outcome.WAIVED):
        return ""
    # the place that raised the error has the most exact remedy
    if evidence.error is not None and evidence.error.remedy:
        return evidence.error.remedy
    if outcome in _ACCEPT:
        # The shell runs `report` only, because `accept` follows in a comment: frames must be seen before acceptance.
        look = f"quantgate report {shlex.quote(evidence.run_dir)}  # look at its frames; if they are right:"
        if cause == "request_differs":
            again = f"quantgate regenerate --case {case} --runner {shlex.quote(runner)}"
            return f"{look} {again} --replace-golden --reason '...'"
        return f"{look} quantgate accept {case} --runner {shlex.quote(runner)} --reason '...'"
    if outcome is Outcome.INCONCLUSIVE and cause.startswith("limits_"):
        return f"quantgate regenerate --case {case} --runner {shlex.quote(runner)} --reason '...'"
    if outcome is Outcome.INCONCLUSIVE and cause in _NO_BASE and evidence.case.base is None:
        return f"add `base:` to {case}, the BF16 checkpoint that it was quantized from; then pytest {node}"
    if outcome is Outcome.INCONCLUSIVE and cause in _inspected(evidence):
        return f"quantgate inspect --case {case}"
    if outcome is Outcome.CHECKPOINT_FAULT:
        return f"quantgate inspect --case {case}"
    if outcome is Outcome.ENVIRONMENT_MISMATCH and cause == CPU:
        return f"quantgate report {shlex.quote(evidence.run_dir)}"
    if outcome is Outcome.ENVIRONMENT_MISMATCH:
        return f"quantgate doctor --runner {shlex.quote(runner)}"
    if outcome is Outcome.REGRESSION and cause == "faster":
        return f"quantgate regenerate --perf --case {case} --runner {shlex.quote(runner)} --reason '...'"
    if outcome is Outcome.REGRESSION and cause in ("slower", "more_memory", "leak"):
        return f"quantgate history {case} --runner {shlex.quote(runner)} --perf"
    return f"pytest {node} --runner {shlex.quote(runner)}"


def _inspected(evidence: Evidence) -> set[str]:
    findings = evidence.inspection.findings if evidence.inspection is not None else ()
    return {finding.code for finding in findings}


def judge(evidence: Evidence, runner: str, today: date) -> tuple[Verdict, tuple[LimitCheck, ...]]:
    """Decide a case.

    Args:
        evidence: results of all stages; a stage that did not run is ``None``.
        runner: name of the runner profile, for the next command.
        today: date that the expiry of waivers is compared with.

    Returns:
        The verdict after expectation and waiver, and one check per metric that has a limit.
    """
    observed, checks = observe(evidence, runner)
    final = apply_expectation(evidence.case, observed, today)
    # The waiver left another cause to fail the case, so the command of the first cause would mislead.
    if final.observed is None and final.cause != observed.cause:
        final = final.model_copy(update={"next_command": next_command(evidence, final.outcome, final.cause, runner)})
    return final, checks


def observe(evidence: Evidence, runner: str) -> tuple[Verdict, tuple[LimitCheck, ...]]:
    """Compute the verdict from the evidence alone, without expectation and waiver, and the limit checks."""
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
    """Return whether the evidence before generation already fails the case, so that the GPU time can be saved."""
    findings = tuple(_findings(evidence, ()))
    return any(_stops(finding) for finding in findings)


def _stops(finding: Finding) -> bool:
    # these come first in `_decide`, so nothing that frames could show would change the verdict
    stops = finding.stage == "inspection" or finding.code == HARDWARE or bool(finding.data.get("stops"))
    return finding.gating and stops


def _findings(evidence: Evidence, checks: tuple[LimitCheck, ...]) -> Iterator[Finding]:
    if evidence.error is not None:
        output: dict[str, Json] = dict(getattr(evidence.error, "output", {}))
        code, message = _error_code(evidence), evidence.error.message
        yield Finding(stage="engine", code=code, gating=True, message=message, data=output)
    yield from _inspection(evidence)
    yield from judge_origin(evidence)
    yield from judge_probe(evidence, anchored=same_origin(evidence))
    yield from judge_receipts(evidence)
    yield from judge_not_available(evidence)
    yield from _sanity(evidence)
    if frames_compare(evidence):
        yield from judge_trace(evidence)
        yield from judge_limits(evidence, checks)
        problem = limits_problem(evidence)
        if problem is not None:
            yield problem
    yield from judge_schedule(evidence)
    yield from judge_perf(evidence)


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


def judge_not_available(evidence: Evidence) -> Iterator[Finding]:
    """Yield one finding, which does not gate, per kind of evidence that this backend cannot provide.

    Without it a case would look green for evidence that nobody collected.
    """
    for item in evidence.generation.not_available if evidence.generation is not None else ():
        topic = item.partition(":")[0]
        yield Finding(
            stage="receipts",
            code="not_available",
            gating=False,
            message=f"not available: {item}",
            data={"topic": topic},
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
        return next(
            (
                finding
                for finding in findings
                if finding.stage in stages and finding.gating is gating and code in (None, finding.code)
            ),
            None,
        )

    # After an error the other evidence is incomplete, so the error alone decides.
    if evidence.error is not None:
        return evidence.error.outcome, first("engine")
    # Causes come before their symptoms (bytes, kernels, weights before frames): the first match is the named cause.
    ordered: tuple[tuple[Outcome, Finding | None], ...] = (
        (Outcome.CHECKPOINT_FAULT, first("inspection")),
        (Outcome.ENVIRONMENT_MISMATCH, first("identity", code=HARDWARE)),
        (Outcome.ENVIRONMENT_MISMATCH, first("identity", code=CPU)),
        (Outcome.REGRESSION, first("receipts")),
        (Outcome.REGRESSION, first("probe")),
        (Outcome.REGRESSION, first("identity", code=WEIGHTS)),
        (Outcome.REGRESSION, first("identity", code=ENV)),
        (Outcome.REGRESSION, first("sanity")),
        (Outcome.REGRESSION, first("trace")),
        (Outcome.REGRESSION, first("frames")),
        # after the frames: a case that draws something else may well take another time
        (Outcome.REGRESSION, first("perf")),
        # unproven bytes are weaker evidence than any measured difference
        (Outcome.INCONCLUSIVE, first("inspection", gating=False) if evidence.case.inspection == "gate" else None),
        # only if nothing failed: a stale golden must not excuse a fault that needs no golden
        (Outcome.GOLDEN_STALE, first("identity", code=REQUEST)),
        (Outcome.GOLDEN_STALE, first("identity", code=WEIGHTS, gating=False)),
        (Outcome.GOLDEN_STALE, first("identity", code=ENV, gating=False)),
        # last: a missing limit is no fact about this run
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
        # green needs frames that were compared: without them nothing was shown
        return Outcome.NOT_RUN, None
    return Outcome.PASS, None


def _passed(evidence: Evidence, checks: tuple[LimitCheck, ...]) -> str:
    cpu = other_cpu(evidence)
    made_on = f" (on {cpu.run}; the golden was made on {cpu.golden})" if cpu is not None else ""
    lost = evidence.generation.not_available if evidence.generation is not None else ()
    topics = ", ".join(item.partition(":")[0] for item in lost)
    silent = f"; not available from this server: {topics}" if topics else ""
    return f"{_how_near(evidence, checks)}{made_on}{silent}"


def _how_near(evidence: Evidence, checks: tuple[LimitCheck, ...]) -> str:
    if evidence.comparison is None:
        return "no result"
    return f"{_inside(evidence.comparison, checks)}{_unproven(evidence)}"


def _unproven(evidence: Evidence) -> str:
    """Return the remark for a pass that has no proof of its quantized kernels; empty for a case all in bf16."""
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
