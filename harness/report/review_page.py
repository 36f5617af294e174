"""The page on which all candidates are decided: the accepted golden beside each, and the decisions as one command."""

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
"""What keeps a candidate from being accepted as it is, by runner and case."""


@dataclass(frozen=True)
class Choice:
    """One candidate on the page."""

    record: CaseRecord
    href: str
    name: str
    """``runner/case``, quoted for a shell."""
    summary: str
    distance: str
    """How far it is from the golden; empty for a first one."""
    notes: tuple[str, ...]
    pictures: dict[str, str]
    """``golden``, ``candidate``, ``difference`` to file."""


def review_page(run: Run, media: Mapping[str, Media], notes: Notes, source: Path | None) -> dict[str, Any]:
    """Context of ``review.html.j2``.

    Args:
        run: the candidates, and what the runs said of them.
        media: pictures by slug.
        notes: what accepting would refuse.
        source: the artifact that they lie in; ``None``: they are pending in this checkout.
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
