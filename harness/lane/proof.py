"""Does a green record carry what makes it green? Records come from other machines, as files that anybody may write."""

from __future__ import annotations

from harness.definitions.case import Case
from harness.records.case_record import CaseRecord
from harness.records.verdict import Outcome


def unproven(record: CaseRecord, case: Case) -> str:
    """Why a green record is no proof: it passes without the evidence that a pass stands on. Empty if it is one.

    Args:
        record: of any outcome; only ``pass`` and ``waived`` are looked at.
        case: the request of the record.
    """
    verdict = record.verdict
    if verdict.outcome is Outcome.WAIVED:
        return _waived(record, case)
    if verdict.outcome is not Outcome.PASS:
        return ""
    if case.expect != "pass":
        return _control(record, case)
    if verdict.observed not in (None, Outcome.PASS):
        return f"it passes although {verdict.observed.value} was observed, and the case expects to pass"
    if record.generation is None:
        return "it passes without a generation"
    if record.comparison is None or record.golden is None:
        return "it passes without a comparison with a golden"
    gating = [check for check in record.limits if check.gates]
    if not gating:
        return "it passes without a limit"
    failed = [check.metric for check in gating if not check.passed]
    if failed:
        return f"it passes although {', '.join(failed)} lies outside its limit"
    found = [finding.code for finding in verdict.findings if finding.gating]
    return f"it passes although {', '.join(found)} was found" if found else ""


def _control(record: CaseRecord, case: Case) -> str:
    """A negative control passes by failing as its case says."""
    outcome = case.expect.partition(":")[0]
    if record.verdict.observed != outcome:
        return f"it is a negative control, and nothing says that {outcome} was observed"
    seen = {(finding.stage, finding.code) for finding in record.verdict.findings if finding.gating}
    codes = {code for _, code in seen} | {record.verdict.cause}
    for stage, cause in case.must_be_seen():
        if ((stage, cause) not in seen) if stage else (cause not in codes):
            return f"it is a negative control, and no finding says {cause}"
    return ""


def _waived(record: CaseRecord, case: Case) -> str:
    if case.waiver is None:
        return "it is waived, and the case has no waiver"
    return "" if record.verdict.observed == case.waiver.outcome else "it is waived, and not for what its waiver is for"
