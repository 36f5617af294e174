"""Checks of a clip without a golden: values that no healthy video has, independent of its content.

``nan`` and ``inf`` are counted on the float output, before rounding turns them into a plausible 0: the engine counts
them (`harness.engine.backends.delivery.stats_of`, `wan_recorder.FloatWatch`). All
other checks read the uint8 clip (`check_clip`).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from harness.frames.clip import Clip
from harness.frames.statistics import LUMA, ClipStatistics, Floats, pair_statistics
from harness.records.frames import SanityCheck, SanityEvidence, Shape
from harness.records.generation import FloatStats

PIXEL_FLOOR, BLOCK_FLOOR = 16.0, 4.0
"""Squared levels of 255 added to variances of pixels and of block means: faint dither on a flat wall is not noise."""
FEWEST_BLOCKS = 4
"""Blocks a side. In a smaller picture the correlation of neighbouring blocks means nothing."""
SAMPLE = 1_000_003
"""About how many values of a clip are read to count its levels. The stride is odd, so that it meets every channel."""
FEWEST_LEVELS = 16
"""Frames with fewer levels may be plain graphics, whose steps mean nothing."""
MANY_LEVELS = 48
"""From so many levels on, two of a full-range picture are neighbours by chance, unless bits were lost."""


@dataclass(frozen=True)
class SanityLimits:
    """Limits of `check_clip`; a case may state its own.

    They are wide on purpose: a sanity check that fails means "no video", not "a worse video". ``python -m
    benchmarks.sensitivity`` prints the measured values on both sides of every limit.
    """

    flat: float = 2.0
    """Smallest standard deviation within a frame, levels of 255. A small shape on a flat wall has over 20, one colour
    has 0, and one colour through a decoder's ripple under 2."""
    noise: float = 0.30
    """Smallest correlation of neighbouring 8-px blocks. Photographs and generated videos have .7 or more, the tiny
    model's videos .57 (.46 in NVFP4), brick .38; its videos with swapped nibbles -.06 to .13, and drawn static under
    .28 up to a grain of 8 px. Close-ups of grass or gravel (.2 to .3) look like static to this check and need a limit
    of their own."""
    speckle: float = 5.0
    """Largest variance of the Laplacian over the variance of the picture. Photographs and shapes stay under 1.3, grass
    at 3.6; uncorrelated noise has 20, and static with per-pixel noise on any coarser grain over 6."""
    frozen: int = 2
    """Longest run of frames equal bit by bit. A decoder does not repeat itself; one repeat is left to chance. A clip
    of 2 frames may not be frozen at all."""
    clipped: float = 0.8
    """Largest share of values at 0 or 255. White shapes on black come near .6 once a decoder's undershoot is cut."""
    flicker: float = 6.0
    """Largest second difference in time of mean luma, levels of 255. Pans over photographs stay under .8, the tiny
    model's videos under 1.3, its videos with swapped nibbles jump by 4 to 10. Cuts and strobes need a limit of their
    own."""


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
        wanted: the shape that the case asks for; without it ``shape`` is not among the checks.
        float_stats: counts of the video before rounding (function `float_stats`); without them ``nan`` and ``inf`` are
            not among the checks.
        limits: the package's own unless a case states others.
    """
    bounds = limits or SanityLimits()
    # The pass compares a clip with itself: it costs one pass more than needed and saves a second kernel.
    statistics = pair_statistics(clip, clip).candidate
    checks = list(_finite(float_stats)) if float_stats else []
    if wanted is not None:
        checks.append(_shape(clip.shape, wanted))
    spread = statistics.deviation
    speckle = statistics.laplacian / (spread**2 + PIXEL_FLOOR)
    checks += [
        _at_least("flat", spread, bounds.flat, "levels of 255", "standard deviation within a frame"),
        _at_least("noise", neighbours(statistics), bounds.noise, "", "correlation of neighbouring 8-px blocks"),
        _at_most("speckle", speckle, bounds.speckle, "", "variance of the Laplacian over the variance"),
        _frozen(statistics, bounds.frozen),
        _at_most("clipped", ends(clip), bounds.clipped, "share", "share of values at 0 or 255"),
        _levels(clip),
        _at_most("flicker", jumps(statistics), bounds.flicker, "levels of 255", "jump of mean luma"),
    ]
    if float_stats is not None and (scale := _other_scale(float_stats)):
        checks = [
            check
            if check.ok or check.name not in _SCALED
            else check.model_copy(update={"message": f"{check.message}; {scale}"})
            for check in checks
        ]
    return SanityEvidence(checks=tuple(checks))


_SCALED = frozenset({"flat", "frozen", "clipped"})
"""Checks that fail if a video in another range of values is clipped to [0, 1]."""
_MOST, _LEAST = 2.0, -0.5
"""Overshoot of a decoder stays inside this range: a video in [0, 255] or [-1, 1] does not."""


def _other_scale(stats: FloatStats) -> str:
    """Return a sentence if the values before rounding lie in another range than [0, 1], else an empty text."""
    if stats.nan or stats.inf or (stats.maximum <= _MOST and stats.minimum >= _LEAST):
        return ""
    return f"its values run from {stats.minimum:.3g} to {stats.maximum:.3g}, and float frames are read in [0, 1]"


def neighbours(statistics: ClipStatistics) -> Floats:
    """Correlate 8-px block means with the block to the right and below: [T], in [-1, 1]; pictures near 1, static 0.

    Frames of fewer than 4 blocks a side get 1.
    """
    blocks = statistics.thumbnails.astype(np.float64)
    if min(blocks.shape[1:3]) < FEWEST_BLOCKS:
        return np.ones(len(blocks))
    centred = blocks - blocks.mean(axis=(1, 2), keepdims=True)
    below = (centred[:, 1:] * centred[:, :-1]).mean(axis=(1, 2, 3))
    right = (centred[:, :, 1:] * centred[:, :, :-1]).mean(axis=(1, 2, 3))
    correlation: Floats = ((below + right) / 2 + BLOCK_FLOOR) / ((centred**2).mean(axis=(1, 2, 3)) + BLOCK_FLOOR)
    return correlation


def ends(clip: Clip) -> Floats:
    """Return the share [T] of values at 0 or 255."""
    counts = [np.count_nonzero(frame == 0) + np.count_nonzero(frame == 255) for frame in clip.frames]
    share: Floats = np.array(counts) / clip.frames[0].size
    return share


def jumps(statistics: ClipStatistics) -> Floats:
    """Return the absolute second difference in time [T] of mean luma; 0 at both ends and below 3 frames."""
    luma = statistics.channel_means @ LUMA
    out = np.zeros(len(luma))
    if len(luma) >= 3:
        out[1:-1] = np.abs(np.diff(luma, n=2))
    return out


def level_step(clip: Clip) -> int:
    """Return the step between the 8-bit levels of a clip: 1, or 2 if the last bit was lost (7 bits); 1 for few levels.

    Seven bits that were spread over 0 to 255 have steps of 2 and one of 3. So with many levels the least step counts;
    with few levels, which plain graphics may have, every step must be a multiple of it.
    """
    values = clip.frames.reshape(-1)
    stride = (values.size // SAMPLE + 1) | 1
    used = np.flatnonzero(np.bincount(values[::stride], minlength=256))
    if len(used) < FEWEST_LEVELS:
        return 1
    steps = np.diff(used)
    return int(steps.min() if len(used) >= MANY_LEVELS else np.gcd.reduce(steps))


def _at_least(name: str, values: Floats, limit: float, unit: str, quantity: str) -> SanityCheck:
    """Check that the smallest of the values [T] reaches the limit."""
    frame = int(values.argmin())
    value = float(values[frame])
    return SanityCheck(
        name=name,
        value=value,
        limit=limit,
        direction="higher_is_better",
        unit=unit,
        ok=value >= limit,
        frame=frame,
        message=f"{quantity}: {value:.3g} in frame {frame}, at least {limit:g} is healthy",
    )


def _at_most(name: str, values: Floats, limit: float, unit: str, quantity: str) -> SanityCheck:
    """Check that the largest of the values [T] stays within the limit."""
    frame = int(values.argmax())
    value = float(values[frame])
    message = f"{quantity}: {value:.3g} in frame {frame}, at most {limit:g} is healthy"
    return _count(name, value, limit, frame, unit, message)


def _count(name: str, value: float, limit: float, frame: int | None, unit: str, message: str) -> SanityCheck:
    """Check that a number stays within the limit."""
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
    frame = floats.first_bad_frame
    place = f", first in frame {frame}" if frame is not None else ""
    return (
        _count("nan", floats.nan, 0, frame, "values", f"{floats.nan} NaN in the float output{place}"),
        _count("inf", floats.inf, 0, frame, "values", f"{floats.inf} infinities in the float output{place}"),
    )


def _shape(actual: Shape, requested: Shape) -> SanityCheck:
    wrong = sum(side != expected for side, expected in zip(actual, requested, strict=True))
    message = f"the clip is {list(actual)} [frames, height, width, channels], {list(requested)} was asked for"
    return _count("shape", wrong, 0, None, "sides", message)


def _frozen(statistics: ClipStatistics, limit: int) -> SanityCheck:
    longest = run = 1
    last = 0
    for index, motion in enumerate(statistics.motion[1:], start=1):
        run = run + 1 if motion == 0 else 1
        if run > longest:
            longest, last = run, index
    # A clip no longer than the limit would always pass: there, no frame may repeat.
    allowed = limit if len(statistics.motion) > limit else 1
    message = f"{longest} frames in a row are equal bit by bit, up to frame {last}; at most {allowed} is healthy"
    return _count("frozen", longest, allowed, last if longest > 1 else None, "frames", message)


def _levels(clip: Clip) -> SanityCheck:
    step = level_step(clip)
    lost = f"the frames use at most every {step}. of the 256 levels: bits were lost in rounding"
    message = lost if step > 1 else "the frames use levels without a regular gap"
    return _count("levels", step, 1, None, "levels of 255", message)
