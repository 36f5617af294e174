"""Errors of the inspector. What is wrong in the bytes is a finding, not an exception; these say why there is none."""

from __future__ import annotations

from harness.errors import InfraError, InvalidCaseError, QuantgateError
from harness.outcomes import Outcome
from harness.records.inspection import InspectionReport


class HeaderError(QuantgateError):
    """A safetensors file whose header cannot be trusted.

    Args:
        code: which: ``header_truncated``, ``header_too_large``, ``header_not_json``, ``header_duplicate_key``,
            ``header_bad_entry``, ``header_overlap``, ``header_hole``, ``data_truncated``, ``data_trailing``.
    """

    outcome = Outcome.CHECKPOINT_FAULT

    def __init__(self, what: str, *, where: str = "", remedy: str = "", code: str = "header_bad_entry") -> None:
        self.code = code
        super().__init__(what, where=where, remedy=remedy)


class ConfigError(QuantgateError):
    """A configuration file that is not what its format says."""

    outcome = Outcome.CHECKPOINT_FAULT


class BadReferenceError(InvalidCaseError):
    """A checkpoint reference that names nothing that can be read."""


class ContractError(InvalidCaseError):
    """A runtime contract that is unknown or malformed."""


class SourceError(InfraError):
    """Bytes could not be fetched: nothing is said about the checkpoint."""

    def __init__(self, what: str, *, where: str = "", remedy: str = "", kind: str = "download") -> None:
        super().__init__(what, where=where, remedy=remedy, kind=kind)


class InspectionInterruptedError(SourceError):
    """The source failed half-way. ``report`` holds what was proven before it did."""

    report: InspectionReport
