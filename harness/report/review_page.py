"""The page on which a person decides about all candidates: each beside its golden, the decisions as one command."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.records.case_record import CaseRecord
from harness.report.load import Entry, Run
from harness.report.media import Media
from harness.text import one_line

REVIEW_FILE = "review.html"
Notes = Mapping[tuple[str, str], Sequence[str]]
"""Reasons that keep a candidate from being accepted as it is, by runner and case."""


@dataclass(frozen=True)
class Choice:
    """One candidate on the page."""

    record: CaseRecord
    href: str
    name: str
    """``runner/case``, quoted for a shell."""
    summary: str
    distance: str
    """Distance from the golden; empty for a first candidate."""
    notes: tuple[str, ...]
    pictures: dict[str, str]
    """``golden``, ``candidate``, ``difference`` to file."""


def review_page(run: Run, media: Mapping[str, Media], notes: Notes, source: Path | None) -> dict[str, Any]:
    """Return the context of ``review.html.j2``.

    Args:
        run: the candidates, with the records of their runs.
        media: pictures by slug.
        notes: reasons for which ``accept`` would refuse a candidate.
        source: the artifact that holds the candidates; ``None``: they are pending in this checkout.
    """
    choices = tuple(_choice(entry, media[entry.slug], notes) for entry in run.entries if entry.candidate is not None)
    return {
        "root": "",
        "title": "candidates · quantgate",
        "run": run,
        "choices": choices,
        "origin": "" if source is None else f" --from {shlex.quote(str(source))}",
    }


def _choice(entry: Entry, media: Media, notes: Notes) -> Choice:
    record, comparison = entry.record, entry.record.comparison
    return Choice(
        record=record,
        href=f"cases/{entry.slug}.html",
        name=shlex.quote(one_line(f"{record.runner}/{record.case}", limit=4000)),
        summary=one_line(record.verdict.summary),
        distance="" if comparison is None else comparison.distance(),
        notes=tuple(notes.get((record.runner, record.case), ())),
        pictures=media.thumbnails,
    )
