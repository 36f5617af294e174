"""From what the evidence says to what the case is worth: negative controls and waivers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import date

from harness.definitions.case import Case, Waiver
from harness.definitions.causes import names_nothing
from harness.judge.origin_rule import MOVED, REQUEST
from harness.records.verdict import Finding, Outcome, Verdict

WAIVABLE = frozenset({Outcome.REGRESSION, Outcome.CHECKPOINT_FAULT, Outcome.INCONCLUSIVE})
BROKEN = frozenset({"nan", "inf", "shape", "flat", "frozen"})
"""Checks of sanity that fail only if the output is broken. A control that does not name them is not met by them."""


def apply_expectation(case: Case, observed: Verdict, today: date) -> Verdict:
    """Hold the observed verdict against ``expect`` and ``waiver`` of the case.

    A negative control passes only if the evidence fails it by every cause that was named, in the stage that was named,
    and if the output is not broken besides; that it was expected to fail is never evidence. Infra and everything else
    that says nothing about the checkpoint stays what it is. A waiver never covers what sanity finds.
    """
    if case.expect != "pass":
        return _negative_control(case, observed)
    if case.waiver is not None:
        return _waived(case, observed, today)
    return observed


def _negative_control(case: Case, observed: Verdict) -> Verdict:
    outcome, _, named = case.expect.partition(":")
    wanted = case.must_be_seen()
    unseen = [cause for stage, cause in wanted if not _is_seen(stage, cause, observed)]
    broken = [
        finding
        for finding in observed.findings
        if finding.stage == "sanity" and finding.gating and finding.code in BROKEN
        if finding.code not in {cause for _, cause in wanted}
    ]
    if observed.outcome == outcome and broken:
        codes = ", ".join(dict.fromkeys(finding.code for finding in broken))
        summary = f"this negative control must fail by {named!r} alone, and the output is {codes}: {broken[0].message}"
        return observed.model_copy(update={"summary": summary, "cause": broken[0].code, "observed": observed.outcome})
    if observed.outcome == outcome and wanted and not unseen:
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
    """Whether a finding that fails the case has this cause, and is of this stage where one is named."""
    return any(
        finding.gating and finding.code == cause and stage in ("", finding.stage) for finding in observed.findings
    ) or (not stage and cause == observed.cause)


def _waived(case: Case, observed: Verdict, today: date) -> Verdict:
    waiver = case.waiver
    if waiver is None:
        return observed
    if today > waiver.expires:
        finding = Finding(
            stage="limits",
            code="waiver_expired",
            gating=observed.outcome is not Outcome.PASS,
            message=f"the waiver of {waiver.owner} ({waiver.issue}) ended on {waiver.expires.isoformat()}",
        )
        return observed.model_copy(update={"findings": (*observed.findings, finding)})
    if observed.outcome in WAIVABLE:
        others = tuple(_unwaived(case, waiver, observed))
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


def _unwaived(case: Case, waiver: Waiver, observed: Verdict) -> Iterator[tuple[Outcome, Finding]]:
    """Everything that fails this case and is not what the waiver expects."""
    for finding in observed.findings:
        outcome = _outcome(case, finding, observed)
        never = finding.stage in ("sanity", "limits") or names_nothing(finding.code)
        known = outcome == waiver.outcome and finding.code in waiver.causes and not never
        if outcome is not None and not known:
            yield outcome, finding


def _outcome(case: Case, finding: Finding, observed: Verdict) -> Outcome | None:
    """How the case would end by this finding alone; ``None`` where it would not fail by it."""
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
    codes = ", ".join(dict.fromkeys(one.code for _, one in others))
    summary = (
        f"{finding.message}; {codes} not waived: the waiver of {waiver.owner} ({waiver.issue}) is for {waiver.expect}"
    )
    return observed.model_copy(update={"outcome": outcome, "cause": finding.code, "summary": summary})
