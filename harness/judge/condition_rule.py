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
GREY = 1e-3
"""Largest root mean square of frames that must be grey; pixel values have a range of 2."""


def judge_condition(mine: Trace, reference: Trace) -> Iterator[Finding]:
    """Yield a finding per stage (pixels, mask, latents, encoder) that differs from the image of the request.

    A run without a record of its conditioning fails only if the golden has one.
    """
    ours, theirs = mine.condition, reference.condition
    if ours is None:
        if theirs is not None:
            yield _finding("lost", "the image is lost: this run was conditioned on none, the golden on one", {})
        return
    findings = [*_pixels(ours), *_mask(ours), *_latents(ours), *_drift(ours)]
    yield from findings
    if not findings and theirs is not None:
        yield from _against(ours, theirs, str(reference.vae.get("dtype", "")))


def _pixels(ours: Condition) -> Iterator[Finding]:
    if not ours.encoded:
        yield _finding("lost", "the image is lost: the VAE's encoder was never given it", {})
        return
    for role, error in sorted(ours.pixels_error.items()):
        if error > CAST:
            name = "first" if role == "image" else "last"
            cause = ours.pixels_cause.get(role, "")
            message = (
                f"the {name} frame that was encoded is {_off(error)} the request's image: {cause or 'other pixels'}"
            )
            yield _finding("pixels", message, {"role": role, "error": error, "cause": cause})
    if ours.other_frames > GREY:
        message = f"the frames without an image are not grey when they are encoded ({ours.other_frames:.3g})"
        yield _finding("pixels", message, {"error": ours.other_frames, "cause": "other frames"})


def _mask(ours: Condition) -> Iterator[Finding]:
    if ours.mask_error:
        what = "the mask" if ours.kind == "channels" else "the timesteps' mask of given frames"
        cause = ours.mask_cause
        message = f"{what} that the experts were given is not the request's: {cause or 'other frames are marked'}"
        yield _finding("mask", message, {"error": ours.mask_error, "cause": cause})


def _latents(ours: Condition) -> Iterator[Finding]:
    error = ours.latents_error
    if error is not None and error > CAST:
        cause = ours.latents_cause
        message = f"the image latents that the experts were given are {_off(error)} what the VAE encoded"
        yield _finding("latents", f"{message}: {cause}" if cause else message, {"error": error, "cause": cause})


def _drift(ours: Condition) -> Iterator[Finding]:
    if ours.drift > CAST:
        message = f"the image's conditioning changes between steps ({ours.drift:.3g} off that of the first pass)"
        yield _finding("between steps", message, {"error": ours.drift})


def _against(ours: Condition, theirs: Condition, dtype: str) -> Iterator[Finding]:
    """Compare with the golden, after all stages agree: the kind, then the VAE's encoding, then the conditioning."""
    if ours.kind != theirs.kind:
        message = f"the image conditions the model as {ours.kind}, in the golden as {theirs.kind}"
        yield _finding("kind", message, {"run": ours.kind, "golden": theirs.kind})
        return
    bound = VAE.get(dtype.removeprefix("torch."), VAE[""])
    error = distance(ours.encoder, theirs.encoder)
    if error is not None and error > bound:
        message = f"the VAE encodes the same image otherwise, {error:.3g} off the golden's"
        yield _finding("encoder", message, {"error": error})
        return
    error = distance(ours.given, theirs.given)
    if error is not None and error > max(CAST, bound):
        message = f"the experts were given another conditioning of the same image, {error:.3g} off the golden's"
        yield _finding("given", message, {"error": error})


def _off(error: float) -> str:
    return "not finite and no longer" if error >= BROKEN else f"{error:.3g} off"


def _finding(place: str, message: str, data: dict[str, Json]) -> Finding:
    return Finding(stage="trace", code=CODE, gating=True, message=message, data={"place": place, **data})
