"""Redact records before any report shows them; see `harness.redaction`."""

from __future__ import annotations

from collections.abc import Mapping

from harness.records.case_record import CaseRecord
from harness.redaction import HIDDEN, Redactor, shapes
from harness.redaction import values_of as known_secrets

__all__ = ["HIDDEN", "known_secrets", "redact_record", "redact_text"]


def redact_text(text: str, secrets: tuple[str, ...] = ()) -> str:
    """Return ``text`` without the values ``secrets``, tokens of a known shape, and values assigned to secret names."""
    return shapes(Redactor(dict.fromkeys(secrets, HIDDEN), {}).values(text))


def redact_record(record: CaseRecord, environment: Mapping[str, str] | None = None) -> CaseRecord:
    """Return the record with every string redacted, keys included."""
    return CaseRecord.model_validate(Redactor(environment=environment).json(record.model_dump(mode="json")))
