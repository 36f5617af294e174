"""Longest processing time first: which unit goes to which machine.

Graham, "Bounds on multiprocessing timing anomalies", SIAM J. Appl. Math. 17 (1969): the makespan of LPT is at most
4/3 - 1/(3m) of the best one on m machines.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass

WORTH = 0.1
"""Share of the makespan that tearing an engine apart must save."""


@dataclass(frozen=True)
class Unit:
    """What is never torn apart: the cases of one engine, or a part of an engine that was too long for one machine."""

    key: str
    load: float
    """Seconds to bring the model into memory, once."""
    cases: tuple[tuple[str, float], ...]
    """Case id and seconds, in the order in which they run."""

    @property
    def seconds(self) -> float:
        """Expected seconds of the whole unit."""
        return self.load + sum(seconds for _, seconds in self.cases)


@dataclass(frozen=True)
class Split:
    """An engine that was spread over several machines, each of which loads its model."""

    key: str
    parts: int
    seconds: float
    ideal: float


def lpt(units: Sequence[Unit], machines: int) -> list[list[Unit]]:
    """Units by machine, longest first on each. Ties are broken by key, so that a plan is reproducible.

    Raises:
        ValueError: ``machines`` is less than one.
    """
    if machines < 1:
        raise ValueError(f"a plan needs at least one machine, not {machines}")
    bins: list[list[Unit]] = [[] for _ in range(machines)]
    free = [(0.0, index) for index in range(machines)]
    for unit in sorted(units, key=lambda one: (-one.seconds, one.key)):
        load, index = heapq.heappop(free)
        bins[index].append(unit)
        heapq.heappush(free, (load + unit.seconds, index))
    return bins


def makespan(bins: Sequence[Sequence[Unit]]) -> float:
    """Seconds of the machine that ends last."""
    return max((sum(unit.seconds for unit in one) for one in bins), default=0.0)


def lower_bound(units: Sequence[Unit], machines: int) -> float:
    """No plan of indivisible ``units`` on ``machines`` is shorter, in seconds.

    The largest of three: the mean, the longest unit, and the two shortest of the m + 1 longest units, since two of
    those run on one machine.
    """
    times = sorted((unit.seconds for unit in units), reverse=True)
    shared = times[machines - 1] + times[machines] if len(times) > machines else 0.0
    return max(sum(times) / machines, times[0] if times else 0.0, shared)


def split_long(units: Sequence[Unit], machines: int) -> tuple[list[Unit], tuple[Split, ...]]:
    """Tear an engine apart only where it alone is longer than the ideal makespan, and the plan gets much shorter by it.

    Every part loads the model again, which costs machines their time: the makespan must fall by ``WORTH`` at least.
    """
    ideal = sum(unit.seconds for unit in units) / machines if machines else 0.0
    best, splits = list(units), []
    for unit in sorted(units, key=lambda one: (-one.seconds, one.key)):
        if machines < 2 or unit.seconds <= ideal or len(unit.cases) < 2:
            continue
        rest = [other for other in best if other.key != unit.key]
        plans = [rest + _parts(unit, count) for count in range(2, min(len(unit.cases), machines) + 1)]
        chosen = min(plans, key=lambda plan: (round(makespan(lpt(plan, machines)), 6), len(plan)))
        if makespan(lpt(chosen, machines)) <= (1 - WORTH) * makespan(lpt(best, machines)):
            splits.append(Split(unit.key, len(chosen) - len(rest), unit.seconds, ideal))
            best = chosen
    return best, tuple(splits)


def _parts(unit: Unit, count: int) -> list[Unit]:
    singles = [Unit(f"{unit.key}/{name}", 0.0, ((name, seconds),)) for name, seconds in unit.cases]
    order = [name for name, _ in unit.cases]
    parts = []
    for index, one in enumerate(lpt(singles, count)):
        cases = sorted((case for single in one for case in single.cases), key=lambda case: order.index(case[0]))
        parts.append(Unit(f"{unit.key}/{index + 1}", unit.load, tuple(cases)))
    return parts
