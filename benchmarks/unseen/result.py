"""What became of one run: one JSON line, and how it is counted."""

from __future__ import annotations

from pydantic import TypeAdapter

from benchmarks.unseen.design import Entry
from harness.outcomes import GREEN, Outcome
from harness.records.attribution import Attribution
from harness.records.base import Record
from harness.records.case_record import CaseRecord

STOPPED = frozenset({Outcome.INFRA, Outcome.NO_RUNNER, Outcome.NOT_RUN})
"""Outcomes that say nothing of the change: the run itself broke."""
LEADING = 200
"""Characters of a sentence that are kept."""


class Result(Record):
    """One run."""

    id: str
    code: str
    """Commit of the harness, and of the list."""
    outcome: str
    verdict_cause: str
    summary: str
    next_command: str
    causes: tuple[str, ...]
    """Code, place and sentence of each cause that is named, the first one first."""
    attribution_seconds: float | None
    seconds: float
    distance: float | None
    """Root mean square difference from the golden's frames, in levels of 255; ``None`` where no frames were made."""
    error: str = ""

    @property
    def red(self) -> bool:
        """Whether the run is called a fault; being only stale is not."""
        stale = {Outcome.GOLDEN_STALE.value}
        return self.outcome not in {outcome.value for outcome in GREEN | STOPPED} | stale

    @property
    def stale(self) -> bool:
        """Whether the golden is called stale, and nothing more."""
        return self.outcome == Outcome.GOLDEN_STALE.value

    @property
    def accept_suggested(self) -> bool:
        """Whether a stale golden comes with ``quantgate accept`` as the only next command."""
        return self.stale and self.next_command.strip().startswith("quantgate accept")

    @property
    def green(self) -> bool:
        """Whether nothing was seen."""
        return self.outcome in {outcome.value for outcome in GREEN}

    def rank(self, entry: Entry) -> int:
        """Place of the first right cause among those named, from 1; 0: none is right."""
        return next((place for place, cause in enumerate(self.causes, start=1) if entry.names(cause)), 0)


Results = TypeAdapter(Result)


def causes_of(record: CaseRecord, attributed: Attribution | None) -> tuple[str, ...]:
    """The causes that a reader is told. Without an attributed one, the verdict's own with its leading finding.

    Args:
        record: of the run.
        found: what attribution said, if it ran.
    """
    named = [] if attributed is None or attributed.cause is None else [attributed.cause, *attributed.also]
    lines = [f"{cause.code} {cause.place} {cause.sentence}"[: LEADING * 3] for cause in named]
    if not lines and record.verdict.outcome not in GREEN:
        leading = [finding for finding in record.verdict.findings if finding.gating]
        leading.sort(key=lambda finding: finding.code != record.verdict.cause)
        lines = [f"{finding.code} {finding.message}"[: LEADING * 3] for finding in leading[:1]]
        lines = lines or [f"{record.verdict.cause} {record.verdict.summary}"[: LEADING * 3]]
    return tuple(lines)
