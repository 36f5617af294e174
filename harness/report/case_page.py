"""What the page of one case shows."""

from __future__ import annotations

from typing import Any

from harness.reading import UnreadableError
from harness.records.case_record import CaseRecord
from harness.records.generation import Trace
from harness.records.verdict import Finding
from harness.report.accepting import accepting
from harness.report.bars import BAR_WIDTH, LIMIT_AT, bars
from harness.report.curves import HEIGHT, WIDTH, curves
from harness.report.divergence import divergence
from harness.report.focus import focus
from harness.report.labels import is_control
from harness.report.layers import first_bad_block, layer_maps, outside_blocks
from harness.report.load import Entry, Run
from harness.report.media import Media
from harness.report.probes import probe_charts, worst_modules
from harness.report.receipts import receipt_rows
from harness.report.shell import case_commands, next_step

_SEVERITY = ("fault", "inconclusive", "warning", "info")


def case_page(run: Run, place: int, media: Media) -> dict[str, Any]:
    """Context of ``case.html.j2`` for the case at ``place`` of the run's order."""
    entry = run.entries[place]
    record = entry.record
    inspection = record.inspection
    return {
        "root": "../",
        "title": f"{record.case} · {record.verdict.outcome.value} · quantgate",
        "run": run,
        "entry": entry,
        "record": record,
        "control": is_control(record),
        "next": next_step(record),
        "commands": case_commands(record),
        "accepting": accepting(record, entry.candidate),
        "links": _links(run, place),
        "media": media,
        "player": _player(record, media),
        "focus": focus(record),
        "bars": bars(record),
        "bar_width": BAR_WIDTH,
        "limit_at": LIMIT_AT,
        "curves": curves(record),
        "curve_width": WIDTH,
        "curve_height": HEIGHT,
        "divergence": divergence(golden_trace(entry), record.generation.trace if record.generation else None),
        "probe_charts": probe_charts(record.probe),
        "worst_modules": worst_modules(record.probe),
        "findings": _findings(record),
        "receipts": receipt_rows(record),
        "layer_maps": layer_maps(inspection),
        "first_bad": first_bad_block(inspection),
        "outside": outside_blocks(inspection),
        "inspection_findings": sorted(
            inspection.findings if inspection else (), key=lambda finding: _SEVERITY.index(finding.severity)
        ),
    }


def _findings(record: CaseRecord) -> tuple[Finding, ...]:
    """What the page lists: not the inspector's findings, which have their own section, nor the one in the headline."""
    shown = tuple(
        finding for finding in record.verdict.findings if record.inspection is None or finding.stage != "inspection"
    )
    return () if len(shown) == 1 and shown[0].message in record.verdict.summary else shown


def golden_trace(entry: Entry) -> Trace | None:
    """The golden's trace, which the session leaves beside the record; ``None`` where there is none that can be read."""
    path = entry.artifact("golden_trace", "golden-trace.json")
    if path is None:
        return None
    try:
        return Trace.read(path)
    except (OSError, UnreadableError):
        return None


def _links(run: Run, place: int) -> dict[str, str | int | None]:
    """File names of the neighbouring pages; the red ones come first in a run's order, and the ring of them closes."""
    slugs = [f"{entry.slug}.html" for entry in run.entries]
    red = len(run.red)
    return {
        "previous": slugs[place - 1] if place else None,
        "next": slugs[place + 1] if place + 1 < len(slugs) else None,
        "previous_red": slugs[(place - 1) % red] if place < red and red > 1 else None,
        "next_red": (slugs[(place + 1) % red] if red > 1 else None) if place < red else (slugs[0] if red else None),
        "red_place": place + 1 if place < red else None,
        "red_count": red,
    }


def _player(record: CaseRecord, media: Media) -> dict[str, Any] | None:
    """What the player's script reads from the page."""
    if not media.sides:
        return None
    tile = media.tile
    return {
        "frames": media.frames,
        "width": media.width,
        "height": media.height,
        "fps": media.fps,
        "start": media.start,
        "sides": {side.name: {**side.sheet.model_dump(), "stills": side.stills} for side in media.sides},
        "tile": {"frame": tile.frame, **tile.tile.model_dump()} if tile else None,
        "same": record.comparison.bit_exact if record.comparison else False,
    }
