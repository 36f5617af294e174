"""Compare the trace of a generation with the golden's: settings and facts per step, which need no pixels."""

from __future__ import annotations

from collections.abc import Iterator

from harness.inspector.class_defaults import unread_keys
from harness.judge.condition_rule import judge_condition
from harness.judge.evidence import Evidence
from harness.judge.held_rule import judge_held
from harness.judge.model_input_rule import first_not_finite, judge_alone, judge_received, trace_finding
from harness.judge.origin_rule import same_origin
from harness.limits.probes import STEP, TEXT, step_errors, text_error, tolerance
from harness.records.base import Json
from harness.records.generation import Step, Trace
from harness.records.verdict import Finding

TIMESTEP_TOLERANCE = 1e-3
"""Timesteps lie in [0, 1000], and schedulers compute them in float32 or float64; a smaller difference is none."""
GUIDANCE_TOLERANCE = 0.05
"""The measured scale is a least-squares fit over predictions that were rounded to the compute dtype."""


def judge_trace(evidence: Evidence) -> Iterator[Finding]:
    """Yield a finding per difference from the golden's trace: settings, text, image, steps, initial latents."""
    golden = evidence.golden
    if evidence.generation is None or golden is None or golden.trace is None:
        return
    run, reference = evidence.generation.trace, golden.trace
    # Settings come before the steps that they change: the first finding names the cause, later ones follow from it.
    yield from _settings("scheduler", run.scheduler, reference.scheduler)
    if run.boundary_ratio != reference.boundary_ratio:
        message = (
            f"experts switch at {run.boundary_ratio} of the noise range, in the golden at {reference.boundary_ratio}"
        )
        data: dict[str, Json] = {"golden": reference.boundary_ratio, "run": run.boundary_ratio}
        yield trace_finding("boundary_ratio", message, data)
    yield from _text(run, reference, evidence)
    if same_origin(evidence):
        yield from judge_held(run, reference)
    yield from judge_condition(run, reference)
    yield from judge_received(run, reference)
    yield from judge_alone(run, reference)
    yield from _steps(run, reference)
    yield from _settings("vae", run.vae, reference.vae)
    yield from _divergence(run, reference, evidence)
    if run.initial_latents_sha256 != reference.initial_latents_sha256:
        yield trace_finding(
            "initial_latents",
            "the initial latents are other bytes than the golden's, under the same seed",
            {"golden": reference.initial_latents_sha256, "run": run.initial_latents_sha256},
        )


def _steps(run: Trace, reference: Trace) -> Iterator[Finding]:
    if len(run.steps) != len(reference.steps):
        message = f"{len(run.steps)} denoising steps ran, the golden has {len(reference.steps)}"
        yield trace_finding("step_count", message, {"golden": len(reference.steps), "run": len(run.steps)})
        return
    pairs = list(zip(run.steps, reference.steps, strict=True))
    # A guidance solved from NaN is meaningless, so later steps are left out; `not_finite` names the place.
    broken = first_not_finite(run)
    yield from _guidance(pairs[:broken] if broken is not None else pairs)
    for code, name in (("timestep", "timestep"), ("expert", "expert"), ("guidance", "guidance_scale")):
        first = next((pair for pair in pairs if not _same(*pair, name)), None)
        if first is not None:
            value, usual = getattr(first[0], name), getattr(first[1], name)
            message = f"from denoising step {first[0].index} on, {name} is {value} where the golden has {usual}"
            yield trace_finding(code, message, {"step": first[0].index, "golden": usual, "run": value})


def _same(step: Step, reference: Step, name: str) -> bool:
    value, usual = getattr(step, name), getattr(reference, name)
    if isinstance(value, float):
        return bool(abs(value - usual) <= TIMESTEP_TOLERANCE)
    return bool(value == usual)


def _guidance(pairs: list[tuple[Step, Step]]) -> Iterator[Finding]:
    """Yield a finding at the first step whose measured guidance scale differs from the golden's.

    The measured scale is solved from the predictions, so it shows the applied scale even if the stated one is equal.
    """
    for step, golden_step in pairs:
        measured, golden_guidance = step.guidance_measured, golden_step.guidance_measured
        if measured is None and golden_guidance is None:
            continue
        if measured is None or golden_guidance is None or abs(measured - golden_guidance) > GUIDANCE_TOLERANCE:
            message = (
                f"at denoising step {step.index} guidance was applied with {measured}, "
                f"in the golden with {golden_guidance}"
            )
            yield trace_finding("guidance", message, {"step": step.index, "golden": golden_guidance, "run": measured})
            return


TEXT_FACTS = (
    ("length", "sequence_length", "tokens in the text embedding"),
    ("tokens", "text_tokens", "what the tokenizer made of the prompt"),
    ("mask", "attention_mask", "attention mask of the text encoder"),
    ("dtype", "text_dtype", "dtype of the text embedding"),
)


def _text(run: Trace, reference: Trace, evidence: Evidence) -> Iterator[Finding]:
    """Yield findings on the text: exact facts first, then the embedding, compared with the limit of healthy runs."""
    differs = False
    for name, code, meaning in TEXT_FACTS:
        value, usual = run.text.get(name), reference.text.get(name)
        if usual is not None and value != usual:
            differs = True
            yield trace_finding(code, f"{meaning}: {value}, in the golden {usual}", {"golden": usual, "run": value})
    limits = evidence.golden.limits if evidence.golden is not None else None
    limit = limits.get(TEXT.name) if limits is not None else None
    error = text_error(run, reference)
    if not differs and limit is not None and error is not None and not limit.admits(error):
        message = f"the text embedding is {error:.3g} off the golden's, of the same tokens (limit {limit.limit:.3g})"
        yield trace_finding("text_embedding", message, {"error": error, "limit": limit.limit})


def _divergence(run: Trace, reference: Trace, evidence: Evidence) -> Iterator[Finding]:
    """Yield the first step whose velocity is further from the golden's than in healthy runs. It never gates.

    If no step is and the clip is not bit-exact, yield the worst error, which attribution needs.
    """
    limits = evidence.golden.limits if evidence.golden is not None else None
    limit = limits.get(STEP.name) if limits is not None else None
    errors = step_errors(run, reference)
    if limit is None or not errors:
        return
    bound = tolerance(limit, STEP)
    for step, error in zip(run.steps, errors, strict=False):
        if error > bound:
            message = f"{step.expert} first diverges at denoising step {step.index}: its velocity is {error:.3g} off"
            data: dict[str, Json] = {"step": step.index, "expert": step.expert, "error": error, "tolerance": bound}
            yield Finding(stage="trace", code="first_diverging_step", gating=False, message=message, data=data)
            return
    if evidence.comparison is not None and not evidence.comparison.bit_exact:
        worst = max(errors)
        message = f"every velocity is within {worst:.3g} of the golden's, as in healthy runs (up to {bound:.3g})"
        details: dict[str, Json] = {"error": worst, "tolerance": bound}
        yield Finding(stage="trace", code="trajectory_error", gating=False, message=message, data=details)


RECORDED = frozenset({"class", "dtype"})
"""Keys of a component that the trace adds to its configuration."""


def _settings(part: str, run: dict[str, Json], reference: dict[str, Json]) -> Iterator[Finding]:
    # a configuration of another version may hold keys that its class takes no value from
    sides = (run, reference) if part == "vae" else ()
    unread = {key for side in sides for key in unread_keys({"_class_name": side.get("class"), **side})} - RECORDED
    names = sorted(
        name
        for name in run.keys() | reference.keys()
        if not name.startswith("_") and run.get(name) != reference.get(name) and name not in unread
    )
    if names:
        rows = ", ".join(f"{name} {reference.get(name)!r} -> {run.get(name)!r}" for name in names[:5])
        yield trace_finding(
            f"{part}_settings",
            f"the {part} is set otherwise than the golden's: {rows}",
            {name: {"golden": reference.get(name), "run": run.get(name)} for name in names},
        )
