"""Runs that lie on disk from before, and whether they may be taken for the ones that are asked for now."""

from __future__ import annotations

from pathlib import Path

from harness.frames.clip import read_clip
from harness.frames.errors import FramesError
from harness.records.case_record import CaseRecord
from harness.records.verdict import Outcome
from harness.session.origin import Origin

RECORD, ORIGIN = "record.json", "origin.json"


def keep(folder: Path, origin: Origin) -> None:
    """Say of the run in ``folder`` what it was made of. Written last: what has none is run again."""
    origin.write(folder / ORIGIN)


def read_kept(folder: Path, origin: Origin) -> CaseRecord | str:
    """The record of a healthy run of this origin, or why there is none; empty where nothing is there at all."""
    if not (folder / RECORD).exists():
        return ""
    try:
        before, record = Origin.read(folder / ORIGIN), CaseRecord.read(folder / RECORD)
    except (OSError, ValueError):
        return "its record is not whole, or does not say what it was made of"
    if before != origin:
        return f"it was made of something else: {origin.differs(before)}"
    if record.verdict.outcome is not Outcome.GOLDEN_MISSING:
        return f"it ended {record.verdict.outcome.value}"
    if record.identity is None or record.identity.digest() != origin.identity or record.generation is None:
        return "its record is of another identity"
    try:
        digest = read_clip(folder / record.generation.clip).digest
    except (OSError, ValueError, FramesError):
        return "its frames cannot be read"
    return record if digest == record.generation.clip_sha256 else "these are not the frames that its record speaks of"
