"""Candidates that wait for a person's decision: written by a run, listed, read, rejected."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from harness.errors import GoldenError
from harness.goldens.golden import check_part, copy_parts, describe
from harness.goldens.workspace import Workspace
from harness.inside import require_inside
from harness.reading import UnreadableError, read_bytes
from harness.records.candidate import CANDIDATE_FILE, Candidate
from harness.records.case_record import CaseRecord
from harness.records.golden import CLIP, Provenance
from harness.records.limits import LimitFile
from harness.records.temporary import temporary_folder

RECORD = "record"
"""Name of the part that holds the case's record."""

MEDIA = {".json": "application/json", ".safetensors": "application/vnd.safetensors", ".log": "text/plain"}
_RUN_AGAIN = "run the case again; its candidate is left anew"


@dataclass(frozen=True)
class Pending:
    """A pending candidate on disk.

    Attributes:
        runner, case: from its path.
        folder: its folder.
        candidate: its content, or ``None`` if it is damaged.
        fault: the damage, as a sentence.
    """

    runner: str
    case: str
    folder: Path
    candidate: Candidate | None
    fault: str = ""


def candidate_of(record: CaseRecord, files: Mapping[str, Path], *, limits: LimitFile | None = None) -> Candidate:
    """Return the candidate that a case's record and its files make.

    Args:
        record: record of a run with an identity, which becomes the golden's.
        files: path by part name: ``clip``, ``trace``, ``sketches``, ... Media types follow from the suffixes.
        limits: limits measured against this candidate; their ``golden_digest`` is set to the clip's sha256.

    Raises:
        GoldenError: the record has no identity, or there is a clip and the record does not state its shape.
    """
    if record.identity is None:
        raise GoldenError("a run without an identity leaves no candidate", place=record.node, remedy=_RUN_AGAIN)
    if CLIP in files and record.generation is None:
        raise GoldenError("the record names no clip", place=record.node, remedy=_RUN_AGAIN)
    parts = {
        name: describe(path, MEDIA.get(path.suffix, "application/octet-stream"), f"{name}{path.suffix}")
        for name, path in sorted(files.items())
    }
    if limits is not None and CLIP in parts:
        limits = limits.model_copy(update={"golden_digest": parts[CLIP].sha256})
    code = record.fingerprint.code if record.fingerprint is not None else ""
    return Candidate.sealed(
        case=record.case,
        runner=record.runner,
        identity=record.identity,
        parts=parts,
        shape=record.generation.shape if CLIP in files and record.generation is not None else None,
        created=record.started,
        provenance=Provenance(run=record.run, code=code, fingerprint=record.fingerprint),
        outcome=record.verdict.outcome,
        summary=record.verdict.summary,
        golden=record.golden,
        changes=record.changes,
        limits=limits,
    )


def leave(
    workspace: Workspace,
    record: CaseRecord,
    files: Mapping[str, Path],
    *,
    limits: LimitFile | None = None,
    run_folder: Path | None = None,
) -> Path:
    """Copy a case's output to the pending candidates, replacing an older one of the same case and runner.

    Args:
        workspace: the project.
        record, files, limits: as for :func:`candidate_of`.
        run_folder: the case's folder of the run, such as ``runs/<run>/<case>``: ``candidate.json`` is written there
            too, so that an uploaded run is an artifact for ``accept --from``. Files that lie there under the names
            ``<part><suffix>`` stay in place; others are copied there.

    Returns:
        The pending candidate's folder.

    Raises:
        GoldenError: as :func:`candidate_of`.
    """
    candidate = candidate_of(record, files, limits=limits)
    if run_folder is not None:
        write_candidate(run_folder, candidate, files)
    return leave_candidate(workspace, candidate, files)


def leave_candidate(workspace: Workspace, candidate: Candidate, files: Mapping[str, Path]) -> Path:
    """Do the same as :func:`leave` with a candidate that was made before."""
    target = workspace.pending(candidate.runner, candidate.case)
    require_inside(workspace.root, workspace.state / "leaving")
    stage = temporary_folder(workspace.state / "leaving")
    try:
        # The slow copy happens outside the lock; under it, two renames replace the candidate.
        write_candidate(stage / "new", candidate, files)
        with workspace.locked():
            target.parent.mkdir(parents=True, exist_ok=True)
            if target.exists():
                target.rename(stage / "old")
            (stage / "new").rename(target)
    finally:
        shutil.rmtree(stage, ignore_errors=True)
    return target


def write_candidate(folder: Path, candidate: Candidate, files: Mapping[str, Path]) -> Path:
    """Write a candidate and copies of its parts into a folder. ``candidate.json`` comes last and makes it complete.

    Raises:
        GoldenError: a file differs from the candidate's part.
    """
    copy_parts(candidate.parts, files, folder)
    return candidate.write(folder / CANDIDATE_FILE)


def read_candidate(folder: Path) -> Candidate:
    """Return the candidate in a folder if its seal is valid; :func:`part_files` checks the parts.

    Raises:
        GoldenError: there is no candidate, it is damaged, or it was changed by hand.
    """
    return parse_candidate(_read(folder / CANDIDATE_FILE), str(folder / CANDIDATE_FILE))


def parse_candidate(data: bytes, place: str) -> Candidate:
    """Return the candidate that the bytes of ``candidate.json`` hold, if its seal is valid.

    Raises:
        GoldenError: the candidate is damaged, or it was changed by hand.
    """
    try:
        candidate = Candidate.parse(data, place)
    except UnreadableError as error:
        raise GoldenError(f"this is not a candidate: {error.message}", place=error.place, remedy=_RUN_AGAIN) from error
    if candidate.seal != candidate.expected_seal():
        raise GoldenError("the candidate was changed since the run wrote it", place=place, remedy=_RUN_AGAIN)
    return candidate


def part_files(folder: Path, candidate: Candidate) -> dict[str, Path]:
    """Return the path of every part after checking its size and sha256, and compare the record with the candidate.

    Raises:
        GoldenError: a part is missing, truncated or changed, or the record is of another run.
    """
    files = {
        name: check_part(name, part, folder / part.path, remedy=_RUN_AGAIN) for name, part in candidate.parts.items()
    }
    if RECORD in files:
        _check_record(files[RECORD], candidate)
    return files


def listed(workspace: Workspace) -> tuple[Pending, ...]:
    """Return all pending candidates, sorted; a damaged one is listed with its fault."""
    candidates: list[Pending] = []
    for path in sorted(workspace.pending_root.glob(f"*/*/{CANDIDATE_FILE}")):
        folder = path.parent
        runner, case = folder.parent.name, folder.name
        try:
            candidate = read_candidate(folder)
            if (candidate.runner, candidate.case) != (runner, case):
                raise GoldenError(f"it belongs to {candidate.runner}/{candidate.case}", place=str(folder))
            candidates.append(Pending(runner, case, folder, candidate))
        except GoldenError as error:
            candidates.append(Pending(runner, case, folder, None, str(error)))
    return tuple(candidates)


def choose(workspace: Workspace, case: str, runner: str = "") -> Path:
    """Return the folder of the only pending candidate of a case.

    Raises:
        GoldenError: there is none, or there are several runners and none was named.
    """
    matching = [item for item in listed(workspace) if item.case == case and runner in ("", item.runner)]
    if not matching:
        names = ", ".join(f"{item.runner}/{item.case}" for item in listed(workspace)) or "none"
        raise GoldenError(
            f"no candidate of {case!r}{f' on {runner}' if runner else ''} is pending (pending: {names})",
            remedy="run the case, or name a downloaded artifact with --from",
        )
    if len(matching) > 1:
        raise GoldenError(
            f"candidates of {case!r} are pending on {', '.join(item.runner for item in matching)}",
            remedy="name one with --runner",
        )
    return matching[0].folder


def reject(workspace: Workspace, case: str, runner: str = "") -> Path:
    """Delete a pending candidate; the run's own folder is unchanged. Return the folder that the candidate had.

    Raises:
        GoldenError: there is none, or there are several runners and none was named.
    """
    with workspace.locked():
        folder = choose(workspace, case, runner)
        # One rename under the lock removes the candidate as a whole; the slow deletion follows outside it.
        require_inside(workspace.root, workspace.state / "leaving")
        grave = temporary_folder(workspace.state / "leaving")
        folder.rename(grave)
    shutil.rmtree(grave)
    return folder


def _check_record(path: Path, candidate: Candidate) -> None:
    try:
        record = CaseRecord.read(path)
    except UnreadableError as error:
        raise GoldenError(
            f"the record cannot be read: {error.message}", place=error.place, remedy=_RUN_AGAIN
        ) from error
    if (record.runner, record.case) != (candidate.runner, candidate.case):
        raise GoldenError(
            f"the record tells of {record.runner}/{record.case}, the candidate of {candidate.runner}/{candidate.case}",
            place=str(path),
            remedy=_RUN_AGAIN,
        )
    if record.identity != candidate.identity:
        raise GoldenError(
            "the record's identity is not the one that the candidate names", place=str(path), remedy=_RUN_AGAIN
        )


def _read(path: Path) -> bytes:
    try:
        return read_bytes(path)
    except UnreadableError as error:
        raise GoldenError(f"no candidate there: {error.message}", place=str(path), remedy=_RUN_AGAIN) from error
    except OSError as error:
        raise GoldenError(
            f"no candidate there: {os.strerror(error.errno or 0)}", place=str(path), remedy=_RUN_AGAIN
        ) from error
