"""Fits all hypotheses, and decides which of them count as an explanation."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from harness.frames.hypotheses.colour import colour
from harness.frames.hypotheses.local import content, patterns, region, sharp
from harness.frames.hypotheses.pair import Explanation, FramePair, thin
from harness.frames.hypotheses.space import space
from harness.frames.hypotheses.sums import ErrorSums
from harness.frames.hypotheses.timing import interlaced, named, timing

LEAST_SHARE = 0.85
"""Share of the error that a hypothesis without free parameters must explain."""
PER_PARAMETER = 0.02
"""Growth of the required share per free parameter: more parameters fit more by chance."""
MOST_SHARE = 0.93
"""Largest required share."""
LEAST_ERROR = 0.15
"""Mean squared error (levels squared) below which frames are too alike to be explained."""
SIMPLER = 1.3, 0.02
"""A hypothesis with fewer parameters is preferred if its residual is larger by at most this factor and this share."""


def explain(golden: npt.NDArray[np.uint8], candidate: npt.NDArray[np.uint8], most: int = 3) -> tuple[Explanation, ...]:
    """Find which simple changes of the golden's frames give the candidate's.

    Each hypothesis is fitted on half of the values and scored on the other half by the share of the squared error that
    it explains. Most faults of a checkpoint or a denoiser are no simple change of the frames: then nothing is returned.

    Args:
        golden: uint8 [T, H, W, 3].
        candidate: the same shape.
        most: largest number of explanations that are returned.

    Returns:
        The best first, at most one explanation per code.

    Raises:
        ValueError: the shapes differ.
    """
    if golden.shape != candidate.shape:
        raise ValueError(f"the clips have shapes {golden.shape} and {candidate.shape}")
    sums = ErrorSums(golden, candidate)
    if sums.total / golden.size < LEAST_ERROR and sums.squares.max() / golden[0].size < LEAST_ERROR:
        return ()
    rows = [row for row in _all(sums, golden, candidate) if row.share >= required(row)]
    return ranked(rows)[:most]


def required(explanation: Explanation) -> float:
    """Return the share of the error that an explanation must reach, by its number of parameters."""
    if explanation.code == "codec":  # the true coder is rarely the JPEG that is fitted, and leaves more
        return 0.7
    return min(MOST_SHARE, LEAST_SHARE + PER_PARAMETER * explanation.parameters)


def ranked(rows: Iterable[Explanation]) -> tuple[Explanation, ...]:
    """Return the best explanation of each code, best first: small residual, with a preference for few parameters."""
    best: dict[str, Explanation] = {}
    for row in sorted(rows, key=lambda row: (_cost(row), row.parameters)):
        best.setdefault(row.code, row)
    return tuple(best.values())


def _cost(row: Explanation) -> float:
    """Return the residual, raised per parameter as `SIMPLER` states: the smallest is the best explanation."""
    factor, share = SIMPLER
    # brightness that changes in some frames only is a flash or a flicker: offset and gain are changes of a whole clip
    local = share if row.frames and row.code in ("offset", "gain") else 0.0
    return float((1 - row.share) * factor ** (row.parameters / 3) + share * row.parameters / 3 + local)


def _all(sums: ErrorSums, golden: npt.NDArray[np.uint8], candidate: npt.NDArray[np.uint8]) -> Iterator[Explanation]:
    """Yield every fitted hypothesis: of the whole clip, of its affected frames, of one region in them."""
    yield from timing(sums)
    yield from interlaced(golden, candidate)
    frames = sums.affected()
    part = float(sums.squares[frames].sum()) / sums.total
    chosen = tuple(int(frame) for frame in frames) if len(frames) < sums.count else ()
    place = f"{named(list(chosen), sums.count)}: " if chosen else ""
    if chosen == tuple(range(1, sums.count)) and sums.count > 2:
        place = "only the first frame is right; all others: "
    pair = thin(golden[frames], candidate[frames])
    for row in _within(pair):
        yield _placed(row, part, chosen, place)
    box = region(sums, frames)
    if box is not None:
        box = sharp(pair.golden, pair.candidate, box)
        inner = FramePair(pair.golden[:, box[0], box[1]], pair.candidate[:, box[0], box[1]])
        region_text = f"a region of {_size(box)} at x {box[1].start}, y {box[0].start}"
        share = float(np.square(inner.difference).sum()) / max(float(np.square(pair.difference).sum()), 1e-9)
        shown = content(inner.golden, inner.candidate)
        inside = ranked(row for row in colour(inner) if row.share >= 0.8) if min(inner.golden.shape[1:3]) >= 4 else ()
        if shown is not None:
            text = f"{region_text} is overwritten with {shown[0]}"
            yield _placed(Explanation("region_overwritten", share * shown[1], 4, text), part, chosen, place)
        elif inside:
            text = f"{region_text} is changed: {inside[0].sentence}"
            yield _placed(Explanation("region_overwritten", share * inside[0].share, 4, text), part, chosen, place)
        elif share > 0.97 and (chosen or _square(pair, box)):
            text = f"{region_text} shows something else (overwritten)"
            yield _placed(Explanation("region_overwritten", share * 0.9, 5, text), part, chosen, place)


def _within(pair: FramePair) -> Iterator[Explanation]:
    """Yield the explanations that are the same for every frame of a pair."""
    shown = content(pair.golden, pair.candidate)
    if shown is not None:
        code = "noise_added" if "noise" in shown[0] else "frames_overwritten"
        if "added" in shown[0] or "salt" in shown[0]:
            yield Explanation(code, shown[1], 3, f"{shown[0]} lies over the picture")
        else:
            yield Explanation("frames_overwritten", shown[1], 3, f"the picture is overwritten with {shown[0]}")
    yield from colour(pair)
    yield from space(pair)
    yield from patterns(pair)


def _placed(row: Explanation, part: float, frames: tuple[int, ...], place: str) -> Explanation:
    """Return the explanation restricted to the affected frames; ``part`` is their share of the clip's error."""
    more = 1 if frames else 0
    return replace(
        row, share=row.share * part, parameters=row.parameters + more, frames=frames, sentence=f"{place}{row.sentence}"
    )


def _size(box: tuple[slice, slice]) -> str:
    return f"{box[1].stop - box[1].start}x{box[0].stop - box[0].start} pixels"


def _square(pair: FramePair, box: tuple[slice, slice]) -> bool:
    """Return whether the error ends at the box's sides: rows and columns just inside hold as much as the middle."""
    inside = np.square(pair.difference[:, box[0], box[1]]).mean(axis=(0, 3))
    if min(inside.shape) < 6:
        return False
    sides = (inside[0].mean(), inside[-1].mean(), inside[:, 0].mean(), inside[:, -1].mean())
    return bool(min(sides) > 0.4 * inside.mean())
