"""Whether a case runs once more. The verdict's class decides, never the text of a log."""

from __future__ import annotations

from dataclasses import dataclass

from harness.records.case_record import CaseRecord
from harness.records.verdict import RULES

ATTEMPTS = 2
"""Infra gets one second chance. A quality miss never does: a rerun that differs would be a finding of its own."""


@dataclass(frozen=True)
class Retry:
    """How the next attempt is made."""

    attempt: int
    avoid: tuple[str, ...]
    """UUIDs of GPUs to take only if no other is free."""
    why: str


def next_attempt(record: CaseRecord) -> Retry | None:
    """The attempt after ``record``, always on a fresh engine; ``None`` where its verdict stands."""
    verdict = record.verdict
    # A control that expects infra, or a waived case, has had its verdict turned: what was observed is not retried then.
    if not RULES[verdict.outcome].retry or record.attempt >= ATTEMPTS:
        return None
    uuid = record.fingerprint.device.uuid if record.fingerprint else None
    return Retry(record.attempt + 1, (uuid,) if uuid else (), f"{verdict.outcome.value}: {verdict.cause}")
