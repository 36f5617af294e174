"""Goldens and limits measured anew: one reference run, every healthy perturbation, then the limits."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path

from harness.definitions.case import Located
from harness.definitions.limits import load_limits
from harness.errors import QuantgateError
from harness.frames.clip import Clip, read_clip
from harness.frames.compare import compare
from harness.goldens.folder import FolderStore
from harness.goldens.golden import Golden
from harness.goldens.matching import MatchKind
from harness.judge.placement import METHOD, place
from harness.judge.probe_limits import place_all
from harness.records.base import Json
from harness.records.case_record import CaseRecord
from harness.records.frames import ComparisonEvidence
from harness.records.golden import CLIP
from harness.records.limits import LimitFile, Sample
from harness.records.verdict import Outcome
from harness.session.calibrating import record_all, samples_of
from harness.session.conductor import Session, Watch
from harness.session.context import SessionContext
from harness.session.perturbation import NONE, Perturbation
from harness.session.rounding import rounding_samples
from harness.session.stages import find_golden


class RegenerateError(QuantgateError):
    """A golden or a limit must not be made from this."""

    outcome = Outcome.INCONCLUSIVE


@dataclass(frozen=True)
class Measured:
    """One healthy run of a case."""

    label: str
    record: CaseRecord
    folder: Path


@dataclass(frozen=True)
class Proposal:
    """What regeneration found for one case, before anything is written."""

    located: Located
    reference: Measured
    """The run as it is."""
    runs: tuple[Measured, ...]
    """The perturbed runs."""
    golden: Golden | None
    """The accepted golden of exactly this identity, which stays; ``None``: the reference becomes the golden."""
    comparisons: tuple[tuple[str, ComparisonEvidence, dict[str, Json]], ...]
    """Label, comparison with the golden to be, fingerprint."""
    old: LimitFile | None
    samples: dict[str, tuple[Sample, ...]] = field(default_factory=dict)
    """Of probes and traces, by measure."""


def measure(
    context: SessionContext, cases: tuple[Located, ...], perturbations: tuple[Perturbation, ...], watch: Watch
) -> tuple[Proposal, ...]:
    """Run every case healthy, once as it is and once a perturbation. Nothing outside the run's folder is written.

    A run that is already on disk under the context's run id and was made by the same identity and code is read, not
    repeated: an interrupted regeneration goes on where it stopped.

    Raises:
        RegenerateError: a healthy run is not healthy: a fault of the checkpoint, of sanity or of the receipts.
    """
    context = replace(context, probe_inputs=record_all(context, cases))
    tables = [_sweep(context, cases, one, watch) for one in (NONE, *perturbations)]
    return tuple(_proposal(context, located, *rows) for located, *rows in zip(cases, *tables, strict=True))


def _sweep(
    context: SessionContext, cases: tuple[Located, ...], perturbation: Perturbation, watch: Watch
) -> list[Measured]:
    """Run all cases under one perturbation, without a golden to be judged by."""
    bare = replace(
        context,
        run=f"{context.run}/{perturbation.name}",
        store=FolderStore(context.folder / "no-goldens"),
        perturbation=perturbation,
        leave_candidates=False,
    )
    session = Session(bare)
    try:
        return [_one(session, located, perturbation, watch) for located in cases]
    finally:
        session.close()


def _one(session: Session, located: Located, perturbation: Perturbation, watch: Watch) -> Measured:
    folder = session.context.case_folder(located.case.id)
    done = folder / "record.json"
    if done.exists():
        record = CaseRecord.read(done)
        if record.verdict.outcome is Outcome.GOLDEN_MISSING:
            return Measured(perturbation.name, record, folder)
    finished = session.run_case(located, located.case.id, watch)
    outcome = finished.record.verdict.outcome
    if outcome is not Outcome.GOLDEN_MISSING:
        raise RegenerateError(
            f"run {perturbation.name!r} ended {outcome.value}: {finished.record.verdict.summary}",
            where=located.where,
            remedy=f"make this run healthy first; its record is {done}",
        )
    return Measured(perturbation.name, finished.record, finished.folder)


def _proposal(context: SessionContext, located: Located, reference: Measured, *runs: Measured) -> Proposal:
    identity = reference.record.identity
    if identity is None:
        raise RegenerateError("the reference run has no identity", where=located.where)
    found = find_golden(context, located.case, identity)
    golden = found.match.goldens[0] if found.match.kind is MatchKind.EXACT else None
    compared = runs if golden is None else (reference, *runs)
    clip = read_clip(golden.open_part(CLIP) if golden else _clip_of(reference))
    names = located.case.metrics or None
    rows: list[tuple[str, ComparisonEvidence, dict[str, Json]]] = [
        (label, compare(clip, Clip(frames), names), {}) for label, frames in rounding_samples(clip.frames).items()
    ]
    for run in compared:
        print_ = run.record.fingerprint
        said: dict[str, Json] = {} if print_ is None else print_.model_dump(mode="json", exclude={"packages", "code"})
        rows.append((run.label, compare(clip, read_clip(_clip_of(run)), names), said))
    old = load_limits(context.thresholds, context.runner.name, located.case.id)
    healthy = [(run.label, run.record, run.folder) for run in (reference, *runs)]
    return Proposal(located, reference, runs, golden, tuple(rows), old, samples_of(golden, healthy[0], healthy[1:]))


def _clip_of(run: Measured) -> Path:
    generation = run.record.generation
    if generation is None:
        raise RegenerateError(f"run {run.label!r} generated nothing", where=str(run.folder))
    return run.folder / generation.clip


def limit_file(proposal: Proposal, author: str, reason: str) -> LimitFile:
    """Place the limits of one case.

    Where the golden is new it has no digest yet: the clip's sha256 stands for it until it is accepted.
    """
    record = proposal.reference.record
    metrics = proposal.comparisons[0][1].metrics
    limits = []
    for metric in metrics:
        samples = [
            Sample(value=value, run=label, side="benign", fingerprint=print_)
            for label, comparison, print_ in proposal.comparisons
            if (found := comparison.get(metric.name)) is not None and (value := found.gating_value) is not None
        ]
        limits.append(place(metric, samples))
    identity = record.identity
    return LimitFile(
        case=record.case,
        runner=record.runner,
        golden_digest=proposal.golden.digest if proposal.golden else "",
        identity_digest=identity.digest() if identity else "",
        limits=(*limits, *place_all(proposal.samples)),
        repeats=1 + len(proposal.runs),
        fingerprints=tuple(print_ for _, _, print_ in proposal.comparisons if print_),
        author=author,
        reason=reason or f"measured by {METHOD}",
        created=datetime.now(UTC).isoformat(timespec="seconds"),
    )


def loosened(old: LimitFile | None, new: LimitFile) -> tuple[str, ...]:
    """One sentence a limit that lets more through than before."""
    if old is None:
        return ()
    sentences = []
    for limit in new.limits:
        before = old.get(limit.metric)
        if before is None or before.limit is None:
            continue
        if limit.limit is None:
            sentences.append(f"{limit.metric}: {before.limit:.4g} -> does not gate")
        elif not before.admits(limit.limit):
            sentences.append(f"{limit.metric}: {before.limit:.4g} -> {limit.limit:.4g}")
    gone = {limit.metric for limit in old.limits} - {limit.metric for limit in new.limits}
    return (*sentences, *(f"{name}: no longer measured" for name in sorted(gone)))
