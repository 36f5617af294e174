"""Is a case bistable? Several right answers to one question show as several heaps of distances.

Heaps are told apart by empty room alone: between any two there is more than ``ROOM`` times the width of the widest, and
every heap has ``LEAST`` runs. A single far run is an outlier, which the bound takes in, and no mode.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import median

ROOM = 4.0
LEAST = 3


@dataclass(frozen=True)
class Mode:
    """One heap of runs."""

    runs: tuple[float, ...]
    """Distances, sorted."""

    @property
    def center(self) -> float:
        """Median distance."""
        return float(median(self.runs))


def find_modes(distances: Sequence[float]) -> tuple[Mode, ...]:
    """The heaps of these runs, nearest first; one where nothing tells them apart.

    Args:
        distances: of all runs; bit-identical ones count each, since how often a mode is met is what is asked.
    """
    ordered = sorted(distances)
    gaps = sorted(range(1, len(ordered)), key=lambda place: ordered[place - 1] - ordered[place])
    for count in range(1, len(ordered) // LEAST):
        edges = [0, *sorted(gaps[:count]), len(ordered)]
        heaps = [ordered[start:stop] for start, stop in pairwise(edges)]
        if _apart(heaps):
            return tuple(Mode(tuple(heap)) for heap in heaps)
    return (Mode(tuple(ordered)),)


def _apart(heaps: Sequence[Sequence[float]]) -> bool:
    """Whether the least room between two heaps is much wider than the widest heap."""
    width = max(heap[-1] - heap[0] for heap in heaps)
    room = min(after[0] - before[-1] for before, after in pairwise(heaps))
    # equal but for rounding is no room
    return min(map(len, heaps)) >= LEAST and room > max(ROOM * width, 1e-9 * max(1.0, abs(heaps[-1][-1])))
