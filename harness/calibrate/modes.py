"""Recognise a bistable case: repeats of one request whose frames form several tight groups, and nothing in between.

A kernel that picks one of two algorithms by chance gives either of two right videos. Limits around one golden would
have to admit the other, and with it every fault of that size; so each group gets a golden of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from harness.frames.clip import Clip
from harness.limits.placing import LEAST, SEPARATION

LEAST_GAP = 0.5
"""Levels of 255, root mean square: groups nearer than this differ by rounding."""
MOST_APART = 0.2
"""Share of runs that may belong to no group (one far run is no group)."""
MOST_VALUES = 400_000
"""Values per clip that are compared, spread evenly over rows and columns."""
Distances = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Group:
    """Runs that show the same video but for noise."""

    members: tuple[int, ...]
    """Indices of the runs, ascending."""
    middle: int
    """The run with the least sum of distances to the others."""


def groups_of(clips: Sequence[Clip]) -> tuple[Group, ...]:
    """Return the groups that the clips of one request form; the first clip's group comes first.

    Groups are joined by nearest neighbours. They count only if each has `LEAST` runs, the least distance between two
    groups is over `SEPARATION` times the largest within one, and at most a fifth of all runs belongs to none.

    Returns:
        Empty if there is no more than one group.
    """
    if len(clips) < 2 * LEAST or len({clip.shape for clip in clips}) > 1:
        return ()
    far = distances(clips)
    best: list[list[int]] = []
    for reach in np.unique(far[np.triu_indices(len(clips), 1)])[:-1]:
        parts = [part for part in _joined(far, float(reach)) if len(part) >= LEAST]
        if len(parts) < 2 or sum(map(len, parts)) < (1 - MOST_APART) * len(clips):
            continue
        width = max(float(far[np.ix_(part, part)].max()) for part in parts)
        gap = min(float(far[np.ix_(part, other)].min()) for place, part in enumerate(parts) for other in parts[:place])
        # a larger reach may still join runs to their group, so the partition that leaves the fewest out counts
        if gap > max(SEPARATION * width, LEAST_GAP) and sum(map(len, parts)) > sum(map(len, best)):
            best = parts
    return tuple(Group(tuple(part), part[int(far[np.ix_(part, part)].sum(axis=1).argmin())]) for part in best)


def nearest_group(clip: Clip, clips: Sequence[Clip], groups: Sequence[Group]) -> int:
    """Return the number of the group whose middle is nearest to ``clip``."""
    middles = [clips[group.middle] for group in groups]
    return int(distances([clip, *middles])[0, 1:].argmin())


def distances(clips: Sequence[Clip]) -> Distances:
    """Return the root mean square difference of every pair of clips, in levels of 255."""
    count, height, width, channels = clips[0].shape
    step = max(1, int(np.ceil((count * height * width * channels / MOST_VALUES) ** 0.5)))
    thinned = [clip.frames[:, ::step, ::step].astype(np.float32).reshape(-1) for clip in clips]
    table = np.zeros((len(clips), len(clips)))
    for row, frames in enumerate(thinned):
        for column in range(row):
            table[row, column] = table[column, row] = float(np.square(frames - thinned[column]).mean()) ** 0.5
    return table


def _joined(far: Distances, reach: float) -> list[list[int]]:
    """Return the groups of runs that are connected by distances of at most ``reach``."""
    remaining, parts = set(range(len(far))), list[list[int]]()
    while remaining:
        part, edge = set[int](), {min(remaining)}
        while edge:
            part |= edge
            edge = {int(other) for member in edge for other in np.flatnonzero(far[member] <= reach)} - part
        remaining -= part
        parts.append(sorted(part))
    return parts
