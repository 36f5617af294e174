"""The order in which causes are believed, and which experiments are worth their time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import cast

from harness.judge.attribution import clip, repeats, settings, weights
from harness.records.attribution import Attribution, Cause, Experiment, ExperimentKind, ExperimentResult
from harness.records.case_record import CaseRecord
from harness.records.generation import Expert

Results = Sequence[ExperimentResult]
UNMOVED = 0.005
"""Worst relative error of velocities that did not move: then what differs in the frames comes from the decoder."""


def attribute(record: CaseRecord, results: Results) -> Attribution:
    """Name the cause of a failure from its record and the experiments that were made; runs nothing, reads nothing."""
    causes = list(_causes(record, results))
    if causes:
        first, *rest = causes
        also = tuple(cause for cause in rest if (cause.code, cause.where) != (first.code, first.where))
        more = f"; also {', '.join(cause.code for cause in also)}" if also else ""
        summary = first.sentence.rstrip(".") + more if more else first.sentence
        return Attribution(cause=first, also=also, ruled_out=_ruled_out(record, results), summary=summary)
    remaining, gone = _remaining(record, results), _ruled_out(record, results)
    text = f"no cause is proven; what remains: {', '.join(remaining) or 'nothing that is known'}"
    return Attribution(
        cause=None, remaining=remaining, ruled_out=gone, summary=text + (f" (not: {', '.join(gone)})" if gone else "")
    )


def next_experiments(record: CaseRecord, results: Results) -> tuple[Experiment, ...]:
    """What to find out next, cheapest first; empty where the cause is proven or nothing more can be learned."""
    done = {(result.experiment.kind, result.experiment.expert, result.experiment.module) for result in results}
    readings = [
        Experiment(kind="readings", expert=cast("Expert", expert), module=module, why="off when fed alone")
        for expert, _, module in (name.partition("/") for name in weights.to_read(weights.off(record)))
    ]
    fresh = [one for one in readings if (one.kind, one.expert, one.module) not in done]
    if fresh:
        return tuple(fresh)
    if any(_proven(record, results)):
        return ()
    wanted: list[Experiment] = []
    if record.probe is not None and any(weights.first_divergence(record)):
        wanted.append(Experiment(kind="probe_again", why="do the same inputs give the same?"))
        if _equal(results, "probe_again"):
            wanted.append(Experiment(kind="base_probe", why="does the base diverge in this build too?"))
    elif record.generation is not None:
        if clip.comparable(record):
            wanted.append(Experiment(kind="frames", why="does a simple change of the golden's frames give these?"))
        wanted.append(Experiment(kind="rerun_same", why="does the same engine repeat itself?"))
        if repeats.ruled_out(_result(results, "rerun_same")) and not any(clip.explained(results)):
            wanted.append(Experiment(kind="rerun_fresh", why="does a fresh process give the same?"))
            if record.probe is not None:
                wanted.append(Experiment(kind="base_probe", why="is the base in this build what it was?"))
    return tuple(one for one in wanted if (one.kind, None, "") not in done)


def _proven(record: CaseRecord, results: Results) -> Iterator[Cause]:
    yield from settings.inspected(record)
    yield from settings.identity(record)
    yield from settings.receipts(record)
    yield from weights.from_readings(record, results)
    yield from weights.norms(record)
    yield from settings.moved(record)
    yield from settings.traced(record)


def _causes(record: CaseRecord, results: Results) -> Iterator[Cause]:
    proven = list(_proven(record, results))
    # A wrong sampler setting moves no probe and a wrong weight no setting: where both are there, both are causes.
    yield from proven
    codes = {cause.code for cause in proven}
    if not codes & {cause.code for cause in settings.inspected(record)}:
        yield from _unrepeatable(results)
        for cause in weights.first_divergence(record):
            yield _with_base(cause, results)
    if not proven:
        yield from repeats.unstable(results)
        yield from clip.explained(results, decoder=_only_decoder(record))
        yield from _repeated(results)
        yield from _decoded(record, results)


def _with_base(cause: Cause, results: Results) -> Cause:
    found = next((one for one in results if one.experiment.kind == "base_probe" and one.done), None)
    if found is None:
        return cause
    also = bool(found.data.get("differs"))
    text = "the base diverges in this build too: code or environment" if also else "the base in this build does not"
    evidence = {**cause.evidence, "base_in_build": dict(found.data)}
    return cause.model_copy(update={"sentence": f"{cause.sentence}; {text}", "evidence": evidence})


def _unrepeatable(results: Results) -> Iterator[Cause]:
    result = _result(results, "probe_again")
    if result is not None and result.data.get("equal") is False:
        text = "the same engine answers the same recorded inputs otherwise: a race, or memory that nobody wrote"
        yield Cause(code="noise", where="engine", sentence=text, evidence=dict(result.data))


def _repeated(results: Results) -> Iterator[Cause]:
    for kind, code, text in (
        ("rerun_same", "noise", "the same engine gave another clip for the same request: the run is not repeatable"),
        ("rerun_fresh", "engine_state", "a fresh engine gives another clip than this one: something was left in it"),
    ):
        result = _result(results, cast("ExperimentKind", kind))
        if repeats.differs(result) and result is not None:
            yield Cause(code=code, where="engine", sentence=text, evidence=dict(result.data))


def _only_decoder(record: CaseRecord) -> bool:
    """Whether every velocity on the way is the golden's, so that only VAE and post-processing can have failed."""
    drift = _trajectory_error(record)
    return drift is not None and drift <= UNMOVED


def _decoded(record: CaseRecord, results: Results) -> Iterator[Cause]:
    """Frames differ, and no velocity on the way did: what is left is the decoder."""
    failed = any(finding.stage in ("frames", "sanity") and finding.gating for finding in record.verdict.findings)
    base = _result(results, "base_probe")
    repeated = repeats.ruled_out(_result(results, "rerun_same"))
    if failed and _only_decoder(record) and repeated and record.golden is not None:
        build = {} if base is None else {"base_in_build": dict(base.data)}
        sentence = "every velocity on the way is the golden's, and the frames are not: the VAE decoded otherwise"
        yield Cause(code="decode", where="vae", sentence=sentence, evidence=build)


def _trajectory_error(record: CaseRecord) -> float | None:
    """Worst relative error of a velocity on the way, where none was further off than in healthy runs."""
    found = next((one for one in record.verdict.findings if one.code == "trajectory_error"), None)
    value = None if found is None else found.data.get("error")
    return float(value) if isinstance(value, int | float) else None


def _remaining(record: CaseRecord, results: Results) -> tuple[str, ...]:
    rest = []
    if record.probe is None:
        rest.append("weights or kernels (no probes were recorded)")
    if record.generation is None:
        rest.append("settings (the generation was not run)")
    if _result(results, "rerun_same") is None:
        rest.append("noise (no time to run again)")
    elif _result(results, "rerun_fresh") is None:
        rest.append("state left in the engine")
    base = _result(results, "base_probe")
    if base is None:
        rest.append("code or environment (the base was not run)")
    elif base.data.get("differs"):
        rest.append("code or environment (the base diverges in this build too)")
    step = next((one for one in record.verdict.findings if one.code == "first_diverging_step"), None)
    if step is not None:
        rest.append(f"sampler, from step {step.data.get('step')} on")
    drift = _trajectory_error(record)
    if drift is not None and drift > UNMOVED:
        rest.append(f"numerical drift (velocities within {drift:.2g}, as in healthy runs), or the VAE")
    changed = sorted(change.field for change in record.changes)
    if changed:
        rest.append("what changed since the golden: " + ", ".join(changed[:6]))
    return tuple(rest)


def _ruled_out(record: CaseRecord, results: Results) -> tuple[str, ...]:
    gone = []
    if weights.proven_bytes(record):
        gone.append("the bytes of the checkpoint")
    if record.probe is not None and not any(one.stage == "probe" for one in record.verdict.findings):
        gone.append("single forward passes of the experts")
    if repeats.ruled_out(_result(results, "rerun_same")):
        gone.append("noise")
    if repeats.ruled_out(_result(results, "rerun_fresh")):
        gone.append("engine state")
    base = _result(results, "base_probe")
    if base is not None and base.data.get("differs") is False:
        gone.append("the base in this build")
    return tuple(gone)


def _result(results: Results, kind: ExperimentKind) -> ExperimentResult | None:
    return next((one for one in results if one.experiment.kind == kind and one.done), None)


def _equal(results: Results, kind: ExperimentKind) -> bool:
    found = _result(results, kind)
    return found is not None and found.data.get("equal") is True
