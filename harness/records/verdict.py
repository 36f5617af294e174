"""The verdict of a case, with its findings."""

from __future__ import annotations

from typing import Literal

from harness.outcomes import SEVERITY, Outcome
from harness.records.base import Json, Record


def worst(outcomes: list[Outcome]) -> Outcome:
    """Return the outcome that decides the exit code of a run; an empty run is ``not_run``."""
    return min(outcomes, key=SEVERITY.index, default=Outcome.NOT_RUN)


class Finding(Record):
    """One piece of evidence, as a sentence and as numbers."""

    stage: Literal[
        "identity", "inspection", "probe", "trace", "receipts", "sanity", "frames", "engine", "limits", "perf"
    ]
    code: str
    """Stable machine name, such as ``nibble_order`` or ``ssim_below_limit``."""
    gating: bool
    """Whether this finding alone makes the case fail."""
    message: str
    data: dict[str, Json] = {}


class Verdict(Record):
    """The verdict of a case: outcome, cause, findings, and the next command to type."""

    outcome: Outcome
    cause: str
    """Stable machine name of the cause: the leading finding's code, or ``none``."""
    summary: str
    """One sentence for a person."""
    findings: tuple[Finding, ...] = ()
    next_command: str = ""
    observed: Outcome | None = None
    """Outcome by the evidence alone, if ``expect`` or a waiver changed it."""

    @property
    def label(self) -> str:
        """Outcome and cause: ``regression (flicker_above_limit)``; only the outcome if the cause adds nothing."""
        says_more = self.cause not in ("", "none", self.outcome.value)
        return f"{self.outcome.value} ({self.cause})" if says_more else self.outcome.value
