"""What accepting a case's output would change, said before anybody does it."""

from __future__ import annotations

from dataclasses import dataclass

from harness.records.candidate import Candidate
from harness.records.case_record import CaseRecord
from harness.records.identity import FieldChange
from harness.report.shell import Command, accept_command, reject_command
from harness.report.text import short_digest, size

_CONFIGURATION = frozenset({"request", "hardware", "weights", "env"})


@dataclass(frozen=True)
class Accepting:
    """The consequences, and the two commands."""

    sentences: tuple[str, ...]
    accept: Command
    reject: Command


def accepting(record: CaseRecord, candidate: Candidate | None) -> Accepting | None:
    """``None`` where the run left no candidate."""
    if candidate is None:
        return None
    parts = ", ".join(f"{name} ({size(part.bytes)})" for name, part in sorted(candidate.parts.items()))
    replaced = (
        f"It takes the place of golden {short_digest(candidate.golden)}, which stays in the store and stays immutable."
        if candidate.golden
        else "It becomes the first golden of this case on this runner."
    )
    sentences = (
        f"This run’s output becomes the golden of {candidate.case} on {candidate.runner}: {parts}.",
        replaced,
        _limits(candidate),
        "Golden and limits change together or not at all, in files to be committed; no GPU is needed.",
    )
    return Accepting(sentences, accept_command(record), reject_command(record))


def _limits(candidate: Candidate) -> str:
    if candidate.limits is not None:
        return "The limits that were measured against this output come with it."
    if candidate.golden is None:
        return "The case has limits only once they are measured: until then it ends inconclusive."
    if moved := sorted({change.identity_class for change in candidate.changes if _is_configuration(change)}):
        return (
            "The limits are removed, which `accept` does with --drop-limits only: they were measured for another "
            f"configuration ({', '.join(moved)} differ). The case stays red until new ones are measured."
        )
    return "The limits are carried over, since only the code differs; the limit file says so."


def _is_configuration(change: FieldChange) -> bool:
    return change.identity_class in _CONFIGURATION
