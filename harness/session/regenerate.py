"""Goldens and limits measured anew: one reference run, every healthy perturbation, then the limits."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from harness.definitions.case import Located
from harness.errors import QuantgateError
from harness.frames.clip import Clip, read_clip
from harness.frames.compare import compare
from harness.goldens.folder import FolderStore
from harness.judge.placement import METHOD, place
from harness.records.base import Json
from harness.records.case_record import CaseRecord
from harness.records.frames import ComparisonEvidence
from harness.records.limits import LimitFile, Sample
from harness.records.verdict import Outcome
from harness.session.conductor import Session, Watch
from harness.session.context import SessionContext
from harness.session.perturbation import NONE, Perturbation
from harness.session.rounding import rounded

ROUNDING = "rounding"
"""Label of the sample that is drawn, not run: the golden with every value moved by at most one level. It keeps a limit
from lying closer to the golden than eight bits can tell."""


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

    reference: Measured
    runs: tuple[Measured, ...]
    comparisons: tuple[tuple[str, ComparisonEvidence, dict[str, Json]], ...]
    """Label, comparison with the reference, fingerprint."""


def measure(
    context: SessionContext, cases: tuple[Located, ...], perturbations: tuple[Perturbation, ...], watch: Watch
) -> tuple[Proposal, ...]:
    """Run every case healthy, once as it is and once a perturbation. Nothing outside the run's folder is written.

    A run that is already on disk under the context's run id and was made by the same identity and code is read, not
    repeated: an interrupted regeneration goes on where it stopped.

    Raises:
        RegenerateError: a healthy run is not healthy: a fault of the checkpoint, of sanity or of the receipts.
    """
    tables = [_sweep(context, cases, one, watch) for one in (NONE, *perturbations)]
    proposals = []
    for index, located in enumerate(cases):
        reference, *runs = [table[index] for table in tables]
        proposals.append(_proposal(located, reference, tuple(runs)))
    return tuple(proposals)


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


def _proposal(located: Located, reference: Measured, runs: tuple[Measured, ...]) -> Proposal:
    golden = read_clip(reference.folder / "clip.safetensors")
    names = located.case.metrics or None
    rows: list[tuple[str, ComparisonEvidence, dict[str, Json]]] = [
        (ROUNDING, compare(golden, Clip(rounded(golden.frames)), names), {})
    ]
    for run in runs:
        print_ = run.record.fingerprint
        said: dict[str, Json] = {} if print_ is None else print_.model_dump(mode="json", exclude={"packages", "code"})
        rows.append((run.label, compare(golden, read_clip(run.folder / "clip.safetensors"), names), said))
    return Proposal(reference, runs, tuple(rows))


def limit_file(proposal: Proposal, golden_digest: str, author: str, reason: str) -> LimitFile:
    """Place the limits of one case."""
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
        golden_digest=golden_digest,
        identity_digest=identity.digest() if identity else "",
        limits=tuple(limits),
        repeats=len(proposal.runs),
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
