"""How an outcome is shown: a word, a sign and a tone, never a colour alone."""

from __future__ import annotations

from typing import Literal, NamedTuple

from harness.records.case_record import CaseRecord
from harness.records.verdict import GREEN, SEVERITY, Outcome

Tone = Literal["good", "bad", "doubt", "infra"]


class Label(NamedTuple):
    """One outcome on a page."""

    word: str
    sign: str
    """One character that tells the tones apart without colour."""
    tone: Tone


LABELS: dict[Outcome, Label] = {
    Outcome.PASS: Label("pass", "✓", "good"),
    Outcome.WAIVED: Label("waived", "≈", "good"),
    Outcome.REGRESSION: Label("regression", "✕", "bad"),
    Outcome.CHECKPOINT_FAULT: Label("checkpoint fault", "✕", "bad"),
    Outcome.UNEXPECTED_PASS: Label("unexpected pass", "✕", "bad"),
    Outcome.INCONCLUSIVE: Label("inconclusive", "?", "doubt"),
    Outcome.GOLDEN_MISSING: Label("golden missing", "?", "doubt"),
    Outcome.GOLDEN_STALE: Label("golden stale", "?", "doubt"),
    Outcome.ENVIRONMENT_MISMATCH: Label("environment mismatch", "?", "doubt"),
    Outcome.INVALID_CASE: Label("invalid case", "!", "infra"),
    Outcome.INFRA: Label("infra", "!", "infra"),
    Outcome.NO_RUNNER: Label("no runner", "!", "infra"),
    Outcome.NOT_RUN: Label("not run", "!", "infra"),
}


def is_red(record: CaseRecord) -> bool:
    """Whether the case keeps the run from being green."""
    return record.verdict.outcome not in GREEN


def is_control(record: CaseRecord) -> bool:
    """Whether this is a case that must fail, and did: green, though the evidence says otherwise."""
    verdict = record.verdict
    return verdict.outcome is Outcome.PASS and verdict.observed not in (None, Outcome.PASS)


def worst_first(record: CaseRecord) -> tuple[int, str, str]:
    """Sort key: the outcome's severity, negative controls before other passes, then the name."""
    control = 0 if is_control(record) else 1
    return SEVERITY.index(record.verdict.outcome) * 2 + control, record.case, record.runner


def count_words(outcomes: list[Outcome]) -> list[tuple[Outcome, int]]:
    """How many cases ended how, worst first, without the outcomes that none had."""
    return [(outcome, outcomes.count(outcome)) for outcome in SEVERITY if outcome in outcomes]
