"""Compare two runs of one request for ``quantgate try``: the text embeddings and the clips."""

from __future__ import annotations

from dataclasses import dataclass

from harness.frames.clip import Clip
from harness.goldens.refusing import FAR
from harness.limits.probes import TEXT, text_error
from harness.records.frames import ComparisonEvidence
from harness.records.generation import Trace
from harness.records.limits import LimitFile

TEXT_COST = 0.25
"""Largest relative error of the text embedding that a format of the text encoder explains. An encoder that lost its
scales has an error of about 1."""


@dataclass(frozen=True)
class Sides:
    """Result of a comparison.

    Attributes:
        bad: sentences on differences that make a candidate unsafe.
        doubts: sentences on differences that make the result inconclusive.
        distance: distance between the clips, as text.
    """

    bad: tuple[str, ...] = ()
    doubts: tuple[str, ...] = ()
    distance: str = ""


def hold_texts(now: Trace, then: Trace, limits: LimitFile | None) -> Sides:
    """Compare the text embeddings of the same prompt.

    Args:
        now: trace of the present configuration.
        then: trace of the candidate.
        limits: limits of the case, if there are any; else the floor of the measure is the bound.
    """
    error = text_error(then, now)
    if error is None:
        if now.text_embedding_sketch and then.text_embedding_sketch:
            return Sides(bad=("the text embedding has another size than now",))
        return Sides(doubts=("text: no embedding was recorded, so that nothing is known of the text encoder",))
    limit = limits.get(TEXT.name) if limits is not None else None
    bound = limit.limit if limit is not None and limit.limit is not None else TEXT.floor
    if error <= bound:
        return Sides()
    sentence = f"the text embedding is {error:.3g} off the present one (limit {bound:.3g})"
    return Sides(bad=(sentence,)) if error > TEXT_COST else Sides(doubts=(sentence,))


def hold_clips(now: Clip, then: Clip, limits: LimitFile | None, *, experts_changed: bool) -> Sides:
    """Compare the clips of both configurations.

    Another checkpoint of an expert results in other frames of the same video, so only another video is bad then. If the
    experts are the same, the candidate must stay inside the limits of the case.

    Args:
        now: frames of the present configuration.
        then: frames of the candidate.
        limits: of the case, if there are any.
        experts_changed: whether weights or format of a transformer differ.
    """
    from harness.frames.compare import compare

    if now.shape != then.shape:
        return Sides(bad=(f"the clip has shape {then.shape}, now {now.shape}",))
    measured = compare(now, then)
    distance = measured.distance()
    ssim = measured.get("ssim")
    if ssim is None or ssim.mean is None:
        return Sides(doubts=("clips: their ssim could not be computed",), distance=distance)
    if ssim.mean < FAR:
        return Sides(bad=(f"the clip shows another video than now (mean ssim {ssim.mean:.2f})",), distance=distance)
    if experts_changed or measured.bit_exact:
        return Sides(distance=distance)
    if limits is None:
        return Sides(doubts=("clips: they differ, and the case has no limits to judge by",), distance=distance)
    return Sides(bad=tuple(_outside(measured, limits)), distance=distance)


def _outside(measured: ComparisonEvidence, limits: LimitFile) -> list[str]:
    broken = []
    for metric in measured.metrics:
        limit, value = limits.get(metric.name), metric.gating_value
        if limit is None or not limit.gates or (value is not None and limit.admits(value)):
            continue
        shown = "not computed" if value is None else f"{value:.4g}"
        broken.append(f"the clips differ: {metric.name} is {shown}, outside its limit of {limit.limit:.4g}")
    return broken
