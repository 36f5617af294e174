"""Checks that need no reference: what no healthy video looks like, whatever it shows.

``nan`` and ``inf`` are counted on the float output, before rounding turns them into a plausible 0 (`float_stats`).
Everything else is read off the uint8 clip (`check_clip`). Where the limits come from is said in
`harness.frames.sanity_limits`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from harness.frames.clip import Clip
from harness.frames.metrics.drift import LUMA, channel_means, deviation
from harness.frames.sanity_limits import SanityLimits
from harness.frames.statistics import ClipStatistics, Floats, pair_statistics
from harness.records.frames import SanityCheck, SanityEvidence, Shape
from harness.records.generation import FloatStats

if TYPE_CHECKING:
    import torch

PIXEL_FLOOR, BLOCK_FLOOR = 16.0, 4.0
"""Squared levels of 255 added to variances of pixels and of block means: faint dither on a flat wall is not noise."""
FEWEST_BLOCKS = 4
"""Blocks a side under which a picture is too small for neighbours to say anything."""


def float_stats(video: npt.NDArray[np.floating[Any]] | torch.Tensor) -> FloatStats:
    """Count NaN and infinity in decoded video [T, H, W, 3], in [0, 1] where healthy, before rounding and clipping.

    Extremes are over the finite values; 0 where there is none. Works frame by frame, where the tensor lies.
    """
    nan = inf = 0
    low, high = float("inf"), float("-inf")
    bad: int | None = None
    for index, frame in enumerate(video):
        if isinstance(frame, np.ndarray):
            values = frame
            nans, infs = int(np.isnan(values).sum()), int(np.isinf(values).sum())
            finite = values[np.isfinite(values)] if nans or infs else values
            extremes = (float(finite.min()), float(finite.max())) if finite.size else None
        else:
            nans, infs = int(frame.isnan().sum()), int(frame.isinf().sum())
            kept = frame[frame.isfinite()] if nans or infs else frame
            extremes = (float(kept.min()), float(kept.max())) if kept.numel() else None
        nan, inf = nan + nans, inf + infs
        bad = index if bad is None and nans + infs else bad
        if extremes:
            low, high = min(low, extremes[0]), max(high, extremes[1])
    empty = low > high
    return FloatStats(
        nan=nan, inf=inf, minimum=0.0 if empty else low, maximum=0.0 if empty else high, first_bad_frame=bad
    )


def check_output(
    video: npt.NDArray[np.floating[Any]], wanted: Shape | None = None, limits: SanityLimits | None = None
) -> SanityEvidence:
    """Check float video [T, H, W, 3] in [0, 1]; with NaN or infinity in it, only those checks are made."""
    floats = float_stats(video)
    if floats.nan or floats.inf:
        return SanityEvidence(checks=_finite(floats))
    return check_clip(Clip.from_float(video), wanted=wanted, float_stats=floats, limits=limits)


def check_clip(
    clip: Clip,
    *,
    wanted: Shape | None = None,
    float_stats: FloatStats | None = None,
    limits: SanityLimits | None = None,
) -> SanityEvidence:
    """Check a clip.

    Args:
        clip: uint8 [T, H, W, 3].
        wanted: the shape that was asked for; without it ``shape`` is not among the checks.
        float_stats: what the function of that name found before rounding; without it ``nan`` and ``inf`` are not
            among the checks.
        limits: the package's own unless a case has reason for others.
    """
    bounds = limits or SanityLimits()
    stats = pair_statistics(clip, clip)
    values = stats.values
    checks = list(_finite(float_stats)) if float_stats else []
    if wanted is not None:
        checks.append(_shape(clip.shape, wanted))
    spread = deviation(stats.candidate, values)
    checks += [
        _judge("flat", spread, bounds.flat, True, "levels of 255", "standard deviation within a frame"),
        _judge("noise", neighbours(stats.candidate), bounds.noise, True, "", "correlation of neighbouring 8-px blocks"),
        _judge(
            "speckle",
            stats.candidate.laplacian / (spread**2 + PIXEL_FLOOR),
            bounds.speckle,
            False,
            "",
            "variance of the Laplacian over the variance",
        ),
        _frozen(stats.candidate, bounds.frozen),
        _judge("clipped", ends(clip), bounds.clipped, False, "share", "share of values at 0 or 255"),
        _levels(clip),
        _judge("flicker", jumps(stats.candidate, values), bounds.flicker, False, "levels of 255", "jump of mean luma"),
    ]
    return SanityEvidence(checks=tuple(checks))


def neighbours(clip: ClipStatistics) -> Floats:
    """Correlation [T] of 8-px block means with the block to the right and below, in [-1, 1]; pictures 1, static 0.

    1 for pictures of fewer than 4 blocks a side.
    """
    blocks = clip.thumbnails.astype(np.float64)
    if min(blocks.shape[1:3]) < FEWEST_BLOCKS:
        return np.ones(len(blocks))
    centred = blocks - blocks.mean(axis=(1, 2), keepdims=True)
    across = (centred[:, 1:] * centred[:, :-1]).mean(axis=(1, 2, 3))
    along = (centred[:, :, 1:] * centred[:, :, :-1]).mean(axis=(1, 2, 3))
    correlation: Floats = ((across + along) / 2 + BLOCK_FLOOR) / ((centred**2).mean(axis=(1, 2, 3)) + BLOCK_FLOOR)
    return correlation


def ends(clip: Clip) -> Floats:
    """Share [T] of values at 0 or 255."""
    counts = [np.count_nonzero(frame == 0) + np.count_nonzero(frame == 255) for frame in clip.frames]
    share: Floats = np.array(counts) / clip.frames[0].size
    return share


def jumps(clip: ClipStatistics, values: int) -> Floats:
    """Absolute second difference in time [T] of mean luma; 0 at both ends and in clips of fewer than 3 frames."""
    luma = channel_means(clip, values) @ LUMA
    out = np.zeros(len(luma))
    if len(luma) >= 3:
        out[1:-1] = np.abs(np.diff(luma, n=2))
    return out


def _judge(name: str, values: Floats, limit: float, higher: bool, unit: str, what: str) -> SanityCheck:
    frame = int(values.argmin() if higher else values.argmax())
    value = float(values[frame])
    ok = value >= limit if higher else value <= limit
    return SanityCheck(
        name=name,
        value=value,
        limit=limit,
        direction="higher_is_better" if higher else "lower_is_better",
        unit=unit,
        ok=ok,
        frame=frame,
        message=f"{what}: {value:.3g} in frame {frame}, {'at least' if higher else 'at most'} {limit:g} is healthy",
    )


def _count(name: str, value: int, limit: float, frame: int | None, unit: str, message: str) -> SanityCheck:
    return SanityCheck(
        name=name,
        value=float(value),
        limit=limit,
        direction="lower_is_better",
        unit=unit,
        ok=value <= limit,
        frame=frame,
        message=message,
    )


def _finite(floats: FloatStats) -> tuple[SanityCheck, SanityCheck]:
    first = floats.first_bad_frame
    where = f", first in frame {first}" if first is not None else ""
    return (
        _count("nan", floats.nan, 0, first, "values", f"{floats.nan} NaN in the float output{where}"),
        _count("inf", floats.inf, 0, first, "values", f"{floats.inf} infinities in the float output{where}"),
    )


def _shape(found: Shape, wanted: Shape) -> SanityCheck:
    wrong = sum(one != two for one, two in zip(found, wanted, strict=True))
    message = f"the clip is {list(found)} [frames, height, width, channels], {list(wanted)} was asked for"
    return _count("shape", wrong, 0, None, "sides", message)


def _frozen(clip: ClipStatistics, limit: int) -> SanityCheck:
    longest = run = 1
    last = 0
    for index, motion in enumerate(clip.motion[1:], start=1):
        run = run + 1 if motion == 0 else 1
        if run > longest:
            longest, last = run, index
    allowed = limit if len(clip.motion) > limit else 1
    message = f"{longest} frames in a row are equal bit by bit, up to frame {last}; at most {allowed} is healthy"
    return _count("frozen", longest, allowed, last if longest > 1 else None, "frames", message)


SAMPLE = 1_000_003
"""Values of a clip that are looked at for its levels, about; an odd stride meets every channel."""
FEWEST_LEVELS = 16
"""Levels below which frames may be plain graphics, whose steps mean nothing."""


def level_step(clip: Clip) -> int:
    """The step between the 8-bit levels that a clip uses: 1, or 2 if every value is even (7 bits); 1 for few levels."""
    values = clip.frames.reshape(-1)
    stride = (values.size // SAMPLE + 1) | 1
    used = np.flatnonzero(np.bincount(values[::stride], minlength=256))
    return int(np.gcd.reduce(np.diff(used))) if len(used) >= FEWEST_LEVELS else 1


def _levels(clip: Clip) -> SanityCheck:
    step = level_step(clip)
    message = f"the frames use every {step}. of the 256 levels only: bits were lost; every level is healthy"
    return _count("levels", step, 1, None, "levels of 255", message)


__all__ = ["SanityLimits", "check_clip", "check_output", "float_stats"]
