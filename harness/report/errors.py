"""What can go wrong when a report is made."""

from __future__ import annotations

from harness.errors import QuantgateError


class ReportError(QuantgateError):
    """There is nothing to report on, or no place to write it to."""
