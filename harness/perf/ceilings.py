"""The values from which a baseline calls a run slower or larger, and whether a new baseline lets more through."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator
from dataclasses import dataclass

from harness.perf.baseline import pool_for
from harness.perf.comparing import SUSPICIOUS, exact_limit
from harness.perf.measures import GROWTH, MEMORY, STEP
from harness.perf.rule import LEAST_RUNS, compare_values, spread_of
from harness.perf.speed import pool_at_speed, usual_speed
from harness.records.perf_file import PerfFile, PerfPool

LOOSER = 1.01
"""Factor by which a limit may rise without a reason: the noise of a baseline's runs."""


@dataclass(frozen=True)
class Raised:
    """A limit that is higher than before, or gone."""

    pool: str
    """Label of the pool in the old baseline."""
    measure: str
    before: float
    now: float | None
    """``None``: the machines of the pool have no limit any more, so that a run there is `perf_unmeasured`."""

    def __str__(self) -> str:
        now = "none" if self.now is None else f"{self.now:.4g}"
        return f"{self.measure} in pool {self.pool} {self.before:.4g} -> {now}"


def limits_of(file: PerfFile) -> dict[tuple[str, str], float]:
    """Return, per pool and measure, the value from which a run is slower or larger, for default settings of a case.

    Times are in seconds, memory in bytes.
    """
    limits = ((pool.label, _limits(pool, usual_speed(pool))) for pool in file.pools)
    return {(label, name): limit for label, by_name in limits for name, limit in by_name.items()}


def _limits(pool: PerfPool, usual: float | None) -> dict[str, float]:
    """Return the limits of a pool, times at the CPU speed ``usual`` (`harness.perf.speed`)."""
    pool = pool_at_speed(pool, usual)
    limits: dict[str, float] = {}
    warm = [statistics.median(run.steps[1:]) for run in pool.runs if len(run.steps) > 1]
    if len(warm) >= LEAST_RUNS:
        limits[STEP] = math.exp(spread_of(warm).location) * compare_values(warm, warm[0]).limit
    names = dict.fromkeys(name for run in pool.runs for name in run.values)
    for name in names:
        values = [run.values[name] for run in pool.runs if name in run.values and run.fresh]
        if len(values) < LEAST_RUNS:
            continue
        if name in GROWTH:
            limits[name] = max(values) + SUSPICIOUS[name]
        elif name in MEMORY and name != "host_memory":
            limits[name] = exact_limit(values, 0.0)
        elif min(values) > 0:
            limits[name] = math.exp(spread_of(values).location) * compare_values(values, values[0]).limit
    return limits


def raised(old: PerfFile, new: PerfFile) -> Iterator[Raised]:
    """Yield the limits of ``old`` that ``new`` raises or drops, as the machines of ``old`` meet them.

    A pool may be renamed or divided without letting more through, so each machine is followed to its new pool.
    """
    for pool in old.pools:
        stem = pool.label.partition("/")[0]
        homes = [pool_for(new, machine, "" if stem == old.runner else stem)[0] for machine in pool.machines]
        # both at one speed of the CPU: a baseline that was made on a slower day is no looser for it
        usual = usual_speed(pool)
        now = [{} if home is None else _limits(home, usual) for home in homes]
        for measure, before in _limits(pool, usual).items():
            limits = [of_home.get(measure) for of_home in now]
            present = [limit for limit in limits if limit is not None]
            if len(present) < len(limits):
                yield Raised(pool.label, measure, before, None)
            elif max(present) > _bound(measure, before):
                yield Raised(pool.label, measure, before, max(present))


def _bound(measure: str, before: float) -> float:
    """Return the largest limit that is no looser: growth is near zero, so its noise is in bytes and no factor."""
    return before + SUSPICIOUS[measure] if measure in GROWTH else LOOSER * before
