"""Check that the request's image reached the model: facts of one generation per stage, and the VAE's encoding.

Bounds are those of rounding, as in `model_input_rule`: each stage is compared with the output of the stage before.
"""

from __future__ import annotations

from collections.abc import Iterator

from harness.judge.model_input_rule import BROKEN, CAST, VAE, distance
from harness.records.base import Json
from harness.records.generation import Condition, Trace
from harness.records.verdict import Finding

CODE = "image_condition_differs"
GIVEN = 0.012
"""Relative error of the conditioning against the golden's. One unit in the last place of bfloat16, added to every value
in the same direction, is .0087 on a GPU."""
GREY = 1e-3
"""Largest root mean square of frames that must be grey; pixel values have a range of 2."""


def judge_condition(run: Trace, reference: Trace) -> Iterator[Finding]:
    """Yield a finding per stage (pixels, mask, latents, encoder) that differs from the image of the request.

    A run without a record of its conditioning fails only if the golden has one.
    """
    condition, golden = run.condition, reference.condition
    if condition is None:
        if golden is not None:
            yield _finding("lost", "the image is lost: this run was conditioned on none, the golden on one", {})
        return
    findings = [*_pixels(condition), *_mask(condition), *_latents(condition), *_drift(condition)]
    yield from findings
    if not findings and golden is not None:
        yield from _against(condition, golden, str(reference.vae.get("dtype", "")))


def _pixels(condition: Condition) -> Iterator[Finding]:
    if not condition.encoded:
        yield _finding("lost", "the image is lost: the VAE's encoder was never given it", {})
        return
    for role, error in sorted(condition.pixels_error.items()):
        if error > CAST:
            name = "first" if role == "image" else "last"
            cause = condition.pixels_cause.get(role, "")
            message = (
                f"the {name} frame that was encoded is {_off(error)} the request's image: {cause or 'other pixels'}"
            )
            yield _finding("pixels", message, {"role": role, "error": error, "cause": cause})
    if condition.other_frames > GREY:
        message = f"the frames without an image are not grey when they are encoded ({condition.other_frames:.3g})"
        yield _finding("pixels", message, {"error": condition.other_frames, "cause": "other frames"})


def _mask(condition: Condition) -> Iterator[Finding]:
    if condition.mask_error:
        mask_name = "the mask" if condition.kind == "channels" else "the timesteps' mask of given frames"
        cause = condition.mask_cause
        message = f"{mask_name} that the experts were given is not the request's: {cause or 'other frames are marked'}"
        yield _finding("mask", message, {"error": condition.mask_error, "cause": cause})


def _latents(condition: Condition) -> Iterator[Finding]:
    error = condition.latents_error
    if error is not None and error > CAST:
        cause = condition.latents_cause
        message = f"the image latents that the experts were given are {_off(error)} what the VAE encoded"
        yield _finding("latents", f"{message}: {cause}" if cause else message, {"error": error, "cause": cause})


def _drift(condition: Condition) -> Iterator[Finding]:
    if condition.drift > CAST:
        message = f"the image's conditioning changes between steps ({condition.drift:.3g} off that of the first pass)"
        yield _finding("between steps", message, {"error": condition.drift})


def _against(run: Condition, golden: Condition, dtype: str) -> Iterator[Finding]:
    """Compare with the golden, after all stages agree: the kind, then the VAE's encoding, then the conditioning."""
    if run.kind != golden.kind:
        message = f"the image conditions the model as {run.kind}, in the golden as {golden.kind}"
        yield _finding("kind", message, {"run": run.kind, "golden": golden.kind})
        return
    bound = VAE.get(dtype.removeprefix("torch."), VAE[""])
    error = distance(run.encoder, golden.encoder)
    if error is not None and error > bound:
        message = f"the VAE encodes the same image otherwise, {error:.3g} off the golden's"
        yield _finding("encoder", message, {"error": error})
        return
    error = distance(run.given, golden.given)
    if error is not None and error > max(GIVEN, bound):
        message = f"the experts were given another conditioning of the same image, {error:.3g} off the golden's"
        yield _finding("given", message, {"error": error})


def _off(error: float) -> str:
    return "not finite and no longer" if error >= BROKEN else f"{error:.3g} off"


def _finding(place: str, message: str, data: dict[str, Json]) -> Finding:
    return Finding(stage="trace", code=CODE, gating=True, message=message, data={"place": place, **data})
