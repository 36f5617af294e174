"""Rank the possible causes of a failure, and choose the experiments that are worth their time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import cast

from harness.judge.attribution import weights
from harness.judge.origin_rule import MOVED
from harness.records.attribution import Attribution, Cause, Experiment, ExperimentKind, ExperimentResult
from harness.records.base import Json
from harness.records.case_record import CaseRecord
from harness.records.generation import Expert
from harness.records.verdict import Finding

# Causes that trace, receipts, identity and inspection prove: these are facts, which are compared exactly.


FLOW_SHIFT = frozenset({"flow_shift", "shift"})
VAE_STATISTICS = frozenset({"latents_mean", "latents_std", "scaling_factor", "shift_factor"})
FOLLOWS: dict[str, frozenset[str]] = {
    "timestep": frozenset({"scheduler_settings", "step_count"}),
    "expert": frozenset({"scheduler_settings", "boundary_ratio", "timestep", "step_count"}),
    "attention_mask": frozenset({"text_tokens", "sequence_length"}),
    "text_tokens": frozenset({"sequence_length"}),
    "initial_latents": frozenset(),
    "guidance": frozenset({"texts_exchanged", "model_text", "not_finite", "velocity_kept"}),
    "velocity_changed": frozenset({"guidance", "not_finite"}),
    "text_embedding": frozenset({"texts_exchanged"}),
    "initial_noise": frozenset({"initial_latents"}),
    "sigmas": frozenset({"scheduler_settings", "step_count"}),
    "solver": frozenset({"scheduler_settings", "step_count", "sigmas", "timestep"}),
    "model_timestep": frozenset({"scheduler_settings", "step_count", "timestep"}),
    "model_latents": frozenset({"image_condition_differs"}),
    "vae_alone": frozenset({"vae_settings"}),
    "vae_input": frozenset({"vae_settings", "image_condition_differs"}),
}
"""Per code, the codes that can cause it. If one of them is found too, the difference is a consequence, no cause."""
VAE_EXPLAINS: dict[tuple[str, str], bool] = {
    ("image_condition_differs", "encoder"): False,
    ("image_condition_differs", "given"): True,
    ("precision_differs", "vae"): False,
}
"""Per code and place of a finding: true if the VAE's statistics of latents explain it, false if its other settings do,
the dtype among them. The VAE's encoder does not read the statistics; the image latents are normalized by them."""
IN_MEMORY = frozenset({"held_weights_differ"})
IDENTITY = frozenset({"request_differs", "hardware_differs"})


BY_LAYOUT = frozenset({"block_scale_zero", "row_corrupt", "two_conventions", "weights_unrelated"})
"""Faults that a wrong layout of block scales causes beside itself: a swizzled layout is padded with zeros, and a small
Linear whose padded scales were cut off fits the base under no reading."""


def inspected(record: CaseRecord) -> Iterator[Cause]:
    """Yield a cause per fault that the bytes prove; effects of a wrong layout of block scales come after it."""
    faults = record.inspection.faults if record.inspection is not None else ()
    swizzled = {fault.expert for fault in faults if fault.code == "scale_layout"}
    for fault in sorted(faults, key=lambda fault: fault.code in BY_LAYOUT and fault.expert in swizzled):
        place = "/".join(part for part in (fault.expert, fault.module) if part)
        yield Cause(code=fault.code, place=place, sentence=fault.message, evidence={"stage": "inspection"})


def identity(record: CaseRecord) -> Iterator[Cause]:
    """Yield a cause if the golden was made from another request or on other hardware."""
    for finding in record.verdict.findings:
        if finding.code in IDENTITY:
            yield _cause(finding.code, finding)


def moved(record: CaseRecord) -> Iterator[Cause]:
    """Yield a cause if weights or environment differ from the golden's and frames, trace or sanity fail."""
    for finding in record.verdict.findings:
        if finding.stage == "identity" and finding.code in MOVED and finding.gating:
            yield _cause(finding.code, finding, place=", ".join(sorted(finding.data)))


def receipts(record: CaseRecord) -> Iterator[Cause]:
    """Yield a cause per gating receipt finding: the quantized path did not run, or ran although bf16 was asked for."""
    for finding in record.verdict.findings:
        if finding.stage == "receipts" and finding.gating:
            yield _cause(finding.code, finding, place=str(finding.data.get("expert", "")))


def traced(record: CaseRecord) -> Iterator[Cause]:
    """Yield the settings that differ from the golden's. Consequences of another difference are left out (`FOLLOWS`)."""
    findings = [
        finding
        for finding in record.verdict.findings
        if finding.stage == "trace" and finding.gating and finding.code not in IN_MEMORY
    ]
    codes = {finding.code for finding in findings}
    settings = {name for finding in findings if finding.code == "vae_settings" for name in finding.data}
    for finding in findings:
        by_statistics = VAE_EXPLAINS.get((finding.code, str(finding.data.get("place", ""))))
        explaining = settings & VAE_STATISTICS if by_statistics else settings - VAE_STATISTICS
        if FOLLOWS.get(finding.code, frozenset()) & codes or (by_statistics is not None and explaining):
            continue
        if finding.code == "scheduler_settings":
            names = set(finding.data)
            yield _cause("flow_shift" if names & FLOW_SHIFT else "scheduler", finding, place=", ".join(sorted(names)))
        elif finding.code == "vae_settings":
            names = set(finding.data)
            if names & VAE_STATISTICS:
                yield _cause("vae_statistics", finding, place=", ".join(sorted(names & VAE_STATISTICS)))
            if "dtype" in names:
                yield _cause("vae_dtype", finding, place="dtype")
            if rest := names - VAE_STATISTICS - {"dtype"}:
                yield _cause("vae", finding, place=", ".join(sorted(rest)))
        else:
            step = finding.data.get("step")
            yield _cause(finding.code, finding, place="" if step is None else f"step {step}")


def input_scales(record: CaseRecord) -> Iterator[Cause]:
    """Yield a cause per finding of input scales that do not fit the inputs."""
    for finding in record.verdict.findings:
        if finding.code == "input_scale_off":
            yield _cause(finding.code, finding, place=str(finding.data.get("worst", "")))


def held_values(record: CaseRecord, named: Sequence[Cause]) -> Iterator[Cause]:
    """Yield the weights in memory that are not those of the golden's run, unless ``named`` causes name them all.

    A Linear or norm that was fed alone is named by its module and by how its bytes were read, which is closer to the
    cause than the list of tensors. A VAE in another dtype holds rounded weights: the dtype is the cause.
    """
    reported: set[str] = set()
    for finding in record.verdict.findings:
        component, tensors = str(finding.data.get("component")), finding.data.get("tensors")
        # probes and trace may both report a component
        if finding.code not in IN_MEMORY or not finding.gating or component in reported:
            continue
        reported.add(component)
        listed = [str(name) for name in tensors] if isinstance(tensors, list) else []
        modules = weights.kinds_of(named, component)
        unexplained = [name for name in listed if name.rpartition(".")[0] not in modules]
        if (listed and not unexplained) or (component == "vae" and _other_dtype(record)):
            continue
        yield _cause(finding.code, finding, place=f"{component}/{', '.join(unexplained[:3])}")


def _other_dtype(record: CaseRecord) -> bool:
    return any(finding.code == "vae_settings" and "dtype" in finding.data for finding in record.verdict.findings)


def _in_memory(record: CaseRecord, results: Results) -> Iterator[Cause]:
    """Yield the causes in weights that probes and memory prove: rounded tensors, then modules, then other tensors."""
    modules = [*weights.from_readings(record, results), *weights.norms(record)]
    causes = list(held_values(record, modules))
    # A cast changes every tensor a little, and only some modules visibly: the cast is the cause, the modules follow.
    yield from (cause for cause in causes if cause.evidence.get("rounded") is True)
    yield from modules
    yield from (cause for cause in causes if cause.evidence.get("rounded") is not True)


def _cause(code: str, finding: Finding, place: str = "") -> Cause:
    return Cause(code=code, place=place, sentence=finding.message, evidence=dict(finding.data))


# Causes on finished frames: a simple change of the golden's frames that results in the candidate's.


def comparable(record: CaseRecord) -> bool:
    """Return whether frames or sanity fail and the frames differ from those of a golden of the same shape."""
    failed = any(finding.stage in ("frames", "sanity") and finding.gating for finding in record.verdict.findings)
    compared = record.comparison is not None and not record.comparison.bit_exact
    return failed and compared and record.golden is not None


def explained(results: Sequence[ExperimentResult], *, decoder: bool = False) -> Iterator[Cause]:
    """Yield the change that explains the frames best, with its share of the error, and the runner-up.

    Args:
        results: results of the experiments made so far.
        decoder: true if no velocity differs, so that the change happened in the VAE or after it.
    """
    for result in results:
        rows = result.data.get("explanations")
        if result.experiment.kind != "frames" or not result.done or not isinstance(rows, list) or not rows:
            continue
        first, *others = [row for row in rows if isinstance(row, dict)]
        text = f"{first['sentence']}; explains {_percent(first['share'])} of the error in the frames"
        evidence: dict[str, Json] = {**first}
        if others:
            text += f" (next: {others[0]['code']}, {_percent(others[0]['share'])})"
            evidence["runner_up"] = others[0]
        if decoder:
            text += "; every velocity on the way is the golden's, so it happened in the VAE or after it"
        frames = first.get("frames")
        listed = frames if isinstance(frames, list) else []
        place = "frames " + ", ".join(str(frame) for frame in listed[:8]) if listed else ""
        yield Cause(code=str(first["code"]), place=place, sentence=text, evidence=evidence)


def _percent(share: Json) -> str:
    return f"{share:.0%}" if isinstance(share, int | float) else "?"


# Repeats of a failed run. Limits and distances measure noise; unequal bytes alone do not prove it.


LIKE_THE_FIRST = 0.5
"""Two failing runs show the same failure if their distance is at most this share of the distance to the golden."""


def ruled_out(result: ExperimentResult | None) -> bool:
    """Return whether a repeat rules noise out: it is bit-exact, or fails near the first run (`LIKE_THE_FIRST`)."""
    if result is None or not result.done:
        return False
    if result.data.get("equal") is True:
        return True
    return result.data.get("passes") is False and not _scattered(result)


def differs(result: ExperimentResult | None) -> bool:
    """Return whether a repeat has another result: another failure if it was judged, else other bytes."""
    if result is None or not result.done or result.data.get("equal") is not False:
        return False
    passes = result.data.get("passes")
    return passes is None or (passes is False and _scattered(result))


def unstable(results: Sequence[ExperimentResult]) -> Iterator[Cause]:
    """Yield a cause if the first run fails and a repeat passes: the verdict depends on chance."""
    for result in results:
        if result.experiment.kind == "rerun_same" and result.done and result.data.get("passes") is True:
            text = (
                "the run is unstable: the first run fails and a repeat of the same request passes"
                f" ({_distances(result)}); both clips are kept"
            )
            yield Cause(code="unstable", place="engine", sentence=text, evidence=dict(result.data))


def _scattered(result: ExperimentResult) -> bool:
    apart, away = result.data.get("rms_between"), result.data.get("rms_first")
    if not isinstance(apart, int | float) or not isinstance(away, int | float):
        return False
    return apart > LIKE_THE_FIRST * away


def _distances(result: ExperimentResult) -> str:
    values = [result.data.get(name) for name in ("rms_first", "rms_repeat")]
    first, repeat = (f"{value:.2f}" if isinstance(value, int | float) else "unknown" for value in values)
    return f"{first} and {repeat} levels rms from the golden"


Results = Sequence[ExperimentResult]
UNMOVED = 0.005
"""Largest relative error of velocities that count as equal. The frames' difference then comes from the decoder."""


def attribute(record: CaseRecord, results: Results) -> Attribution:
    """Return the cause of a failure, from its record and the experiments so far. Runs no engine and reads no file."""
    causes = list(_causes(record, results))
    if causes:
        first, *rest = causes
        also = tuple(cause for cause in rest if (cause.code, cause.place) != (first.code, first.place))
        more = f"; also {', '.join(cause.code for cause in also)}" if also else ""
        summary = first.sentence.rstrip(".") + more if more else first.sentence
        return Attribution(cause=first, also=also, ruled_out=_ruled_out(record, results), summary=summary)
    remaining, gone = _remaining(record, results), _ruled_out(record, results)
    text = f"no cause is proven; what remains: {', '.join(remaining) or 'nothing that is known'}"
    return Attribution(
        cause=None, remaining=remaining, ruled_out=gone, summary=text + (f" (not: {', '.join(gone)})" if gone else "")
    )


def next_experiments(record: CaseRecord, results: Results) -> tuple[Experiment, ...]:
    """Return the next experiments, cheapest first; empty if the cause is proven or no experiment is left."""
    finished = {(result.experiment.kind, result.experiment.expert, result.experiment.module) for result in results}
    readings = [
        Experiment(kind="readings", expert=cast("Expert", expert), module=module, why="off when fed alone")
        for expert, _, module in (name.partition("/") for name in weights.to_read(weights.off(record)))
    ]
    fresh = [
        experiment for experiment in readings if (experiment.kind, experiment.expert, experiment.module) not in finished
    ]
    if fresh:
        return tuple(fresh)
    if any(_proven(record, results)):
        return ()
    experiments: list[Experiment] = []
    if record.probe is not None and any(weights.first_divergence(record)):
        experiments.append(Experiment(kind="probe_again", why="do the same inputs give the same?"))
        if _equal(results, "probe_again"):
            experiments.append(Experiment(kind="base_probe", why="does the base diverge in this build too?"))
    elif record.generation is not None:
        if comparable(record):
            experiments.append(Experiment(kind="frames", why="does a simple change of the golden's frames give these?"))
            experiments.append(
                Experiment(kind="golden_latents", why="does the VAE give the golden's frames of its latents?")
            )
        experiments.append(Experiment(kind="rerun_same", why="does the same engine repeat itself?"))
        if ruled_out(_result(results, "rerun_same")) and not any(explained(results)):
            experiments.append(Experiment(kind="rerun_fresh", why="does a fresh process give the same?"))
            if record.probe is not None:
                experiments.append(
                    Experiment(kind="base_probe", why="does the base give in this build the outputs that it gave?")
                )
    return tuple(experiment for experiment in experiments if (experiment.kind, None, "") not in finished)


def _proven(record: CaseRecord, results: Results) -> Iterator[Cause]:
    yield from inspected(record)
    yield from identity(record)
    yield from receipts(record)
    yield from input_scales(record)
    yield from _in_memory(record, results)
    yield from moved(record)
    yield from traced(record)


def _causes(record: CaseRecord, results: Results) -> Iterator[Cause]:
    proven = list(_proven(record, results))
    # A wrong sampler setting moves no probe and a wrong weight changes no setting: if both differ, both are causes.
    yield from proven
    codes = {cause.code for cause in proven}
    if not codes & {cause.code for cause in inspected(record)}:
        yield from _unrepeatable(results)
        for cause in weights.first_divergence(record):
            yield _with_base(cause, results)
    if not proven:
        yield from unstable(results)
        yield from explained(results, decoder=_only_decoder(record))
        yield from _repeated(results)
        yield from _between_calls(record, results)
        yield from _decoded(record, results)


def _with_base(cause: Cause, results: Results) -> Cause:
    base_probe = next((result for result in results if result.experiment.kind == "base_probe" and result.done), None)
    if base_probe is None:
        return cause
    also = bool(base_probe.data.get("differs"))
    text = "the base diverges in this build too: code or environment" if also else "the base in this build does not"
    evidence = {**cause.evidence, "base_in_build": dict(base_probe.data)}
    return cause.model_copy(update={"sentence": f"{cause.sentence}; {text}", "evidence": evidence})


def _unrepeatable(results: Results) -> Iterator[Cause]:
    result = _result(results, "probe_again")
    if result is not None and result.data.get("equal") is False:
        text = "the same engine gives other outputs for the same recorded inputs: a race, or uninitialised memory"
        yield Cause(code="noise", place="engine", sentence=text, evidence=dict(result.data))


def _repeated(results: Results) -> Iterator[Cause]:
    for kind, code, text in (
        ("rerun_same", "noise", "the same engine gave another clip for the same request: the run is not repeatable"),
        ("rerun_fresh", "engine_state", "a fresh engine gives another clip than this one: something was left in it"),
    ):
        result = _result(results, cast("ExperimentKind", kind))
        if differs(result) and result is not None:
            yield Cause(code=code, place="engine", sentence=text, evidence=dict(result.data))


def _between_calls(record: CaseRecord, results: Results) -> Iterator[Cause]:
    """Yield a cause if the experts answer recorded inputs as the golden's do, and in the loop otherwise after a step.

    By then the trace has compared the scheduler, the guidance and the latents between the steps, and a repeat has ruled
    noise out. What is left is something that the experts keep from one call to the next.
    """
    step = next((item for item in record.verdict.findings if item.code == "first_diverging_step"), None)
    number = step.data.get("step") if step is not None else None
    alone = record.probe is not None and not any(item.stage == "probe" for item in record.verdict.findings)
    traced_wrong = any(item.stage == "trace" and item.gating for item in record.verdict.findings)
    if not isinstance(number, int) or number < 1 or not alone or traced_wrong or step is None:
        return
    trace = record.generation.trace if record.generation is not None else None
    # without these two nothing says that scheduler and latents between the steps are right
    compared = trace is not None and bool(trace.alone.scheduler) and trace.steps[-1].carried_error is not None
    if not compared or not ruled_out(_result(results, "rerun_same")):
        return
    expert = str(step.data.get("expert"))
    text = (
        f"{expert} answers recorded inputs as the golden's does, and in the loop it does not from denoising step "
        f"{number} on, with the golden's settings: results of earlier calls were kept (a cache), or blocks were skipped"
    )
    yield Cause(code="kept_between_calls", place=f"{expert}, step {number}", sentence=text, evidence=dict(step.data))


def _only_decoder(record: CaseRecord) -> bool:
    """Return whether every velocity equals the golden's within `UNMOVED`: only VAE or post-processing can differ."""
    drift = _trajectory_error(record)
    return drift is not None and drift <= UNMOVED


def _decoded(record: CaseRecord, results: Results) -> Iterator[Cause]:
    """Yield the VAE as cause: if it decodes the golden's own latents otherwise, or if the frames fail, no velocity
    differs and a repeat rules noise out.
    """
    share = vae_share(results)
    if share is not None and share >= VAE_AT_FAULT:
        data = dict(cast("ExperimentResult", _result(results, "golden_latents")).data)
        sentence = (
            f"fed alone with the golden's last latents, the VAE gives other frames ({data['rms_decoded']:.2f} levels "
            f"rms from the golden's, the run {data['rms_first']:.2f}): the VAE decodes otherwise"
        )
        yield Cause(code="decode", place="vae", sentence=sentence, evidence=data)
        return
    failed = any(finding.stage in ("frames", "sanity") and finding.gating for finding in record.verdict.findings)
    base = _result(results, "base_probe")
    repeated = ruled_out(_result(results, "rerun_same"))
    decoded_right = share is not None and share <= VAE_RIGHT
    if failed and _only_decoder(record) and repeated and record.golden is not None:
        build = {} if base is None else {"base_in_build": dict(base.data)}
        sentence = "every velocity on the way is the golden's, and the frames are not: the VAE decoded otherwise"
        if decoded_right:
            sentence = (
                "every velocity on the way is the golden's, and the VAE gives the golden's frames of its latents: the "
                "difference arises between the last step and the VAE, or after it"
            )
        yield Cause(code="decode", place="vae", sentence=sentence, evidence=build)


VAE_AT_FAULT, VAE_RIGHT = 0.5, 0.1
"""Distance of the golden's latents, decoded by this run's VAE, from the golden's frames, over the run's distance: from
the first on the VAE makes most of the difference, up to the second it makes none that matters."""


def vae_share(results: Results) -> float | None:
    """Return that ratio; ``None`` if the golden's latents were not decoded."""
    decoded = _result(results, "golden_latents")
    alone, run = (decoded.data.get(name) if decoded is not None else None for name in ("rms_decoded", "rms_first"))
    if not isinstance(alone, int | float) or not isinstance(run, int | float) or run <= 0:
        return None
    return alone / run


def _trajectory_error(record: CaseRecord) -> float | None:
    """Return the worst relative error of the velocities; ``None`` if a step diverged more than in healthy runs."""
    finding = next((row for row in record.verdict.findings if row.code == "trajectory_error"), None)
    value = None if finding is None else finding.data.get("error")
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
    step = next((finding for finding in record.verdict.findings if finding.code == "first_diverging_step"), None)
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
    if record.probe is not None and not any(finding.stage == "probe" for finding in record.verdict.findings):
        gone.append("single forward passes of the experts")
    share = vae_share(results)
    if share is not None and share <= VAE_RIGHT:
        gone.append("the VAE (fed alone with the golden's last latents)")
    if ruled_out(_result(results, "rerun_same")):
        gone.append("noise")
    if ruled_out(_result(results, "rerun_fresh")):
        gone.append("engine state")
    base = _result(results, "base_probe")
    if base is not None and base.data.get("differs") is False:
        gone.append("the base in this build")
    return tuple(gone)


def _result(results: Results, kind: ExperimentKind) -> ExperimentResult | None:
    return next((result for result in results if result.experiment.kind == kind and result.done), None)


def _equal(results: Results, kind: ExperimentKind) -> bool:
    result = _result(results, kind)
    return result is not None and result.data.get("equal") is True
