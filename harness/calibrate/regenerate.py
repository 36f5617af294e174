"""Measure goldens and limits: one reference run per case, its perturbations, disturbed runs and injected faults."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from harness.calibrate.faults.runs import DONE, ReportLine, Run, broken_runs, noisy_runs
from harness.calibrate.faults.spoiling import SPOILS, STRENGTHS, spoiled
from harness.calibrate.faults.weights import STRENGTHS as WEIGHT_STRENGTHS
from harness.calibrate.faults.weights import weight_faults
from harness.calibrate.guards import refuse_other_identity
from harness.calibrate.modes import groups_of, nearest_group
from harness.calibrate.samples import Result, healthy, keep, read_kept, record_all, rounding_samples, samples_of
from harness.definitions.case import Located
from harness.errors import QuantgateError
from harness.frames.clip import Clip, read_clip
from harness.frames.compare import compare
from harness.frames.nearest import Hold, nearest_of
from harness.goldens.folder import FolderStore
from harness.goldens.golden import Golden
from harness.goldens.matching import MatchKind
from harness.goldens.refusing import FAR
from harness.limits.edited import load_explained
from harness.outcomes import Outcome
from harness.records.base import Json
from harness.records.case_record import CaseRecord
from harness.records.frames import ComparisonEvidence
from harness.records.generation import Generation
from harness.records.golden import CLIP
from harness.records.limits import LimitFile, Sample
from harness.records.run_folder import RECORD_FILE
from harness.session.conductor import Session, Watch
from harness.session.context import SessionContext
from harness.session.inspecting import Inspector
from harness.session.origin import Origins
from harness.session.perturbation import NONE, Perturbation
from harness.session.probing import base_case
from harness.session.stages import find_golden


class RegenerateError(QuantgateError):
    """No golden or limit may be made from these runs."""

    outcome = Outcome.INCONCLUSIVE


@dataclass(frozen=True)
class Measured:
    """One healthy run of a case."""

    label: str
    record: CaseRecord
    folder: Path


Shown = tuple[Measured, Clip]
"""A run and its frames."""
Controls = Literal["all", "frames", "none"]


@dataclass(frozen=True)
class Plan:
    """Runs to make per case, besides the reference run."""

    perturbations: tuple[Perturbation, ...] = ()
    repeats: int = 0
    """Number of disturbed runs."""
    controls: Controls = "none"
    """Faults to inject: ``frames`` are arithmetic on the golden, ``all`` also breaks copies of the checkpoint."""
    results: tuple[Result, ...] = ()
    """Runs made elsewhere. If there are any, no healthy run is made here."""
    replace_golden: bool = False
    reason: str = ""
    report_line: ReportLine = lambda _line: None
    begin: ReportLine = lambda _label: None
    """Called with the name of every run before it starts, at most ``planned_runs`` times."""


@dataclass(frozen=True)
class Injected:
    """One run with a fault."""

    label: str
    fault: str
    strength: float
    comparison: ComparisonEvidence


@dataclass(frozen=True)
class Proposal:
    """Result of the regeneration of one case, before anything is written."""

    located: Located
    reference: Measured
    """The unperturbed run."""
    runs: tuple[Measured, ...]
    """The perturbed runs."""
    golden: Golden | None
    """The accepted golden of exactly this identity, which stays. If ``None``, the reference becomes the golden."""
    comparisons: tuple[tuple[str, ComparisonEvidence, dict[str, Json]], ...]
    """Rows of label, comparison with the present or future golden, and fingerprint of the run."""
    old: LimitFile | None
    samples: dict[str, tuple[Sample, ...]] = field(default_factory=dict)
    """Samples of probes and traces, per measure."""
    drawn: frozenset[str] = frozenset()
    """Labels of comparisons with computed clips (`rounding_samples`), for which no run was made."""
    injected: tuple[Injected, ...] = ()
    also: tuple[Golden, ...] = ()
    """Further accepted goldens of this identity: each run is compared with the nearest."""
    modes: tuple[Measured, ...] = ()
    """Runs that become further goldens: the case is bistable, and these are the middles of groups without a golden."""


def measure(context: SessionContext, cases: tuple[Located, ...], plan: Plan, watch: Watch) -> tuple[Proposal, ...]:
    """Run every case unperturbed, once per perturbation, disturbed, and with injected faults.

    Writes nothing outside the run's folder. A run that is already on disk under the context's run id with the same
    origin (checkpoint, request, environment, perturbation, code) is read, not repeated, so an interrupted regeneration
    continues. A run of another origin is repeated, and ``Plan.report_line`` gets a line about it.

    Raises:
        RegenerateError: a run that must be healthy has a fault of the checkpoint, of sanity or of the receipts.
        GoldenError: the accepted golden is of another identity, and the plan does not replace it.
    """
    inspector = Inspector(context.root)
    origins = Origins(context, inspector)
    if plan.results:
        return tuple(_from_results(context, located, plan, origins) for located in cases)
    context = replace(context, probe_inputs=record_all(context, cases, origins, plan.begin))
    tables = [
        _sweep(context, cases, perturbation, watch, plan, inspector) for perturbation in (NONE, *plan.perturbations)
    ]
    return tuple(
        _proposal(context, located, plan, origins, *(row for row in rows if row is not None))
        for located, *rows in zip(cases, *tables, strict=True)
    )


def planned_runs(cases: tuple[Located, ...], plan: Plan) -> int:
    """Return the largest number of calls of ``Plan.begin``: recordings, healthy, disturbed and broken runs."""
    if plan.results:
        return 0
    broken = len(weight_faults()) * len(WEIGHT_STRENGTHS) if plan.controls == "all" else 0
    recordings = sum(base_case(located.case) is not None for located in cases)
    return recordings + len(cases) * (1 + len(plan.perturbations) + plan.repeats + broken)


def _from_results(context: SessionContext, located: Located, plan: Plan, origins: Origins) -> Proposal:
    """Return the proposal for one case from runs that were made elsewhere, all of one identity."""
    results = [result for result in plan.results if result.record.case == located.case.id and result.record.identity]
    identities = {result.record.identity.digest() for result in results if result.record.identity}
    # two identities have two goldens: distances of one to the other are no spread of healthy runs
    if len(identities) > 1:
        raise RegenerateError(
            f"the results are of {len(identities)} identities, and limits hold for one",
            place=located.place,
            remedy="name results of one checkpoint, request and environment only",
        )
    chosen = healthy(results, located.case.id, next(iter(identities), ""))
    if not chosen:
        raise RegenerateError("no healthy result of this case is there", place=located.place)
    runs = [Measured(result.label, result.record, result.folder) for result in chosen]
    return _proposal(context, located, plan, origins, *runs)


def _sweep(
    context: SessionContext,
    cases: tuple[Located, ...],
    perturbation: Perturbation,
    watch: Watch,
    plan: Plan,
    inspector: Inspector,
) -> list[Measured | None]:
    """Run all cases under one perturbation, with an empty golden store, so that no golden decides their verdict."""
    bare = replace(
        context,
        run=f"{context.run}/{perturbation.name}",
        store=FolderStore(context.folder / "no-goldens"),
        contents_from=context.contents_from or context.store,
        perturbation=perturbation,
        leave_candidates=False,
    )
    session, origins = Session(bare, inspector), Origins(bare, inspector)
    try:
        return [_regenerate_case(session, located, perturbation, watch, plan, origins) for located in cases]
    finally:
        session.close()


def _regenerate_case(
    session: Session, located: Located, perturbation: Perturbation, watch: Watch, plan: Plan, origins: Origins
) -> Measured | None:
    case, report_line = located.case, plan.report_line
    plan.begin(f"{case.id}, {perturbation.name}")
    folder = session.context.case_folder(case.id)
    taken = perturbation.taken(case)
    if taken:
        report_line(f"{case.id}: {perturbation.name} left out: the case sets {', '.join(taken)} itself")
        return None
    try:
        origin = origins.of(case, perturbation, session.context.probe_inputs.get(case.id))
    except QuantgateError:  # The run below meets the same error and records it.
        origin = None
    earlier = read_kept(folder, origin) if origin is not None else None
    if isinstance(earlier, CaseRecord):
        return Measured(perturbation.name, earlier, folder)
    if earlier:
        report_line(f"{case.id}: {perturbation.name} is run again: {earlier}")
    finished = session.run_case(located, case.id, watch)
    outcome = finished.record.verdict.outcome
    if perturbation.optional and outcome in (Outcome.INVALID_CASE, Outcome.INFRA):
        report_line(f"{case.id}: {perturbation.name} left out: {finished.record.verdict.summary}")
        return None
    if outcome is not Outcome.GOLDEN_MISSING:
        raise RegenerateError(
            f"run {perturbation.name!r} ended {outcome.value}: {finished.record.verdict.summary}",
            place=located.place,
            remedy=f"make this run healthy first; its record is {folder / RECORD_FILE}",
        )
    if origin is not None:
        keep(folder, origin)
    return Measured(perturbation.name, finished.record, finished.folder)


def _proposal(
    context: SessionContext, located: Located, plan: Plan, origins: Origins, reference: Measured, *runs: Measured
) -> Proposal:
    identity = reference.record.identity
    if identity is None:
        raise RegenerateError("the reference run has no identity", place=located.place)
    match = find_golden(context, located.case, identity)
    refuse_other_identity(match.match, located.case, located.place, plan.replace_golden, plan.reason)
    goldens = match.match.goldens if match.match.kind is MatchKind.EXACT else ()
    golden = goldens[0] if goldens else None
    ordinary = [(run, read_clip(_clip_of(run))) for run in (reference, *runs)]
    repeats = 0 if plan.results else plan.repeats
    beside = origins.of(located.case).digest() if repeats or plan.controls == "all" else ""
    disturbed = noisy_runs(context, located.case, beside, repeats, plan.report_line, begin=plan.begin)
    clips = [read_clip(golden.open_part(CLIP)) for golden in goldens] or [ordinary[0][1]]
    bistable = _modes(located, plan.report_line, clips, ordinary, disturbed)
    clips += [frames for _, frames in bistable]
    clip, hold = clips[0], nearest_of(clips, located.case.metrics or None)
    rows: list[tuple[str, ComparisonEvidence, dict[str, Json]]] = [
        (label if reference_clip is clip else f"{label}-{number}", hold(Clip(rounded)), {})
        for number, reference_clip in enumerate(clips, 1)
        for label, rounded in rounding_samples(reference_clip.frames).items()
    ]
    drawn = frozenset(label for label, _, _ in rows)
    for run, frames in ordinary if golden is not None else ordinary[1:]:
        print_ = run.record.fingerprint
        fingerprint: dict[str, Json] = (
            {} if print_ is None else print_.model_dump(mode="json", exclude={"packages", "code"})
        )
        rows.append((run.label, hold(frames), fingerprint))
    old = load_explained(context.thresholds, context.runner.name, located.case.id)
    rows += [(run.label, hold(run.clip), {}) for run in disturbed]
    injected = _inject(context, located, plan, clip, hold, beside)
    modes = tuple(run for run, _ in bistable)
    first, *others = ((run.label, run.record, run.folder) for run in (reference, *runs))
    samples = samples_of(goldens, first, others, [(run.label, run.record, run.folder) for run in modes])
    return Proposal(located, reference, runs, golden, tuple(rows), old, samples, drawn, injected, goldens[1:], modes)


def _modes(
    located: Located,
    report_line: ReportLine,
    goldens: Sequence[Clip],
    ordinary: Sequence[Shown],
    disturbed: Sequence[Run],
) -> tuple[Shown, ...]:
    """Return one run per group of healthy runs that has no golden yet, if the runs form several groups.

    Args:
        located: the case.
        report_line: gets a line about what was recognised.
        goldens: frames of the goldens that stay, or of the reference, which becomes the golden.
        ordinary: the reference and the perturbed runs, each with its frames.
        disturbed: further healthy runs; only undisturbed repeats among them may become a golden.

    Raises:
        RegenerateError: two groups show different videos, so that limits around both would see no fault.
    """
    case = located.case.id
    clips = [*(frames for _, frames in ordinary), *(run.clip for run in disturbed)]
    groups = groups_of(clips)
    if not groups:
        return ()
    sizes = ", ".join(str(len(group.members)) for group in groups)
    report_line(f"{case}: bistable: {len(groups)} groups of healthy runs ({sizes} runs), with nothing in between")
    covered = {nearest_group(golden, clips, groups) for golden in goldens}
    chosen: list[Shown] = []
    for number, group in enumerate(groups):
        if number in covered:
            continue
        order = sorted(group.members, key=lambda member: member != group.middle)
        candidates = (
            (undisturbed, clips[member])
            for member in order
            if (undisturbed := _undisturbed(member, ordinary, disturbed))
        )
        representative = next(candidates, None)
        if representative is None:
            report_line(f"{case}: only disturbed runs are in group {number + 1}, so that no golden of it is proposed")
            continue
        run, frames = representative
        ssim = compare(goldens[0], frames, ["ssim"]).metrics[0].mean
        if ssim is not None and ssim < FAR:
            raise RegenerateError(
                f"repeats of one request show different videos (mean ssim {ssim:.2f}, below {FAR}): limits around both "
                "would see no fault",
                place=located.place,
                remedy="make the runtime repeat itself first (seed, kernels, state left by earlier runs)",
            )
        report_line(f"{case}: {run.label} is proposed as a golden of its own (mean ssim {ssim or 0:.3f} to the first)")
        chosen.append((run, frames))
    return tuple(chosen)


def _undisturbed(member: int, ordinary: Sequence[Shown], disturbed: Sequence[Run]) -> Measured | None:
    """Return a healthy run by its number among all; ``None`` for a disturbed one, whose trace is not healthy."""
    if member < len(ordinary):
        return ordinary[member][0]
    run, record = disturbed[member - len(ordinary)], ordinary[0][0].record
    if run.repeat is None:
        return None
    generation = Generation.read(run.repeat / DONE)
    return Measured(run.label, record.model_copy(update={"generation": generation}), run.repeat)


def _inject(
    context: SessionContext, located: Located, plan: Plan, clip: Clip, hold: Hold, beside: str
) -> tuple[Injected, ...]:
    """Make every negative control of one case, and compare it with the golden. Clips of another shape are left out."""
    runs: list[Run] = []
    if plan.controls != "none":
        runs += [
            Run(f"{name}@{strength:g}", Clip(spoiled(spoil, clip.frames, strength)), name, strength)
            for name, spoil in SPOILS.items()
            for strength in STRENGTHS
        ]
    if plan.controls == "all":
        runs += broken_runs(context, located.case, beside, plan.report_line, begin=plan.begin)
    return tuple(
        Injected(run.label, run.fault, run.strength, hold(run.clip))
        for run in runs
        if run.strength is not None and run.clip.shape == clip.shape
    )


def _clip_of(run: Measured) -> Path:
    generation = run.record.generation
    if generation is None:
        raise RegenerateError(f"run {run.label!r} generated nothing", place=str(run.folder))
    return run.folder / generation.clip
