"""Decide whether the machine was quiet. If not, a slow run proves nothing, and the verdict states the disturbance."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from harness.records.perf import Conditions, LoadUsage

SLOWING = frozenset({
    "hardware slowdown", "software thermal slowdown", "hardware thermal slowdown", "hardware power brake",
})  # fmt: skip
"""Throttle reasons that slow a GPU down under any load. A power cap is not among them: a kernel that draws more
power is slower by its own doing."""
WAITING = 0.05
"""Share of its runnable time that an engine may wait for a CPU."""
CLOCK_BELOW = 0.97
"""Share of the baseline's clock below which a GPU is slower by its clock."""
WARM = 0.95
"""Share of the weights in the page cache from which on a load is warm."""


@dataclass(frozen=True)
class Disturbance:
    """One reason why a slow run proves nothing."""

    cause: Literal["throttled", "foreign_process", "cpu_shared", "cpu_speed", "clocks", "cold_cache", "not_confirmed"]
    message: str


def disturbances(conditions: Conditions | None, usual_clock: int | None) -> tuple[Disturbance, ...]:
    """Return the disturbances of a run, the gravest first.

    Args:
        conditions: the machine during the run; ``None``: it was not looked at.
        usual_clock: median SM clock of the baseline's runs, MHz.
    """
    if conditions is None:
        return ()
    problems: list[Disturbance] = []
    if slowing := sorted(SLOWING & set(conditions.throttle)):
        hot = f" at {conditions.temperature} degrees C" if conditions.temperature else ""
        problems.append(Disturbance("throttled", f"the GPU slowed itself down ({', '.join(slowing)}){hot}"))
    if conditions.foreign:
        problems.append(Disturbance("foreign_process", f"the GPU was shared with {', '.join(conditions.foreign)}"))
    if conditions.waiting is not None and conditions.waiting > WAITING:
        share = f"{conditions.waiting:.0%}"
        problems.append(Disturbance("cpu_shared", f"the engine waited for a CPU {share} of its runnable time"))
    clock = conditions.sm_clock
    if clock and usual_clock and clock < CLOCK_BELOW * usual_clock:
        problems.append(Disturbance("clocks", f"the GPU ran at {clock} MHz, and the baseline at {usual_clock} MHz"))
    return tuple(problems)


def cold_cache(load: LoadUsage | None) -> Disturbance | None:
    """Return whether the weights had to be fetched from storage."""
    if load is None or load.cache_resident is None or load.cache_resident >= WARM:
        return None
    return Disturbance("cold_cache", f"only {load.cache_resident:.0%} of the weights lay in the page cache")
