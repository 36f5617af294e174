"""A run whose golden is missing or stale leaves what it made, so that a person can accept it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from harness.goldens.golden import Golden
from harness.records.case_record import CaseRecord
from harness.records.contents import CONTENTS, CONTENTS_FILE
from harness.records.golden import CLIP
from harness.records.probe import PROBES, SKETCHES
from harness.records.verdict import Outcome
from harness.review.pending import RECORD, leave
from harness.review.workspace import Workspace
from harness.session.contents import Contents
from harness.session.context import SessionContext
from harness.session.probing import PROBES_FILE, SKETCHES_FILE
from harness.session.stages import TRACE

LEAVES = frozenset({Outcome.GOLDEN_MISSING, Outcome.GOLDEN_STALE, Outcome.REGRESSION})
"""Outcomes whose output a person may want to accept: new, made from other weights, or changed on purpose."""


def parts_of(record: CaseRecord, folder: Path) -> dict[str, Path]:
    """The files of a run that a golden is made of, by part name. Writes the trace beside the record.

    Raises:
        ValueError: the run generated nothing.
    """
    if record.generation is None:
        raise ValueError(f"{record.case} generated nothing")
    trace = record.generation.trace.write(folder / "trace.json")
    parts = {CLIP: folder / record.generation.clip, TRACE: trace}
    found = {PROBES: folder / PROBES_FILE, SKETCHES: folder / SKETCHES_FILE}
    if all(path.exists() for path in found.values()):
        parts |= found
    if (contents := folder / CONTENTS_FILE).exists():
        parts[CONTENTS] = contents
    return parts


def leave_candidate(
    context: SessionContext,
    record: CaseRecord,
    folder: Path,
    contents: Contents | None = None,
    accepted: Sequence[Golden] = (),
) -> Path | None:
    """Leave a pending candidate if the verdict calls for one. ``record.json`` must be on disk.

    A negative control has no golden of its own and leaves none.

    Args:
        context: the session's.
        record: of the run.
        folder: the case's folder of the run.
        contents: of the checkpoint that ran; they become part of the candidate.
        accepted: goldens of the case, whose contents are taken where the files are theirs.

    Returns:
        The candidate's folder, or ``None``.
    """
    if record.verdict.outcome not in LEAVES or record.generation is None or record.identity is None:
        return None
    if record.request.get("golden_of"):
        return None
    if contents is not None:
        contents.adopt(accepted)
        contents.write(folder)
    files = {**parts_of(record, folder), RECORD: folder / "record.json"}
    # candidate.json beside the record as well: an uploaded run is then an artifact for `accept --from`
    return leave(Workspace(context.root), record, files, run_folder=folder)
