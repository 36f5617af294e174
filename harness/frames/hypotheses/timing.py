"""Changes in time: frames in another order, repeated or blended, and brightness that changes over time."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from harness.frames.hypotheses.pair import LUMA_601, Array, Explanation, FramePair
from harness.frames.hypotheses.sums import ErrorSums

Order = npt.NDArray[np.int64]
SAME = 0.6
"""A frame matches another golden frame only if its squared error there is below this share of that to its own."""


def timing(sums: ErrorSums) -> Iterator[Explanation]:
    """Yield every change in time, fitted."""
    if sums.count < 2:
        return
    golden, candidate = sums.small
    yield from _ordered(golden, candidate)
    yield from _delayed(golden, candidate)
    yield from _blended(golden, candidate)
    yield from _brightness(sums)


def named(frames: tuple[int, ...] | list[int], count: int) -> str:
    """Return frames as text: ``frame 8``, ``frames 3 to 7`` or ``9 of 17 frames``."""
    if len(frames) == 1:
        return f"frame {frames[0]}"
    if len(frames) == count:
        return "all frames"
    if frames[-1] - frames[0] == len(frames) - 1:
        return f"frames {frames[0]} to {frames[-1]}"
    if len(frames) <= 4:
        return "frames " + ", ".join(str(frame) for frame in frames)
    return f"{len(frames)} of {count} frames"


def _ordered(golden: Array, candidate: Array) -> Iterator[Explanation]:
    count = len(golden)
    flat = golden.reshape(count, -1).astype(np.float64), candidate.reshape(count, -1).astype(np.float64)
    cost = (flat[1] ** 2).sum(1)[:, None] + (flat[0] ** 2).sum(1)[None, :] - 2 * flat[1] @ flat[0].T
    cost = np.maximum(cost, 0.0)
    diagonal = np.diag(cost)
    error = float(diagonal.sum())
    if error <= 0:
        return
    index = np.arange(count)
    fixed: list[tuple[str, str, Order]] = [
        ("frames_reversed", "the clip runs backwards (frames reversed)", index[::-1])
    ]
    for step in (*range(-4, 0), *range(1, 5)):
        if abs(step) < count:
            text = f"every frame is the golden's {abs(step)} {'later' if step > 0 else 'earlier'}"
            text += " (off by one)" if abs(step) == 1 else f" (off by {abs(step)}, time shifted)"
            fixed.append(("frames_shifted", text, np.clip(index + step, 0, count - 1)))
            fixed.append(("frames_shifted", f"{text}, wrapped around", (index + step) % count))
    for code, text, order in fixed:
        yield Explanation(code, 1 - float(cost[index, order].sum()) / error, 1, text)
    yield from _half(cost, error)
    order = cost.argmin(axis=1)
    order = np.where(cost[index, order] < SAME * diagonal, order, index)
    changed = [int(frame) for frame in np.flatnonzero(order != index)]
    if changed:
        share = 1 - float(cost[index, order].sum()) / error
        code, text = _describe(order, changed)
        yield Explanation(code, share, 1 + len(changed), text, tuple(changed) if len(changed) < count else ())


def _half(cost: npt.NDArray[np.float64], error: float) -> Iterator[Explanation]:
    """Yield a divided frame rate: every second, third or fourth frame is held."""
    count = len(cost)
    index = np.arange(count)
    for step in (2, 3, 4):
        if count > step:
            order = index // step * step
            share = 1 - float(cost[index, order].sum()) / error
            text = f"every {step}. frame is held for {step} frames (frame rate divided, frames duplicated)"
            yield Explanation("frames_repeated", share, 1, text)


def _describe(order: Order, changed: list[int]) -> tuple[str, str]:
    """Return code and sentence of an order of golden frames in which those of ``changed`` differ."""
    count = len(order)
    sources = [int(order[frame]) for frame in changed]
    if sorted(order.tolist()) == list(range(count)):
        if len(changed) == 2:
            return "frames_permuted", f"frames {changed[0]} and {changed[1]} are swapped (permuted)"
        return "frames_permuted", f"{named(changed, count)} are in another order (permuted, shuffled)"
    if len(set(sources)) == 1:
        text = named(changed, count)
        if len(changed) == 1:
            near = "duplicates" if abs(sources[0] - changed[0]) == 1 else "repeats"
            return "frames_repeated", f"{text} {near} frame {sources[0]} (duplicated frame)"
        return "frames_frozen", f"{text} stand still: they repeat frame {sources[0]} (frozen, duplicated frames)"
    if (np.diff(order) >= 0).all():
        steps = np.diff(order)
        skipped = [int(frame) + 1 for frame in np.flatnonzero(steps > 1)]
        if skipped and min(changed) + 1 >= min(skipped):
            return "frames_dropped", f"frames are dropped: from frame {changed[0]} on the clip runs ahead of the golden"
        return "frames_repeated", f"frames are duplicated: from frame {changed[0]} on the clip runs behind the golden"
    if (np.diff(order) <= 0).all():
        return "frames_reversed", f"{named(changed, count)} run backwards (reversed)"
    return "frames_permuted", f"{named(changed, count)} show other frames of the golden (permuted, repeated)"


DELAYS = (-2, -1, 1, 2)


def _delayed(golden: Array, candidate: Array) -> Iterator[Explanation]:
    """Yield one colour channel, the brightness or the colour that comes from an earlier or a later frame."""
    pair = FramePair(golden, candidate)
    count = len(golden)
    grey = (golden @ LUMA_601)[..., None]
    for step in DELAYS:
        if abs(step) >= count:
            continue
        order = np.clip(np.arange(count) + step, 0, count - 1)
        when = f"{abs(step)} frame{'s' if abs(step) > 1 else ''} {'later' if step > 0 else 'earlier'} than the others"
        moved = golden[order]
        for place, name in enumerate(("red", "green", "blue")):
            prediction = golden.copy()
            prediction[..., place] = moved[..., place]
            text = f"the {name} channel is {when} (channel shifted in time)"
            yield Explanation("frames_shifted", pair.share(prediction), 2, text)
        for name, prediction in (
            ("brightness", golden - grey + grey[order]),
            ("colour (chroma)", grey + moved - grey[order]),
        ):
            text = f"the {name} is {when} (shifted in time)"
            yield Explanation("frames_shifted", pair.share(prediction), 2, text)


def _blended(golden: Array, candidate: Array) -> Iterator[Explanation]:
    pair = FramePair(golden, candidate)
    before, after = golden[[0, *range(len(golden) - 1)]], golden[[*range(1, len(golden)), len(golden) - 1]]
    for step, text in (
        (before - golden, "the frame before"),
        (after - golden, "the next frame"),
        ((before + after) / 2 - golden, "its neighbours"),
    ):
        (part,) = pair.solve(step)
        if part > 0.05:
            share = pair.share(golden + part * step)
            sentence = f"every frame is blended with {text} by {part:.0%} (ghosting, temporal blur)"
            yield Explanation("frames_blended", share, 2, sentence)


INTERLACED = 9
"""Frames that are read for lines of other frames: neighbours in time, so they cannot be thinned."""


def interlaced(golden: npt.NDArray[np.uint8], candidate: npt.NDArray[np.uint8]) -> Iterator[Explanation]:
    """Yield every second line taken from the frame before or after, as of two fields that belong to other times."""
    count = len(golden)
    if count < 2:
        return
    start = max(0, (count - INTERLACED) // 2)
    chosen = np.arange(start, min(count, start + INTERLACED))
    pair = FramePair(golden[chosen], candidate[chosen])
    for step, name in ((1, "next"), (-1, "previous")):
        other = golden[np.clip(chosen + step, 0, count - 1)].astype(np.float32)
        for first, lines in ((0, "even"), (1, "odd")):
            prediction = pair.golden.copy()
            prediction[:, first::2] = other[:, first::2]
            text = f"{lines} lines are those of the {name} frame (interlaced fields of other times)"
            yield Explanation("interlaced", pair.share(prediction), 1, text)


def _brightness(sums: ErrorSums) -> Iterator[Explanation]:
    if sums.total <= 0:
        return
    grey = sums.means.mean(axis=1)
    for moved, quantity in ((grey, "brightness"), (sums.means, "colour")):
        energy = 3 * sums.pixels * grey**2 if quantity == "brightness" else sums.pixels * (sums.means**2).sum(axis=1)
        if energy.max() <= 0:
            continue  # pixels were exchanged and no frame's mean moved: mirrored, shifted, channels in another order
        share = float(energy.sum()) / sums.total
        loud = np.flatnonzero(energy > 0.08 * energy.max())
        if len(loud) == sums.count and np.ptp(grey) < 0.5 * abs(grey).max() and quantity == "brightness":
            continue  # all frames moved alike: an offset of the clip, which colour() fits
        frames = tuple(int(frame) for frame in loud)
        place = named(frames, sums.count)
        signed = grey[loud]
        size = float(abs(signed).max())
        order = np.argsort(np.arange(len(grey)))
        slope = float(np.corrcoef(order, grey)[0, 1]) if grey.std() > 0 else 0.0
        if quantity == "colour":
            values = ", ".join(f"{shift:+.1f}" for shift in moved[loud].mean(axis=0))
            yield Explanation(
                "tint", share, 3 + len(loud), f"{place}: another colour (tint; RGB moved by {values})", frames
            )
        elif len(loud) == 1:
            text = f"flash: frame {frames[0]} is {'brighter' if signed[0] > 0 else 'darker'} by {size:.1f} levels"
            yield Explanation("flash", share, 2, text, frames)
        elif abs(slope) > 0.95 and len(loud) > sums.count / 2:
            text = f"brightness drifts over the clip (fade), up to {size:.1f} levels"
            yield Explanation("brightness_drift", share, 2, text)
        else:
            both = (signed > 0).any() and (signed < 0).any()
            text = f"{place} {'blink' if both else 'change brightness'} (flicker, brightness up to {size:.1f} levels)"
            yield Explanation("flicker", share, 2 + len(loud), text, frames if len(frames) < sums.count else ())
