"""Compare request, hardware, weights and environment of golden and run, and combine a difference with the frames.

Frames are compared with a golden of other weights or another environment too: if an exchanged checkpoint generates the
same video, the golden is stale; if it generates another video, the case is a regression with a known cause.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from harness.judge.evidence import Evidence, GoldenEvidence
from harness.judge.limits_rule import limits_problem
from harness.records.base import Json
from harness.records.identity import FieldChange
from harness.records.limits import LimitCheck
from harness.records.verdict import Finding
from harness.text import listed

REQUEST, HARDWARE, WEIGHTS, ENV = "request_differs", "hardware_differs", "weights_changed", "env_changed"
CPU = "cpu_differs"
"""The golden was made on a CPU of another architecture."""
CPU_REACH = 3.0
"""Distance beyond a limit, in multiples of its margin, by which another CPU architecture may move the frames. Frames
further off are a regression on any CPU. `scripts/arm64.sh` prints the distance for one architecture."""
MOVED = (WEIGHTS, ENV)
"""Causes of a regression, and of a stale golden if the frames agree."""
COMPARED_STAGES = ("sanity", "trace", "frames")
"""Stages whose failure a change of weights or environment explains."""
_SHOWN_FIELDS = 4
_WIDTH = 36
"""Number of characters of a value in a message; `_BEFORE` of them precede the first that differs."""
_BEFORE = 12


def frames_compare(evidence: Evidence) -> bool:
    """Return whether trace and frames can be compared with the golden's: same request and hardware, any CPU."""
    golden = evidence.golden
    if golden is None:
        return False
    return all(change.is_other_cpu for change in golden.changed("request", "hardware"))


def other_cpu(evidence: Evidence) -> FieldChange | None:
    """Return the change of the CPU's architecture between golden and run, or ``None``."""
    changes = evidence.golden.changed("hardware") if evidence.golden is not None else ()
    return next((change for change in changes if change.is_other_cpu), None)


def same_origin(evidence: Evidence) -> bool:
    """Return whether the golden was made from the same request, hardware, weights and environment."""
    return frames_compare(evidence) and not _moved(evidence) and other_cpu(evidence) is None


def _moved(evidence: Evidence) -> tuple[FieldChange, ...]:
    return evidence.golden.changed("weights", "env") if evidence.golden is not None else ()


def judge_origin(evidence: Evidence) -> Iterator[Finding]:
    """Yield a finding per identity class in which golden and run differ: request, hardware, weights, environment.

    Findings of weights and environment do not gate here; ``with_outcome`` decides after the frames are judged.
    """
    golden = evidence.golden
    if golden is None:
        return
    rules = (
        ("request", REQUEST, "the golden is of another request"),
        ("hardware", HARDWARE, "the golden was made on another class of hardware"),
    )
    for identity_class, code, text in rules:
        changes = tuple(change for change in golden.changed(identity_class) if not change.is_other_cpu)
        if changes:
            yield Finding(stage="identity", code=code, gating=True, message=f"{text}: {_fields(changes)}")
    if (cpu := other_cpu(evidence)) is not None:
        message = f"this CPU is {cpu.run}, and the golden was made on {cpu.golden}"
        yield Finding(stage="identity", code=CPU, gating=False, message=message)
    if weights := golden.changed("weights"):
        message = f"the weights are not the golden's: {_weights(golden, weights)}"
        data: dict[str, Json] = {
            change.component: {
                "changed": list(change.changed),
                "added": list(change.added),
                "removed": list(change.removed),
                "documents": list(change.documents),
            }
            for change in golden.contents
        }
        yield Finding(stage="identity", code=WEIGHTS, gating=False, message=message, data=data)
    if env := golden.changed("env"):
        message = f"the environment is not the golden's: {_fields(env)}"
        yield Finding(stage="identity", code=ENV, gating=False, message=message)


def with_outcome(
    evidence: Evidence, findings: Sequence[Finding], checks: tuple[LimitCheck, ...]
) -> tuple[Finding, ...]:
    """Return the findings; those of changed weights and environment get the result of the frames appended.

    They gate if sanity, trace or frames fail: they then name the cause, and a waiver of the symptom does not cover it.
    """
    failed = next((item for item in findings if item.gating and item.stage in COMPARED_STAGES), None)
    agreement = _distance(evidence) if failed is not None else _agreement(evidence, checks)
    completed = []
    for finding in findings:
        if finding.stage == "identity" and finding.code in MOVED and frames_compare(evidence):
            tail = f"{failed.message}{f' ({agreement})' if agreement else ''}" if failed is not None else agreement
            message = f"{finding.message}; {tail}" if tail else finding.message
            finding = finding.model_copy(update={"gating": failed is not None, "message": message})
        if finding.code == CPU and failed is not None and _within_reach(findings, checks):
            message = f"{finding.message}, which may be all that moved the frames: {failed.message}"
            finding = finding.model_copy(update={"gating": True, "message": message})
        completed.append(finding)
    return tuple(completed)


def _within_reach(findings: Sequence[Finding], checks: tuple[LimitCheck, ...]) -> bool:
    """Return whether only frames fail, by no more than another CPU may move them (`CPU_REACH`)."""
    failed = [check for check in checks if check.gates and not check.passed]
    return all(finding.stage in ("frames", "identity") for finding in findings if finding.gating) and all(
        check.margin_consumed is not None and check.margin_consumed <= 1 + CPU_REACH for check in failed
    )


def _agreement(evidence: Evidence, checks: tuple[LimitCheck, ...]) -> str:
    """Return a sentence on how well the frames agree with the golden's. Called only if nothing fails."""
    comparison = evidence.comparison
    if comparison is None:
        return ""
    if comparison.bit_exact:
        return "the frames agree: every one equals the golden's"
    problem = limits_problem(evidence)
    if problem is not None:
        return f"{_distance(evidence)}, and {problem.message}, so that nobody knows whether the frames agree"
    consumed = [
        (check.margin_consumed, check.metric) for check in checks if check.gates and check.margin_consumed is not None
    ]
    nearest = f"; {max(consumed)[1]} comes nearest to its limit, {max(consumed)[0]:.0%} used" if consumed else ""
    return f"the frames agree, inside every limit: {_distance(evidence)}{nearest}"


def _distance(evidence: Evidence) -> str:
    return evidence.comparison.distance() if evidence.comparison is not None else ""


def _weights(golden: GoldenEvidence, changes: tuple[FieldChange, ...]) -> str:
    """Return the changed components and tensors by name, and identity fields that no component explains."""
    named = {change.component for change in golden.contents}
    files = {document for change in golden.contents for document in change.documents}
    rest = tuple(change for change in changes if change.field not in named and change.field not in files)
    parts = [*map(str, golden.contents), *([_fields(rest)] if rest else [])]
    return "; ".join(parts)


def _fields(changes: tuple[FieldChange, ...]) -> str:
    rows = [f"{change.field} {' -> '.join(_shorts(change.golden, change.run))}" for change in changes]
    return listed(rows, _SHOWN_FIELDS)


def _shorts(first: object, second: object) -> tuple[str, str]:
    """Return both values, each cut to `_WIDTH` characters around the first character that differs."""
    texts = [value if isinstance(value, str) else str(value) for value in (first, second)]
    same = next(
        (index for index, signs in enumerate(zip(*texts, strict=False)) if len(set(signs)) > 1), min(map(len, texts))
    )
    start = max(min(same - _BEFORE, max(map(len, texts)) - _WIDTH), 0)
    before, after = (_cut(value, text, start) for value, text in zip((first, second), texts, strict=True))
    return before, after


def _cut(value: object, text: str, start: int) -> str:
    part = text[start : start + _WIDTH]
    part = repr(part) if isinstance(value, str) else part
    return f"{'...' if start else ''}{part}{'...' if start + _WIDTH < len(text) else ''}"
