"""Collect everything that the overview shows."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

from harness.outcomes import RULES, Outcome
from harness.records.case_record import CaseRecord, Checkout
from harness.report.bars import BAR_WIDTH, LIMIT_AT, Bar, bars
from harness.report.load import Entry, Run
from harness.report.media import Media
from harness.report.text import LABELS, Part, count_words, is_control, is_red, next_step, parts
from harness.text import one_line


@dataclass(frozen=True)
class Row:
    """One case on the overview."""

    entry: Entry
    record: CaseRecord
    href: str
    red: bool
    control: bool
    summary: str
    next: tuple[Part, ...]
    nearest: Bar | None
    """The gating limit with the least room left."""
    used: float
    """Largest share of a gating limit's margin that is used up, as sort key; -1 without a limit."""
    thumbnails: dict[str, str]


@dataclass(frozen=True)
class Group:
    """All cases of one outcome."""

    outcome: Outcome
    meaning: str
    causes: tuple[tuple[str, int], ...]
    rows: tuple[Row, ...]


def overview_page(run: Run, media: dict[str, Media]) -> dict[str, Any]:
    """Return the context of ``overview.html.j2``."""
    rows = [_row(entry, media[entry.slug]) for entry in run.entries]
    outcomes = [row.record.verdict.outcome for row in rows]
    return {
        "root": "",
        "title": f"{run.name} · quantgate",
        "run": run,
        "sentence": sentence(run),
        "counts": count_words(outcomes),
        "groups": tuple(_group(outcome, rows) for outcome, _ in count_words(outcomes)),
        "machines": machines(run),
        "checkouts": checkouts(run),
        "total_seconds": sum(row.record.timing.total for row in rows),
        "bar_width": BAR_WIDTH,
        "limit_at": LIMIT_AT,
    }


def sentence(run: Run) -> str:
    """Return the result of the run in one sentence, such as ``2 of 9 cases not green: 2 regression.``"""
    total, red = len(run.entries), len(run.red)
    parts = [
        f"{count} {LABELS[outcome].word}"
        for outcome, count in count_words([entry.record.verdict.outcome for entry in run.red])
    ]
    if run.unreadable:
        count = len(run.unreadable)
        parts.append(f"{count} record{'s' if count != 1 else ''} cannot be read")
    if not parts:
        return "The one case is green." if total == 1 else f"All {total} cases are green."
    return f"{red} of {total} case{'s' if total != 1 else ''} not green: {', '.join(parts)}."


def machines(run: Run) -> tuple[str, ...]:
    """Return one line per machine that the run used, the most used first."""
    lines = Counter(_machine(entry.record) for entry in run.entries)
    return tuple(line for line, _ in lines.most_common() if line)


def checkouts(run: Run) -> tuple[Checkout, ...]:
    """Return at most three checkouts that the run's records were started from, most cases first."""
    counts = Counter(entry.record.checkout for entry in run.entries if entry.record.checkout is not None)
    return tuple(checkout for checkout, _ in counts.most_common(3))


def _machine(record: CaseRecord) -> str:
    fingerprint = record.fingerprint
    if fingerprint is None:
        return ""
    packages = [
        f"{name} {fingerprint.packages[name]}" for name in ("torch", "diffusers") if name in fingerprint.packages
    ]
    driver = [f"driver {fingerprint.driver}"] if fingerprint.driver else []
    return " · ".join([record.runner, fingerprint.device.model or fingerprint.device.name, *driver, *packages])


def _row(entry: Entry, media: Media) -> Row:
    record = entry.record
    gating = [bar for bar in bars(record) if bar.state in ("passed", "failed", "expected", "missing")]
    return Row(
        entry=entry,
        record=record,
        href=f"cases/{entry.slug}.html",
        red=is_red(record),
        control=is_control(record),
        summary=one_line(record.verdict.summary),
        next=parts(next_step(record)),
        nearest=gating[0] if gating else None,
        used=max((check.margin_consumed or 0.0 for check in record.limits if check.gates), default=-1.0),
        thumbnails=media.thumbnails,
    )


def _group(outcome: Outcome, rows: list[Row]) -> Group:
    matching = tuple(row for row in rows if row.record.verdict.outcome is outcome)
    causes = Counter(row.record.verdict.cause for row in matching)
    return Group(outcome, RULES[outcome].meaning, tuple(causes.most_common()), matching)
