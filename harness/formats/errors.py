"""Errors of the inspector. A fault in the bytes is a finding; these errors mean that no finding could be made."""

from __future__ import annotations

from harness.errors import InfraError, InvalidCaseError, QuantgateError
from harness.outcomes import Outcome
from harness.records.inspection import InspectionReport


class HeaderError(QuantgateError):
    """A safetensors file whose header cannot be trusted.

    Args:
        code: kind of fault: ``header_truncated``, ``header_too_large``, ``header_not_json``, ``header_duplicate_key``,
            ``header_bad_entry``, ``header_overlap``, ``header_hole``, ``data_truncated``, ``data_trailing``.
    """

    outcome = Outcome.CHECKPOINT_FAULT

    def __init__(self, message: str, *, place: str = "", remedy: str = "", code: str = "header_bad_entry") -> None:
        self.code = code
        super().__init__(message, place=place, remedy=remedy)


class DegenerateScaleError(ValueError):
    """Stored scales are no scales: negative where their format takes the largest magnitude of a block."""


class ConfigError(QuantgateError):
    """A configuration file that violates its format."""

    outcome = Outcome.CHECKPOINT_FAULT


class BadReferenceError(InvalidCaseError):
    """A checkpoint reference without a readable checkpoint behind it."""


class ContractError(InvalidCaseError):
    """A runtime contract that is unknown or malformed."""


class SourceError(InfraError):
    """Bytes could not be fetched. The error is no verdict on the checkpoint."""

    def __init__(self, message: str, *, place: str = "", remedy: str = "", kind: str = "download") -> None:
        super().__init__(message, place=place, remedy=remedy, kind=kind)


class InspectionInterruptedError(SourceError):
    """The source failed half-way. ``report`` holds the findings proven before the failure."""

    report: InspectionReport
