"""Write the proposal of a regeneration: golden and limits of a case in one transaction, or limits alone."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from harness.calibrate.regenerate import Measured, Proposal, RegenerateError
from harness.goldens.accept import install
from harness.goldens.journal import committing
from harness.goldens.pending import candidate_of
from harness.goldens.workspace import Workspace
from harness.judge.limits_rule import gates_nothing, loosened, of_frames
from harness.limits.file import control_results, notes, place_limits
from harness.limits.probes import place_all
from harness.records.candidate import Candidate
from harness.records.contents import CONTENTS, CONTENTS_FILE
from harness.records.frames import ComparisonEvidence
from harness.records.limits import LimitFile, Sample
from harness.session.stages import parts_of


@dataclass(frozen=True)
class Applied:
    """Result of writing one case."""

    case: str
    golden: str
    """Digest of the golden that the limits belong to."""
    new_golden: bool
    limits: LimitFile
    changed: tuple[str, ...]
    """Files to commit, relative to the root."""


def apply(workspace: Workspace, proposal: Proposal, *, reason: str, author: str) -> Applied:
    """Write golden and limits of one case, or the limits alone if the accepted golden stays.

    Raises:
        RegenerateError: no metric of the frames would gate; or a limit would let more through than before, or a golden
            would be replaced, without a reason.
        GoldenError: same as ``harness.goldens.accept.install``.
    """
    new = limit_file(proposal, author, reason or "measured")
    _refuse_blind(new, proposal.located.place)
    _refuse_unexplained(proposal.old, new, proposal.located.place, reason)
    if proposal.golden is not None and not proposal.modes:
        return Applied(new.case, proposal.golden.digest, False, new, (_write(workspace, new),))
    if proposal.golden is not None and not reason.strip():
        raise RegenerateError(
            f"the case is bistable: {len(proposal.modes)} further goldens would be accepted beside the present one",
            place=proposal.located.place,
            remedy=f"quantgate regenerate --case {new.case} --runner {new.runner} --reason '...', if all are right",
        )
    made = proposal.modes if proposal.golden is not None else (proposal.reference, *proposal.modes)
    (candidate, files), *others = (
        _candidate(proposal, golden_run, new if place == 0 else None) for place, golden_run in enumerate(made)
    )
    installed = install(
        workspace,
        candidate,
        files,
        reason=reason or "first golden of this case",
        author=author,
        also=proposal.golden is not None,
        beside=others,
    )
    written = new.model_copy(update={"golden_digest": installed.digest})
    return Applied(new.case, installed.digest, True, written, installed.changed)


def _candidate(proposal: Proposal, run: Measured, limits: LimitFile | None) -> tuple[Candidate, dict[str, Path]]:
    """Return a run as a candidate, with its files. A further golden has the identity of the one that stays."""
    record = run.record
    if proposal.golden is not None:
        record = record.model_copy(update={"identity": proposal.golden.manifest.identity})
    files = parts_of(record, run.folder)
    contents = proposal.reference.folder / CONTENTS_FILE
    if CONTENTS not in files and contents.exists():  # a repeat loads the same weights and writes no list of its own
        files[CONTENTS] = contents
    return candidate_of(record, files, limits=limits), files


def apply_again(workspace: Workspace, old: LimitFile, new: LimitFile, *, reason: str) -> str:
    """Write limits that were placed again from the samples of their own file. Return the file to commit.

    Raises:
        RegenerateError: no metric of the frames would gate; or a limit would let more through than before, without a
            reason.
    """
    path = str(workspace.limits(new.runner, new.case))
    _refuse_blind(new, path)
    _refuse_unexplained(old, new, path, reason)
    return _write(workspace, new)


def _refuse_blind(new: LimitFile, path: str) -> None:
    if nothing := gates_nothing(of_frames(new)):
        raise RegenerateError(
            nothing,
            place=path,
            remedy="make healthy runs of the case stray less (fewer steps, other `metrics`); or place limits by them "
            f"alone: quantgate regenerate --case {new.case} --runner {new.runner} --controls none",
        )


def _refuse_unexplained(old: LimitFile | None, new: LimitFile, path: str, reason: str) -> None:
    looser = loosened(old, new)
    if looser and not reason.strip():
        raise RegenerateError(
            "these limits would let more through than before:\n  " + "\n  ".join(looser),
            place=path,
            remedy=f"quantgate regenerate --case {new.case} --runner {new.runner} --reason '...', if that is right",
        )


def _write(workspace: Workspace, new: LimitFile) -> str:
    target = workspace.limits(new.runner, new.case)
    with committing(workspace, f"limits of {new.runner}/{new.case}") as transaction:
        transaction.write(target, new.to_json().encode())
    return str(target.relative_to(workspace.root))


def limit_file(proposal: Proposal, author: str, reason: str) -> LimitFile:
    """Place the limits of one case.

    A new golden has no digest yet: ``golden_digest`` stays empty until `apply` installs the golden.
    """
    record = proposal.reference.record
    metrics = proposal.comparisons[0][1].metrics
    limits = place_limits(metrics, {metric.name: _samples(proposal, metric.name) for metric in metrics})
    controls = control_results(limits)
    # A golden that stays gives the identity: a run is looked up by the golden's.
    identity = record.identity if proposal.golden is None else proposal.golden.manifest.identity
    return LimitFile(
        case=record.case,
        runner=record.runner,
        golden_digest=proposal.golden.digest if proposal.golden else "",
        also=tuple(golden.digest for golden in proposal.also),
        identity_digest=identity.digest() if identity else "",
        limits=(*limits, *place_all(proposal.samples)),
        repeats=1 + len(proposal.comparisons) - len(proposal.drawn),
        fingerprints=tuple(print_ for _, _, print_ in proposal.comparisons if print_),
        controls=controls,
        notes=notes(limits, controls),
        author=author,
        reason=reason or "measured",
        created=datetime.now(UTC).isoformat(timespec="seconds"),
    )


def _samples(proposal: Proposal, metric: str) -> list[Sample]:
    """Return the values of one metric for all runs: healthy, drawn and faulty. Runs without a value are left out."""
    samples = [
        Sample(
            value=value,
            run=label,
            side="benign",
            fingerprint=print_,
            clip="" if label in proposal.drawn else comparison.candidate_sha256,
            drawn=label in proposal.drawn,
        )
        for label, comparison, print_ in proposal.comparisons
        if (value := _value(comparison, metric)) is not None
    ]
    samples += [
        Sample(
            value=value,
            run=injected.label,
            side="faulty",
            clip=injected.comparison.candidate_sha256,
            fault=injected.fault,
            strength=injected.strength,
        )
        for injected in proposal.injected
        if (value := _value(injected.comparison, metric)) is not None
    ]
    return samples


def _value(comparison: ComparisonEvidence, metric: str) -> float | None:
    metric_result = comparison.get(metric)
    return None if metric_result is None else metric_result.gating_value
