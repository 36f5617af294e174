"""Convert the report on time and memory to findings: confirmed slowness, growth or a leak makes the case red."""

from __future__ import annotations

from collections.abc import Iterator

from harness.judge.evidence import Evidence
from harness.records.verdict import Finding


def judge_perf(evidence: Evidence) -> Iterator[Finding]:
    """Yield the finding of time and memory.

    Only a confirmed change for the worse gates, and an improvement if the case sets ``perf.improvement: red``. An
    inconclusive result is reported and does not gate: a busy machine must make no case red.
    """
    report = evidence.perf
    if report is None or report.state in ("within", "unmeasured"):
        return
    better = report.state in ("faster", "less_memory")
    gating = report.state in ("slower", "more_memory", "leak") or (better and evidence.case.perf.improvement == "red")
    code = {"less_memory": "faster", "inconclusive": "perf_inconclusive"}.get(report.state, report.state)
    message = report.message
    if better:
        message = f"{message}: better than the baseline, which no longer shows how fast this is; make a new one"
    yield Finding(
        stage="perf",
        code=code,
        gating=gating,
        message=message,
        data={"cause": report.cause, "pool": report.pool, "runs": report.runs, "reasons": list(report.reasons)},
    )
