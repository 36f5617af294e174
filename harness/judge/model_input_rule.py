"""Check the inputs of the model, and the outputs of scheduler, VAE and rotary tables when each is fed alone.

Every value compared here is a fact of one call or the output for a fixed signal, so no chaotic drift grows in it. The
bounds are those of rounding and need no measured limits.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from harness.judge.precision import lowered
from harness.records.base import Json
from harness.records.generation import SCALE_ROUNDING, Step, Trace
from harness.records.verdict import Finding

TIMESTEP = 1e-3
"""Timesteps lie in [0, 1000]; a smaller difference than this counts as equal."""
CAST = 0.008
"""Relative error that a cast of latents or texts to bfloat16 explains four times over (about .0017)."""
UNTOUCHED = 1e-4
"""Relative error of latents that one stage passes to the next unchanged; a cast to bfloat16 between is about .0017."""
COMBINED = 0.02
"""Relative error of a velocity against the best combination of its predictions; in bfloat16 about .005."""
SIGMA = 1e-4
SOLVER = 2e-4
"""A scheduler's sums in float32, in any order, agree to about 1e-6; its state in bfloat16 moves them by 1e-3."""
ROPE = 1e-4
"""Rotary tables in float32 and float64 agree to about 1e-7; tables in bfloat16 are about .0016 off."""
VAE = {"float32": 2e-3, "": 1e-2}
"""Relative error per dtype of the decoder: float32 on the same class of device, channels last or not; any other."""
ATTENTION = 0.01
"""Relative error of a self-attention's result, whose probabilities and values were rounded to bfloat16: about .003."""
ROUNDED = 0.0025
"""The same with probabilities and values in bfloat16 and sums in float32 is .0017 to .0022 for any number of keys; with
sums in bfloat16, or queries and keys in 8 bits, it is .0027 and more."""
BIAS = 0.25
"""8-bit levels: rounding has a mean of 0, truncation of -0.5."""
BROKEN = 1e300
"""Stands for NaN and infinity in a trace."""


def first_not_finite(trace: Trace) -> int | None:
    """Return the index of the first step with a value that is not finite, or ``None``."""
    return next((step.index for step in trace.steps if _place_of_nan(step)), None)


def judge_received(run: Trace, reference: Trace) -> Iterator[Finding]:
    """Yield a finding if an expert, the scheduler or the VAE was given other values than the step before produced.

    The golden of an older version lacks these records; the run is then compared with its own trace only.
    """
    yield from _not_finite(run)
    yield from _initial(run, reference)
    yield from _calls(run, reference)
    yield from _velocities(run, reference)
    yield from _carried(run, reference)
    error, usual = run.vae_input_error, reference.vae_input_error
    # the golden's own error is rounding, and twice as much may still be
    if error is not None and error > max(CAST, 2 * (usual or 0.0)):
        message = f"the VAE was fed other latents than the last step made, {error:.3g} off after its own statistics"
        yield trace_finding("vae_input", message, {"error": error, "golden": usual})
    bias, golden_bias = run.rounding_bias, reference.rounding_bias
    if bias is not None and abs(bias - (golden_bias or 0.0)) > BIAS:
        how = "truncated" if bias < 0 else "raised"
        message = f"decoded values are {how} and not rounded to 8 bits: {bias:+.2f} levels on average"
        yield trace_finding("rounding", message, {"run": bias, "golden": golden_bias})


def judge_alone(run: Trace, reference: Trace) -> Iterator[Finding]:
    """Yield a finding per component whose output differs from the golden's: scheduler, VAE, rotary tables, scale.

    Dtypes of VAE and text encoder are compared too.
    """
    alone, golden = run.alone, reference.alone
    yield from _sigmas(run, reference)
    yield from _solver(run, reference)
    for expert in sorted(alone.rope.keys() & golden.rope.keys()):
        error = distance(alone.rope[expert], golden.rope[expert])
        if error is not None and error > ROPE:
            low = " (as if rounded to 16 bits)" if error < CAST else ""
            message = f"the rotary tables (RoPE) of {expert} are {error:.3g} off the golden's{low}"
            code = "precision_differs" if low else "rope"
            yield trace_finding(code, message, {"expert": expert, "error": error, "place": "RoPE"})
    for expert, scale in sorted(run.attention_scale.items()):
        golden_scale = reference.attention_scale.get(expert, 1.0)
        if abs(scale / golden_scale - 1.0) > SCALE_ROUNDING:
            message = (
                f"attention scores of {expert} are scaled by {scale:.4g} times 1/sqrt(d), {golden_scale:.4g} expected"
            )
            yield trace_finding("attention_scale", message, {"expert": expert, "run": scale, "golden": golden_scale})
    for expert, error in sorted(run.attention_error.items()):
        usual = reference.attention_error.get(expert)
        # another scale changes the result as well, and the loop above has reported it as the cause
        scaled = abs(run.attention_scale.get(expert, 1.0) - 1.0) > SCALE_ROUNDING
        if usual is None or scaled:
            continue
        result = (
            f"self-attention of {expert} gives another result than its query, key and value make: {error:.3g} off, "
        )
        if error > max(ATTENTION, 3 * usual):
            message = f"{result}in the golden {usual:.3g} (mask, window, a lost key, or lower precision)"
            yield trace_finding("attention_result", message, {"expert": expert, "error": error, "golden": usual})
        elif error > max(ROUNDED, 1.5 * usual):
            message = f"{result}in the golden {usual:.3g}: attention is summed or stored in fewer bits"
            data: dict[str, Json] = {"expert": expert, "error": error, "golden": usual, "place": "attention"}
            yield trace_finding("precision_differs", message, data)
    kind = str(reference.vae.get("dtype", "")).removeprefix("torch.")
    error = distance(alone.vae, golden.vae)
    if error is not None and error > VAE.get(kind, VAE[""]):
        message = f"the VAE itself decodes otherwise: fed alone with a fixed latent, {error:.3g} off the golden's"
        yield trace_finding("vae_alone", message, {"error": error})
    for part, name in (("vae", "the VAE"), ("text_encoder", "the text encoder")):
        sentences = tuple(lowered(golden.dtypes.get(part, {}), alone.dtypes.get(part, {})))
        if sentences:
            message = f"another precision than the golden's in {name}: {'; '.join(sentences[:3])}"
            yield trace_finding("precision_differs", message, {"place": part, "lowered": list(sentences)})
    if alone.scheduler and not golden.scheduler:
        message = "this golden is of an older version: it does not record how scheduler, VAE and RoPE answer alone"
        yield Finding(stage="trace", code="not_recorded", gating=False, message=message)


def _solver(run: Trace, reference: Trace) -> Iterator[Finding]:
    """Compare the scheduler fed alone: lower precision is a little off at each step, another solver by more."""
    pairs = zip(run.alone.scheduler, reference.alone.scheduler, strict=False)
    errors = [distance(row, other) or 0.0 for row, other in pairs]
    first = next((index for index, error in enumerate(errors) if error > SOLVER), None)
    if first is None:
        return
    data: dict[str, Json] = {"step": first, "error": errors[first]}
    # If the noise levels moved, they are the cause, and the small error is no rounding.
    if max(errors) < CAST and not any(_sigmas(run, reference)):
        message = f"the scheduler computes as if rounded to 16 bits: fed alone, {max(errors):.3g} off the golden's"
        yield trace_finding("precision_differs", message, {**data, "place": "scheduler state"})
        return
    message = (
        f"the scheduler itself (order, corrector, state) computes otherwise from step {first} on: "
        f"fed alone, {errors[first]:.3g} off the golden's"
    )
    yield trace_finding("solver", message, data)


def distance(values: Sequence[float], reference: Sequence[float]) -> float | None:
    """Return the relative L2 distance of two sketches; ``None`` if one is absent or their lengths differ."""
    if not values or len(values) != len(reference):
        return None
    length = math.hypot(*reference)
    apart = math.hypot(*(value - other for value, other in zip(values, reference, strict=True)))
    return apart / length if length else float(apart > 0)


def _not_finite(run: Trace) -> Iterator[Finding]:
    if any(abs(value) >= BROKEN for value in run.text_embedding_sketch):
        yield trace_finding("not_finite", "NaN or infinity first appears in the text embedding", {"place": "text"})
        return
    for step in run.steps:
        if place := _place_of_nan(step):
            message = f"NaN or infinity first appears at denoising step {step.index}, in the {place}"
            yield trace_finding("not_finite", message, {"step": step.index, "place": place, "expert": step.expert})
            return


def _place_of_nan(step: Step) -> str:
    """Return the first place of a step, in order of execution, whose values are not finite; empty if all are."""
    if any((call.latents_error or 0.0) >= BROKEN for call in step.calls):
        return f"latents that {step.expert} was given"
    if any((call.text_error or 0.0) >= BROKEN for call in step.calls):
        return f"text that {step.expert} was given"
    if any(abs(value) >= BROKEN for value in step.velocity_sketch):
        return f"prediction of {step.expert}"
    return "latents after the scheduler's step" if step.latent_norm >= BROKEN else ""


def _initial(run: Trace, reference: Trace) -> Iterator[Finding]:
    if run.repeated_frames > reference.repeated_frames:
        message = f"the initial noise repeats itself: {run.repeated_frames} latent frames equal the frame before"
        yield trace_finding("initial_noise", message, {"run": run.repeated_frames, "golden": reference.repeated_frames})
    first = run.steps[0] if run.steps else None
    usual = reference.steps[0].carried_error if reference.steps else None
    # `_not_finite` has named the place of NaN
    if first is None or first.carried_error is None or first.carried_error >= BROKEN:
        return
    if first.carried_error > max(UNTOUCHED, 2 * (usual or 0.0)):
        gain, error = first.carried_gain, first.carried_error
        if error < CAST:
            message = f"the initial latents were rounded inside the pipeline ({error:.3g} off)"
            yield trace_finding("precision_differs", message, {"place": "initial latents", "error": error})
            return
        how = _scaled(gain, error)
        message = f"the initial noise was {how} inside the pipeline before the first step ({error:.3g} off)"
        yield trace_finding("initial_noise", message, {"error": error, "gain": gain, "golden": usual})


def _scaled(gain: float | None, error: float) -> str:
    pure = gain is not None and abs(abs(gain - 1.0) - error) < 0.1 * error
    return f"multiplied by {gain:.4g}" if pure else "changed"


def _carried(run: Trace, reference: Trace) -> Iterator[Finding]:
    usual = {step.index: step.carried_error or 0.0 for step in reference.steps}
    for step in run.steps[1:]:
        error = step.carried_error
        if error is None or error >= BROKEN or error <= max(UNTOUCHED, 2 * usual.get(step.index, 0.0)):
            continue
        data: dict[str, Json] = {"step": step.index, "error": error, "gain": step.carried_gain}
        if error < CAST:
            message = f"latents are rounded between steps: at step {step.index} they are {error:.3g} off what was made"
            yield trace_finding("precision_differs", message, {**data, "place": "latents between steps"})
        else:
            how = _scaled(step.carried_gain, error)
            message = f"latents are {how} between steps {step.index - 1} and {step.index} ({error:.3g} off)"
            yield trace_finding("latents_between_steps", message, data)
        return


def _velocities(run: Trace, reference: Trace) -> Iterator[Finding]:
    """Yield the first step whose velocity this step's predictions do not make: kept from another step, or changed."""
    golden_steps = {step.index: step for step in reference.steps}
    for step in run.steps:
        other = golden_steps.get(step.index)
        if other is None or (other.velocity_error is None and other.velocity_of is None):
            continue  # the golden's predictions were not recorded, or its own velocities cannot be told either
        error, usual = step.velocity_error, other.velocity_error or 0.0
        if step.velocity_of is not None and other.velocity_of is None:
            message = (
                f"the velocity of denoising step {step.index} was kept from step {step.velocity_of} (a step cache): "
                "the predictions of that step make it, and those of its own do not"
            )
            yield trace_finding(
                "velocity_kept", message, {"step": step.index, "from": step.velocity_of, "error": error}
            )
            return
        if error is None and not step.calls and other.calls:
            message = (
                f"at denoising step {step.index} no expert was called, and no earlier predictions make its velocity"
            )
            yield trace_finding("velocity_changed", message, {"step": step.index})
            return
        if error is not None and error > max(COMBINED, 3 * usual):
            message = (
                f"the velocity of denoising step {step.index} is {error:.3g} off every guidance of its predictions: "
                "it was rescaled or changed between the experts and the scheduler"
            )
            yield trace_finding("velocity_changed", message, {"step": step.index, "error": error, "golden": usual})
            return


def _calls(run: Trace, reference: Trace) -> Iterator[Finding]:
    """Check the inputs of each pass. Yields the first wrong step per code; later ones follow from it."""
    yield from _exchanged(run, reference)
    reported: set[str] = set()
    for step, golden in zip(run.steps, reference.steps, strict=False):
        for finding in (*_timestep(step, golden), *_text(step, golden), *_latents(step, golden)):
            if finding.code not in reported:
                reported.add(finding.code)
                yield finding


def _timestep(step: Step, golden: Step) -> Iterator[Finding]:
    golden_timesteps = sorted({call.timestep for call in golden.calls if call.timestep is not None}) or [step.timestep]
    for call in step.calls:
        timestep = call.timestep
        if timestep is not None and min(abs(timestep - value) for value in golden_timesteps) > TIMESTEP:
            expected = golden_timesteps[0]
            message = (
                f"at denoising step {step.index} {step.expert} was given timestep {timestep:g}, {expected:g} expected"
            )
            yield trace_finding("model_timestep", message, {"step": step.index, "run": timestep, "golden": expected})
            return


def _text(step: Step, golden: Step) -> Iterator[Finding]:
    allowed = max([CAST, *(2 * (call.text_error or 0.0) for call in golden.calls)])
    for call in step.calls:
        if call.text_error is not None and allowed < call.text_error < BROKEN:
            message = (
                f"at denoising step {step.index} {step.expert} was given a text that the encoder did not make, "
                f"{call.text_error:.3g} off its {call.text} embedding"
            )
            yield trace_finding("model_text", message, {"step": step.index, "error": call.text_error})
            return
    texts, golden_texts = ({call.text for call in side.calls if call.text} for side in (step, golden))
    if len(step.calls) == len(golden.calls) and golden_texts and texts and texts != golden_texts:
        message = (
            f"at denoising step {step.index} the passes of {step.expert} were given "
            f"{' and '.join(sorted(texts))} text, in the golden {' and '.join(sorted(golden_texts))}"
        )
        yield trace_finding(
            "model_text",
            message,
            {"step": step.index, "run": " ".join(sorted(texts)), "golden": " ".join(sorted(golden_texts))},
        )


def _latents(step: Step, golden: Step) -> Iterator[Finding]:
    allowed = max([CAST, *(2 * (call.latents_error or 0.0) for call in golden.calls)])
    for call in step.calls:
        if call.latents_error is not None and allowed < call.latents_error < BROKEN:
            how = _scaled(call.latents_gain, call.latents_error)
            message = (
                f"at denoising step {step.index} {step.expert} was given latents that were {how}: "
                f"{call.latents_error:.3g} off those that the scheduler holds"
            )
            yield trace_finding("model_latents", message, {"step": step.index, "error": call.latents_error})
            return


def _exchanged(run: Trace, reference: Trace) -> Iterator[Finding]:
    """Yield a finding if prompt and negative prompt are exchanged, in the encoder's output or in the two passes."""
    alone, golden = run.alone, reference.alone
    crossed = (distance(alone.prompt, golden.negative), distance(alone.negative, golden.prompt))
    straight = distance(alone.prompt, golden.prompt)
    if straight is not None and all(error is not None and error < min(0.1, straight / 2) for error in crossed):
        yield trace_finding("texts_exchanged", "the embeddings of prompt and negative prompt are exchanged", {})
        return
    for step, other in zip(run.steps, reference.steps, strict=False):
        applied, golden_guidance = step.guidance_measured, other.guidance_measured
        # An exchange turns a scale g into 1 - g. Near 0.5 both are alike, so such a step decides nothing.
        if applied is None or golden_guidance is None or abs(golden_guidance - 0.5) < 0.1:
            continue
        if abs(applied - (1.0 - golden_guidance)) < 0.05 and {call.text for call in step.calls} == {
            "prompt",
            "negative",
        }:
            message = f"the texts of the two guidance passes are exchanged from denoising step {step.index} on"
            yield trace_finding(
                "texts_exchanged", message, {"step": step.index, "run": applied, "golden": golden_guidance}
            )
            return


def _sigmas(run: Trace, reference: Trace) -> Iterator[Finding]:
    pairs = list(zip(run.sigmas, reference.sigmas, strict=False))
    moved = next((row for row, (sigma, other) in enumerate(pairs) if abs(sigma - other) > SIGMA), None)
    if moved is not None:
        sigma, other = pairs[moved]
        message = (
            f"the scheduler's noise levels (sigmas) differ from number {moved} on: {sigma:.5g}, golden {other:.5g}"
        )
        yield trace_finding("sigmas", message, {"index": moved, "run": sigma, "golden": other})


def trace_finding(code: str, message: str, data: dict[str, Json]) -> Finding:
    """Return a gating finding of the stage ``trace``."""
    return Finding(stage="trace", code=code, gating=True, message=message, data=data)
