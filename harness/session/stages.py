"""The stages that need no engine: find the golden, check frames, compare frames, leave a candidate."""

from __future__ import annotations

import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from harness.definitions.case import Case
from harness.engine.environment import secrets_of
from harness.engine.failures import kind_of
from harness.engine.pictures import pictures_of, split
from harness.engine.secrets import redact
from harness.errors import InfraError, QuantgateError
from harness.frames.clip import Clip, read_clip
from harness.frames.compare import compare
from harness.frames.errors import ClipError
from harness.frames.sanity import check_clip
from harness.goldens.golden import Golden, copy_private, frames_error
from harness.goldens.matching import Match, select
from harness.goldens.pending import RECORD, leave
from harness.goldens.workspace import Workspace
from harness.judge.evidence import GoldenEvidence
from harness.limits.edited import load_explained
from harness.outcomes import Outcome
from harness.records.candidate import CANDIDATE_FILE
from harness.records.case_record import CaseRecord
from harness.records.contents import CONTENTS, CONTENTS_FILE
from harness.records.frames import ComparisonEvidence, SanityEvidence
from harness.records.generation import Generation, Trace
from harness.records.golden import CLIP, LATENTS
from harness.records.identity import Identity
from harness.records.limits import LimitFile
from harness.records.probe import PROBES, SKETCHES
from harness.records.run_folder import (
    CLIP_FILE,
    EXPERIMENTS_FILE,
    GOLDEN_CLIP_FILE,
    GOLDEN_LATENTS_FILE,
    GOLDEN_TRACE_FILE,
    LATENTS_FILE,
    ORIGIN_FILE,
    PICTURE_FILES,
    PROBES_FILE,
    RECORD_FILE,
    SKETCHES_FILE,
    TRACE_FILE,
)
from harness.session.contents import Contents
from harness.session.context import SessionContext

TRACE = "trace"
"""Name of the golden's part that holds its trace."""


@dataclass(frozen=True)
class MatchedGoldens:
    """The goldens of a case, and the evidence about them that the judge gets."""

    match: Match
    evidence: tuple[GoldenEvidence, ...]
    accepted: tuple[Golden, ...] = ()
    limits: LimitFile | None = None
    harmless_env: tuple[str, ...] = ()

    def again(self, identity: Identity) -> MatchedGoldens:
        """Match the same goldens and limits with a more complete identity, without reading files again."""
        # traces and contents are taken from the first match, so that no file is read again
        traces = {golden.digest: golden.trace for golden in self.evidence}
        contents = {golden.digest: golden.contents for golden in self.evidence}
        match = _match_goldens(self.accepted, self.limits, identity, traces, self.harmless_env)
        return replace(
            match,
            evidence=tuple(replace(golden, contents=contents.get(golden.digest, ())) for golden in match.evidence),
        )

    def with_contents(self, contents: Contents, identity: Identity) -> MatchedGoldens:
        """Add the names of tensors and documents that differ, for each golden whose weights differ.

        Raises:
            GoldenError: a golden's contents are damaged.
        """
        evidence = tuple(
            replace(golden_evidence, contents=contents.changes(golden, identity))
            if golden_evidence.changed("weights")
            else golden_evidence
            for golden_evidence, golden in zip(self.evidence, self.match.goldens, strict=True)
        )
        return replace(self, evidence=evidence)

    @property
    def first(self) -> GoldenEvidence | None:
        """The golden that the "what changed" table compares the run with; ``None`` if no golden matches."""
        return self.evidence[0] if self.evidence else None


def golden_name(case: Case) -> str:
    """Return the id of the case whose golden and limits apply: its own, or ``golden_of`` of a negative control."""
    return case.golden_of or case.id


def accepted_goldens(context: SessionContext, case: Case) -> tuple[Golden, ...]:
    """Return every golden that the case accepts on this runner, newest last. Raises ``GoldenError`` if the list is
    damaged.
    """
    return tuple(context.store.find(context.runner.name, golden_name(case)))


def known_identities(context: SessionContext, case: Case, accepted: tuple[Golden, ...] | None = None) -> list[Identity]:
    """Return the identities whose content digests count for equal files.

    Args:
        context: the session's context.
        case: the case.
        accepted: what ``accepted_goldens`` returned, if it was called already.

    Raises:
        GoldenError: the list of a store is damaged.
    """
    if context.contents_from is not None:
        goldens = context.contents_from.find(context.runner.name, golden_name(case))
    else:
        goldens = accepted_goldens(context, case) if accepted is None else accepted
    return [golden.manifest.identity for golden in goldens]


def find_golden(
    context: SessionContext, case: Case, identity: Identity, accepted: tuple[Golden, ...] | None = None
) -> MatchedGoldens:
    """Return the accepted goldens that a run with ``identity`` may be compared with.

    Args:
        context: the session's context.
        case: the resolved case.
        identity: the run's identity.
        accepted: all accepted goldens, if the caller has looked them up already.

    Raises:
        GoldenError: a golden is damaged.
        InvalidCaseError: the limit file cannot be read.
    """
    goldens = accepted_goldens(context, case) if accepted is None else accepted
    limits = load_explained(context.thresholds, context.runner.name, golden_name(case))
    return _match_goldens(goldens, limits, identity, {}, context.runner.harmless_env)


def _match_goldens(
    accepted: tuple[Golden, ...],
    limits: LimitFile | None,
    identity: Identity,
    traces: Mapping[str, Trace | None],
    harmless_env: tuple[str, ...],
) -> MatchedGoldens:
    match = select(accepted, identity, harmless_env)
    evidence = tuple(
        GoldenEvidence(
            golden.digest,
            match.changes,
            traces[golden.digest] if golden.digest in traces else _trace_of(golden),
            limits,
        )
        for golden in match.goldens
    )
    return MatchedGoldens(match, evidence, accepted, limits, harmless_env)


def _trace_of(golden: Golden) -> Trace | None:
    return Trace.read(golden.open_part(TRACE)) if TRACE in golden.manifest.parts else None


def look_at_frames(case: Case, generation: Generation, clip: Clip) -> SanityEvidence:
    """Run the frame checks that need no golden, such as shape and finite values."""
    sampling = case.sampling
    wanted = (sampling.num_frames, sampling.height, sampling.width, 3)
    return check_clip(clip, wanted=wanted, float_stats=generation.float_stats)


def keep_pictures(case: Case, paths: Mapping[str, Path], folder: Path) -> None:
    """Save the request's input pictures in the run's folder as PNG, decoded and resized as the model gets them.

    Args:
        case: the resolved case.
        paths: path by role, see ``harness.engine.resolve``.
        folder: the run's folder.

    Raises:
        InvalidCaseError: a picture cannot be read, or its content changed since the case was loaded.
    """
    _, files = split(paths)
    for role, picture in pictures_of(case, files, folder).items():
        # PNG is lossless: the folder shows the pixels that the model got
        picture.save(folder / f"{role}.png", "PNG")


def place_golden(golden: Golden, clip: Path, folder: Path) -> None:
    """Copy a golden beside the candidate, so that the run's folder can be viewed without the store.

    Args:
        golden: the golden.
        clip: the golden's frames, with their sha256 checked.
        folder: the run's folder.
    """
    copy_private(clip, folder / GOLDEN_CLIP_FILE)
    if TRACE in golden.manifest.parts:
        copy_private(golden.open_part(TRACE), folder / GOLDEN_TRACE_FILE)
    if LATENTS in golden.manifest.parts:
        copy_private(golden.open_part(LATENTS), folder / GOLDEN_LATENTS_FILE)


def compare_with(golden: Path, case: Case, candidate: Clip) -> ComparisonEvidence | None:
    """Compare every frame with the golden's. Return ``None`` if the shapes differ, which the sanity stage reports.

    The golden is always decoded and its pixels are digested: "bit-exact" never rests on a digest in a file's header.

    Args:
        golden: the golden's clip, a part whose sha256 was checked.
        case: names the metrics.
        candidate: the run's frames.

    Raises:
        GoldenError: the golden is no clip, or its pixels do not match the digest in its header.
    """
    try:
        reference = read_clip(golden)
    except ClipError as error:
        raise frames_error(golden, error, remedy="quantgate goldens verify") from error
    if reference.shape != candidate.shape:
        return None
    return compare(reference, candidate, case.metrics or None)


# A run without a usable golden leaves a candidate, so that a person can accept it.


LEAVES = frozenset({Outcome.GOLDEN_MISSING, Outcome.GOLDEN_STALE, Outcome.REGRESSION})
"""Outcomes that leave a candidate: no golden yet, a golden of other weights, or a change that may be intended."""


def parts_of(record: CaseRecord, folder: Path) -> dict[str, Path]:
    """Return the files of a run that a golden is made of, by part name. Writes the trace beside the record.

    Raises:
        ValueError: the run generated nothing.
    """
    if record.generation is None:
        raise ValueError(f"{record.case} generated nothing")
    trace = record.generation.trace.write(folder / TRACE_FILE)
    parts = {CLIP: folder / record.generation.clip, TRACE: trace}
    written = {PROBES: folder / PROBES_FILE, SKETCHES: folder / SKETCHES_FILE}
    # probes and sketches are useful only together: a sketch is the output for a recording
    if all(path.exists() for path in written.values()):
        parts |= written
    if (contents := folder / CONTENTS_FILE).exists():
        parts[CONTENTS] = contents
    if (latents := folder / LATENTS_FILE).exists():
        parts[LATENTS] = latents
    return parts


def leave_candidate(
    context: SessionContext,
    record: CaseRecord,
    folder: Path,
    contents: Contents | None = None,
    accepted: Sequence[Golden] = (),
) -> Path | None:
    """Leave a pending candidate if the verdict calls for one. ``record.json`` must be on disk.

    A negative control has no golden of its own, so it leaves no candidate.

    Args:
        context: the session's context.
        record: the run's record.
        folder: the case's folder of the run.
        contents: contents of the checkpoint that ran; they become part of the candidate.
        accepted: goldens of the case. Their contents are reused for components with equal files, to save reading.

    Returns:
        The candidate's folder, or ``None``.
    """
    if record.verdict.outcome not in LEAVES or record.generation is None or record.identity is None:
        return None
    # the frames of a negative control are those of a fault
    if record.request.get("golden_of"):
        return None
    if contents is not None:
        contents.adopt(accepted)
        contents.write(folder)
    files = {**parts_of(record, folder), RECORD: folder / RECORD_FILE}
    # also write candidate.json beside the record: `accept --from` can then read an uploaded run folder
    return leave(Workspace(context.root), record, files, run_folder=folder)


# For an unexpected failure: remove old evidence before a run, and turn an exception into the record's error.


TRACEBACK_LINES = 20
EVIDENCE = (
    RECORD_FILE,
    ORIGIN_FILE,
    CANDIDATE_FILE,
    CLIP_FILE,
    TRACE_FILE,
    GOLDEN_CLIP_FILE,
    GOLDEN_TRACE_FILE,
    PROBES_FILE,
    SKETCHES_FILE,
    EXPERIMENTS_FILE,
    *PICTURE_FILES,
)
"""Files that a run leaves in its case's folder. Records of earlier attempts have other names, and stay."""


def clear(folder: Path) -> None:
    """Create the folder of a case, and remove the files of an earlier run of the same name.

    Raises:
        InfraError: kind ``disk``: the folder cannot be created or a file cannot be removed.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name in EVIDENCE:
            (folder / name).unlink(missing_ok=True)
    except OSError as error:
        raise InfraError(
            f"the run's folder cannot be written to: {error}",
            place=str(folder),
            remedy=f"make {folder.parent} writable, or name another place: pytest --runs DIR",
            kind="disk",
        ) from error


def to_quantgate_error(error: Exception, case: Case) -> QuantgateError:
    """Convert an exception to a ``QuantgateError``. Foreign exceptions become ``InfraError``, without secrets."""
    if isinstance(error, QuantgateError):
        return error
    return InfraError(
        redact(f"the run failed in the parent: {named(error)}", secrets_of(case)),
        place=case.id,
        remedy="read the traceback at the end of the record's log_tail",
        kind=kind_of(error),
    )


def named(error: Exception) -> str:
    """Return type and message of an exception in one line."""
    return " ".join(f"{type(error).__name__}: {error}".split())


def last_lines(error: Exception, case: Case) -> tuple[str, ...]:
    """Return the last ``TRACEBACK_LINES`` lines of an exception's traceback, with the case's secrets redacted."""
    text = "".join(traceback.format_exception(error))
    return tuple(redact(text, secrets_of(case)).splitlines()[-TRACEBACK_LINES:])
