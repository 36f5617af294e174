"""The next command to type, by outcome and cause."""

from __future__ import annotations

import shlex

from harness.judge.evidence import Evidence
from harness.judge.origin_rule import CPU
from harness.records.verdict import Outcome

_NO_BASE = frozenset({"base_missing", "contract_unproven"})
"""What an inspection without a base cannot prove: the same run would say it again."""
_ACCEPT = frozenset({Outcome.GOLDEN_MISSING, Outcome.GOLDEN_STALE})


def next_command(evidence: Evidence, outcome: Outcome, cause: str, runner: str) -> str:
    """One line that can be pasted into a shell; every name in it is quoted. `accept` never stands there alone."""
    case, node = shlex.quote(evidence.case.id), shlex.quote(evidence.node)
    if outcome in (Outcome.PASS, Outcome.WAIVED):
        return ""
    if evidence.error is not None and evidence.error.remedy:
        return evidence.error.remedy
    if outcome in _ACCEPT:
        # a shell runs the first command alone: nobody is to accept what nobody has looked at
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
    if outcome is Outcome.REGRESSION:
        return f"quantgate report {shlex.quote(evidence.run_dir)}"
    return f"pytest {node} --runner {shlex.quote(runner)}"


def _inspected(evidence: Evidence) -> set[str]:
    found = evidence.inspection.findings if evidence.inspection is not None else ()
    return {one.code for one in found}
