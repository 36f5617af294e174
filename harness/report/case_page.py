"""Collect everything that the page of one case shows."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

from harness.outcomes import Outcome
from harness.reading import UnreadableError
from harness.records.candidate import Candidate
from harness.records.case_record import CaseRecord
from harness.records.generation import Trace
from harness.records.identity import FieldChange
from harness.records.verdict import Finding
from harness.report.bars import BAR_WIDTH, LIMIT_AT, bars
from harness.report.divergence import HEIGHT, WIDTH, curves, divergence
from harness.report.layers import first_bad_block, layer_maps, outside_blocks
from harness.report.load import Entry, Run
from harness.report.media import Media, focus
from harness.report.probes import probe_charts, worst_modules
from harness.report.text import (
    Command,
    accept_command,
    case_commands,
    headline,
    is_control,
    is_red,
    next_step,
    parts,
    reject_command,
    short_digest,
    size,
)
from harness.report.times import time_bars

# Receipts: formats that the checkpoints store, compared with the kernels that the modules ran.


@dataclass(frozen=True)
class ReceiptRow:
    """Receipts of one expert, one format and one kernel."""

    expert: str
    format: str
    kernel: str
    modules: int
    calls: int
    promised: int | None
    """Modules that the checkpoint stores in this format; ``None`` if the engine did not report it."""
    notes: tuple[str, ...]


def receipt_rows(record: CaseRecord) -> tuple[ReceiptRow, ...]:
    """Return receipts per expert, format and kernel, and a row of zero modules per stored format that did not run."""
    if record.generation is None:
        return ()
    promised = _promised(record)
    groups: dict[tuple[str, str, str], list[int]] = {}
    notes: dict[tuple[str, str, str], Counter[str]] = {}
    for module in record.generation.receipts.modules:
        key = (module.expert, module.format, module.kernel)
        groups.setdefault(key, []).append(module.calls)
        if module.note:
            notes.setdefault(key, Counter())[module.note] += 1
    rows = [
        ReceiptRow(*key, len(calls), sum(calls), promised.get(key[:2]), tuple(sorted(notes.get(key, ()))))
        for key, calls in sorted(groups.items())
    ]
    ran = {(row.expert, row.format) for row in rows}
    rows.extend(
        ReceiptRow(expert, kind, "did not run", 0, 0, count, ())
        for (expert, kind), count in sorted(promised.items())
        if (expert, kind) not in ran
    )
    return tuple(rows)


def _promised(record: CaseRecord) -> dict[tuple[str, str], int]:
    if record.engine is None:
        return {}
    return {
        (expert, kind): count
        for expert, modules in record.engine.quantized_modules.items()
        for kind, count in Counter(modules.values()).items()
    }


# The consequences of accepting a case's output, shown before a person accepts it.


_CONFIGURATION = frozenset({"request", "hardware", "weights", "env"})


@dataclass(frozen=True)
class Accepting:
    """The consequences of accepting, and the commands that accept and reject."""

    sentences: tuple[str, ...]
    accept: Command
    reject: Command


def accepting(record: CaseRecord, candidate: Candidate | None) -> Accepting | None:
    """Return the consequences of accepting the candidate; ``None`` if the run left no candidate."""
    if candidate is None:
        return None
    parts = ", ".join(f"{name} ({size(part.bytes)})" for name, part in sorted(candidate.parts.items()))
    replaced = (
        f"It takes the place of golden {short_digest(candidate.golden)}, which stays in the store and stays immutable."
        if candidate.golden
        else "It becomes the first golden of this case on this runner."
    )
    sentences = (
        f"This run’s output becomes the golden of {candidate.case} on {candidate.runner}: {parts}.",
        replaced,
        _limits(candidate),
        "Golden and limits change together or not at all, in files to be committed; no GPU is needed.",
    )
    return Accepting(sentences, accept_command(record), reject_command(record))


def _limits(candidate: Candidate) -> str:
    if candidate.limits is not None:
        return "The limits that were measured against this output come with it."
    if candidate.golden is None:
        return "The case has limits only once they are measured: until then it ends inconclusive."
    if moved := sorted({change.identity_class for change in candidate.changes if _is_configuration(change)}):
        return (
            "The limits are removed, which `accept` does with --drop-limits only: they were measured for another "
            f"configuration ({', '.join(moved)} differ). The case stays red until new ones are measured."
        )
    return "The limits are carried over, since only the code differs; the limit file says so."


def _is_configuration(change: FieldChange) -> bool:
    return change.identity_class in _CONFIGURATION


_SEVERITY = ("fault", "inconclusive", "warning", "info")


def case_page(run: Run, place: int, media: Media) -> dict[str, Any]:
    """Return the context of ``case.html.j2`` for the case at index ``place`` of ``run.entries``."""
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
        "green": not is_red(record),
        "headline": headline(record.verdict.summary),
        "expected": _expected(record),
        "checkpoint_first": _is_of_checkpoint(record),
        "next": parts(next_step(record)),
        "commands": case_commands(record),
        "accepting": accepting(record, entry.candidate),
        "links": _links(run, place),
        "media": media,
        "player": _player(record, media),
        "focus": focus(record),
        "bars": bars(record),
        "times": time_bars(record),
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


def _expected(record: CaseRecord) -> str:
    """Return the ``expect`` of a negative control; empty for any other case."""
    expect = record.request.get("expect", "pass")
    return "" if expect == "pass" else str(expect)


def _is_of_checkpoint(record: CaseRecord) -> bool:
    """Return whether the inspection decides the case: then the page shows it before the frames."""
    verdict = record.verdict
    codes = {finding.code for finding in record.inspection.findings} if record.inspection else set()
    return Outcome.CHECKPOINT_FAULT in (verdict.outcome, verdict.observed) or verdict.cause in codes


def _findings(record: CaseRecord) -> tuple[Finding, ...]:
    """Return the findings to list, without the inspector's (own section) and the headline's only one."""
    shown = tuple(
        finding for finding in record.verdict.findings if record.inspection is None or finding.stage != "inspection"
    )
    return () if len(shown) == 1 and shown[0].message in record.verdict.summary else shown


def golden_trace(entry: Entry) -> Trace | None:
    """Return the golden's trace, which the session leaves beside the record; ``None`` if absent or unreadable."""
    path = entry.artifact("golden_trace", "golden-trace.json")
    if path is None:
        return None
    try:
        return Trace.read(path)
    except (OSError, UnreadableError):
        return None


def _links(run: Run, place: int) -> dict[str, str | int | None]:
    """Return file names of neighbouring pages. Red cases come first in a run, and their links form a ring."""
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
    """Return the data that the player's script reads from the page; ``None`` without clips."""
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
