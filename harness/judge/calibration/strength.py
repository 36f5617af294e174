"""From which strength on a fault is found."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Found:
    """Detection of one fault by its strength."""

    fault: str
    shares: tuple[tuple[float, float, int], ...]
    """Strength, share of runs found, number of runs; strength rises."""

    def strength_for(self, share: float) -> float | None:
        """Least strength tried from which on, at every strength tried, at least ``share`` of the runs are found.

        ``None`` where not even the strongest reaches it. A strength that is found more seldom than a weaker one undoes
        the weaker one's credit: no curve is fitted.
        """
        answer = None
        for strength, found, _ in reversed(self.shares):
            if found < share:
                break
            answer = strength
        return answer


def detection(fault: str, runs: Iterable[tuple[float, bool]]) -> Found:
    """Shares from (strength, found) of single runs."""
    heaps: defaultdict[float, list[bool]] = defaultdict(list)
    for strength, found in runs:
        heaps[strength].append(found)
    rows = tuple((strength, sum(heap) / len(heap), len(heap)) for strength, heap in sorted(heaps.items()))
    return Found(fault, rows)
