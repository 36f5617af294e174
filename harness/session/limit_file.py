"""The limit file of one case, from what regeneration measured."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

from harness.frames.compare import describe
from harness.judge.calibration.file import control_results, notes, place_limits
from harness.judge.probe_limits import MEASURES, place_all
from harness.records.frames import ComparisonEvidence
from harness.records.limits import LimitFile, Sample

if TYPE_CHECKING:
    from harness.session.regenerate import Proposal


def limit_file(proposal: Proposal, author: str, reason: str) -> LimitFile:
    """Place the limits of one case.

    Where the golden is new it has no digest yet: the clip's sha256 stands for it until it is accepted.
    """
    record = proposal.reference.record
    metrics = proposal.comparisons[0][1].metrics
    limits = place_limits(metrics, {metric.name: _samples(proposal, metric.name) for metric in metrics})
    controls = control_results(limits)
    # a golden that stays gives the name: one of an older version names the same weights by their files
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


def placed_again(old: LimitFile, author: str, reason: str) -> LimitFile:
    """The same file with its limits placed anew from the samples in it, by the rule as it is now.

    For a rule that changed, or a file whose limits were changed by hand: golden, identity and samples stay.

    Raises:
        UnknownMetricError: a metric that no package here provides.
    """
    measures = {measure.name for measure in MEASURES}
    frames = [limit for limit in old.limits if limit.metric not in measures]
    probes = {limit.metric: limit.samples for limit in old.limits if limit.metric in measures}
    limits = place_limits([describe(limit.metric) for limit in frames], {one.metric: one.samples for one in frames})
    controls = control_results(limits)
    return old.model_copy(
        update={
            "limits": (*limits, *place_all(probes)),
            "controls": controls,
            "notes": notes(limits, controls),
            "author": author,
            "reason": reason or old.reason,
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
        }
    )


def _samples(proposal: Proposal, metric: str) -> list[Sample]:
    """What one metric said of every run, healthy, drawn and faulty."""
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
            run=one.label,
            side="faulty",
            clip=one.comparison.candidate_sha256,
            fault=one.fault,
            strength=one.strength,
        )
        for one in proposal.injected
        if (value := _value(one.comparison, metric)) is not None
    ]
    return samples


def _value(comparison: ComparisonEvidence, metric: str) -> float | None:
    found = comparison.get(metric)
    return None if found is None else found.gating_value
