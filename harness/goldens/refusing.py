"""Refuse candidates that need an explicit decision; each refusal names its own flag, which overrides it."""

from __future__ import annotations

import contextlib
import shlex
import zipfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from harness.errors import GoldenError
from harness.goldens.artifact import DAMAGED, LoadedCandidate
from harness.goldens.folder import SHORT
from harness.goldens.golden import Golden
from harness.goldens.limits import read_committed
from harness.goldens.pending import RECORD
from harness.goldens.workspace import Workspace
from harness.judge.limits_rule import loosened, of_frames
from harness.project import Project
from harness.reading import UnreadableError, parse_json, read_bytes
from harness.records.base import Json
from harness.records.candidate import SHOWN_FILE, Candidate
from harness.records.case_record import CaseRecord
from harness.records.golden import CLIP
from harness.records.limits import Limit, LimitFile

FAR = 0.5
"""Mean SSIM below which two clips show different videos: healthy runs of one request lie above .9, and limits that hold
for two different videos detect errors in neither."""
Similarity = Callable[[Path, Path], float | None]
"""Returns the mean SSIM of two clip files; ``None`` if their shapes differ."""
_MAX_SHOWN = 1 << 24


@dataclass(frozen=True)
class Allow:
    """Refusals that the person who accepts overrides; by default none.

    Attributes:
        other_request: the candidate's request differs from the case file's present request.
        failed_sanity: its frames failed a check that needs no golden, or no such check was made.
        unseen: no report shows it.
        another_video: it shows another video than the golden that it replaces.
        drop_limits: accepting it deletes the limits of the case.
    """

    other_request: bool = False
    failed_sanity: bool = False
    unseen: bool = False
    another_video: bool = False
    drop_limits: bool = False


NOTHING = Allow()
ALL = Allow(other_request=True, failed_sanity=True, unseen=True, another_video=True, drop_limits=True)
"""For a command that makes golden and limits itself, with its own refusals."""


def request_changes(candidate: Candidate, request: Mapping[str, Json]) -> tuple[str, ...]:
    """List ``field: candidate's value -> present value of the case file`` for each field that differs."""
    made = candidate.identity.request
    return tuple(
        f"{name}: {made.get(name)!r} -> {request.get(name)!r}"
        for name in sorted(made.keys() | request.keys())
        if made.get(name) != request.get(name)
    )


def refuse_request(candidate: Candidate, request: Mapping[str, Json] | None, allow: Allow) -> None:
    """Refuse a candidate of another request than the case file's present one: it would be stale at once.

    Raises:
        GoldenError: the request differs, and ``allow`` does not override it.
    """
    changes = () if request is None else request_changes(candidate, request)
    if changes and not allow.other_request:
        raise GoldenError(
            f"the case asks for something else since the candidate was made: {'; '.join(changes)}",
            place=_name(candidate),
            remedy="run the case again, and accept its candidate; or add --other-request",
        )


def refuse_sick(proposal: LoadedCandidate, allow: Allow) -> None:
    """Refuse a candidate whose frames failed sanity, or were never checked.

    Raises:
        GoldenError: they failed or were not checked, and ``allow`` does not override it.
    """
    if allow.failed_sanity:
        return
    record = record_of(proposal)
    failures = record.sanity.failures if record is not None and record.sanity is not None else None
    if failures is None:
        fault = "no record proves that its frames passed the checks that need no golden"
    elif failures:
        fault = "its frames are sick: " + "; ".join(f"{check.name}: {check.message}" for check in failures)
    else:
        return
    raise GoldenError(
        fault,
        place=_name(proposal.candidate),
        remedy=f"quantgate reject {proposal.candidate.case}, and repair the run; --failed-sanity takes it all the same",
    )


def refuse_unseen(workspace: Workspace, proposal: LoadedCandidate, source: Path | None, allow: Allow) -> None:
    """Refuse a candidate that no report shows: no person can have looked at it.

    Raises:
        GoldenError: there is no such report, and ``allow`` does not override it.
    """
    if allow.unseen or is_shown(workspace, proposal.candidate, source):
        return
    # A report can only be made of a folder, so an archive has to be unpacked first.
    if source is not None and not source.is_dir():
        remedy = "unpack the archive and make its report (quantgate report FOLDER), look, and accept --from FOLDER"
    else:
        remedy = f"quantgate report {shlex.quote(str(source or '.quantgate/pending'))}, look at it, and accept it then"
    raise GoldenError(
        "no report shows this candidate, so its frames cannot have been looked at",
        place=_name(proposal.candidate),
        remedy=f"{remedy}; --unseen takes it all the same",
    )


def refuse_far(
    proposal: LoadedCandidate,
    goldens: Iterable[Golden],
    remaining: Iterable[str],
    similarity: Similarity,
    allow: Allow,
) -> None:
    """Refuse a candidate that shows another video than the goldens of its case.

    Limits of a case that accepts two different videos detect errors in neither: if a golden stays, no flag overrides.

    Args:
        proposal: the candidate.
        goldens: the goldens that the case accepts now.
        remaining: digests of the goldens that stay accepted.
        similarity: returns the mean SSIM of two clip files.
        allow: refusals that the person overrides.

    Raises:
        GoldenError: the mean SSIM is below ``FAR``.
    """
    stays = set(remaining)
    if CLIP not in proposal.files:
        return
    for golden in goldens:
        same_request = golden.manifest.identity.request == proposal.candidate.identity.request
        replaced = golden.digest not in stays
        if not same_request or CLIP not in golden.manifest.parts or (replaced and allow.another_video):
            continue
        ssim = similarity(golden.open_part(CLIP), proposal.files[CLIP])
        if ssim is None or ssim >= FAR:
            continue
        difference = f"it shows another video than golden {golden.digest[:SHORT]} (mean ssim {ssim:.2f}, below {FAR})"
        if replaced:
            raise GoldenError(
                f"{difference}, in whose place it would be",
                place=_name(proposal.candidate),
                remedy="look at both in the report; --another-video takes it, if the new one is right",
            )
        raise GoldenError(
            f"{difference}, which stays accepted: limits that hold for both would see neither",
            place=_name(proposal.candidate),
            remedy="accept it in that one's place, or reject it",
        )


def refuse_loss(candidate: Candidate, old: LimitFile, path: Path, allow: Allow) -> None:
    """Refuse to delete the limits of a case.

    Args:
        candidate: the candidate, of another configuration than the limits.
        old: the limits that would be deleted.
        path: path of their file, for the message.
        allow: refusals that the person overrides.

    Raises:
        GoldenError: ``allow`` does not override it.
    """
    if allow.drop_limits:
        return
    gating = sum(limit.gates for limit in old.limits)
    raise GoldenError(
        f"accepting it deletes {path} with {gating} gating limits: they were measured for another configuration "
        "(request, hardware, weights or environment differ), and the case is red until new ones are measured",
        place=_name(candidate),
        remedy=f"quantgate regenerate --case {candidate.case} --runner {candidate.runner} --replace-golden "
        "--reason '...', which measures golden and limits together; or add --drop-limits",
    )


def record_of(proposal: LoadedCandidate) -> CaseRecord | None:
    """Return the record of the run that left a candidate, if it has one; it was checked with the other parts."""
    path = proposal.files.get(RECORD)
    return CaseRecord.read(path) if path is not None else None


def is_shown(workspace: Workspace, candidate: Candidate, source: Path | None = None) -> bool:
    """Return whether a report of this checkout, or of the artifact ``source``, shows the candidate."""
    return any(seal == candidate.seal for seal in _shown(workspace, source))


def _shown(workspace: Workspace, source: Path | None) -> Iterable[str]:
    """Yield the seals of the candidates that a report of this checkout, or of the artifact, shows."""
    places = [Project(workspace.root).runs, workspace.state]
    if source is not None and source.is_dir():
        places.append(source)
    for place in places:
        for path in place.rglob(SHOWN_FILE) if place.is_dir() else ():
            with contextlib.suppress(OSError, UnreadableError):  # a damaged list shows no candidate
                yield from _seals(read_bytes(path, limit=_MAX_SHOWN))
    if source is not None and source.is_file():
        # a damaged archive is refused where its candidates are read
        with contextlib.suppress(*DAMAGED), zipfile.ZipFile(source) as archive:
            remaining = _MAX_SHOWN  # for all of them: many small entries may unpack into many gigabytes
            for entry in archive.infolist():
                if entry.filename.rpartition("/")[2] == SHOWN_FILE and entry.file_size <= remaining:
                    remaining -= entry.file_size
                    yield from _seals(archive.read(entry))


def _seals(data: bytes) -> Iterable[str]:
    try:
        body = parse_json(data, SHOWN_FILE)
    except UnreadableError:
        return ()
    return [str(seal) for seal in body] if isinstance(body, dict) else ()


def _name(candidate: Candidate) -> str:
    return f"{candidate.runner}/{candidate.case}"


# Check limits that come with a candidate: they were measured elsewhere, and the seal on them is no signature.


def refuse_loose(candidate: Candidate, path: Path) -> None:
    """Refuse limits that let more through than the committed ones, or in which a frame metric does not gate.

    Args:
        candidate: the candidate, with the limits that came along, if any did.
        path: the committed limit file, if there is one.

    Raises:
        GoldenError: the limits are looser, or the committed limits cannot be read.
    """
    new = candidate.limits
    if new is None:
        return
    old = read_committed(path)
    metrics = {limit.metric for limit in old.limits} if old is not None else set()
    # A metric that the committed file lists is compared by `loosened`; only new metrics that do not gate are added.
    loose = list(loosened(old, new))
    loose += [
        f"{limit.metric}: does not gate ({limit.why})"
        for limit in of_frames(new)
        if not limit.gates and limit.metric not in metrics
    ]
    if not of_frames(new):
        loose.append("no metric of the frames has a limit")
    if loose:
        raise GoldenError(
            "limits came with the candidate, and let through what the committed ones do not:\n  " + "\n  ".join(loose),
            place=f"{candidate.runner}/{candidate.case}",
            remedy="quantgate regenerate, which measures them here; or add --loosen-limits, if they are right",
        )


def vouched(candidate: Candidate, author: str, reason: str) -> Candidate:
    """Return the candidate with its limits under the name and reason of the person who accepts them unchanged."""
    limits = candidate.limits
    if limits is None:
        return candidate
    explained = f"{reason} (measured elsewhere by {limits.author}: {limits.reason})"
    return candidate.model_copy(update={"limits": limits.model_copy(update={"author": author, "reason": explained})})


def changes_of(candidate: Candidate, path: Path) -> tuple[str, ...]:
    """List every limit that came with the candidate, old and new, a line each; nothing if none came."""
    if candidate.limits is None:
        return ()
    old = read_committed(path)
    return tuple(
        f"{limit.metric}: {_value(old.get(limit.metric) if old is not None else None)} -> {_value(limit)}"
        for limit in candidate.limits.limits
    )


def _value(limit: Limit | None) -> str:
    if limit is None:
        return "none"
    return "does not gate" if limit.limit is None else f"{limit.limit:.4g}"
