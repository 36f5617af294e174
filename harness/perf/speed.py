"""Express times at the usual speed of the CPU, for engines that measured the speed beside their work.

On a shared processor the same healthy run takes 65 or 95 ms a step, and a fixed computation on the same thread, between
the steps, becomes slower with it (`harness.engine.yardstick`). A time divided by that computation's time, and
multiplied by its usual time, is a time at the usual speed. ``python -m benchmarks.perf_gpu --device cpu`` prints how
much of the scatter remains.
"""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Mapping, Sequence

from harness.perf.quiet import Disturbance
from harness.perf.rule import LEAST_RUNS
from harness.records.perf import CpuSpeed, Usage
from harness.records.perf_file import PerfPool, PerfRun

FARTHEST = 1.5
"""Ratio to the usual speed beyond which no correction is trusted. Times followed the CPU as far as 1.4 was seen."""
WORTH_SAYING = 1.05
"""Ratio from which on a report states the speed of the CPU."""


def usual_speed(pool: PerfPool) -> float | None:
    """Return the usual seconds of the fixed computation; ``None`` with fewer than ``LEAST_RUNS`` runs that have it."""
    values = [middle for run in pool.runs if (middle := _middle(run.cpu)) is not None]
    return statistics.median(values) if len(values) >= LEAST_RUNS else None


def slowness(cpu: CpuSpeed | None, usual: float | None) -> float | None:
    """Return how many times slower than usual the CPU was; ``None`` if one of the two is not known."""
    middle = _middle(cpu)
    return middle / usual if middle is not None and usual else None


def too_far(cpu: CpuSpeed | None, usual: float | None) -> Disturbance | None:
    """Return a disturbance if the CPU was so much slower or faster than usual that no correction is trusted."""
    ratio = slowness(cpu, usual)
    if ratio is None or 1 / FARTHEST <= ratio <= FARTHEST:
        return None
    message = f"the CPU ran at {1 / ratio:.0%} of its usual speed, too far from it to compare times"
    return Disturbance("cpu_speed", message)


def pool_at_usual_speed(pool: PerfPool) -> PerfPool:
    """Return a pool with all times at its usual speed. Runs without a measured speed are left out.

    A pool with too few measured speeds is returned as it is.
    """
    return pool_at_speed(pool, usual_speed(pool))


def pool_at_speed(pool: PerfPool, usual: float | None) -> PerfPool:
    """Return a pool with all times as if the fixed computation took ``usual`` seconds; ``None``: as it is."""
    if usual is None or usual_speed(pool) is None:
        return pool
    runs = tuple(_run_at(run, usual) for run in pool.runs if _middle(run.cpu) is not None)
    return pool.model_copy(update={"runs": runs})


def usage_at_usual_speed(usage: Usage, usual: float | None) -> Usage:
    """Return times of a generation at the usual speed of its pool; unchanged if either speed is not known."""
    if usage.cpu is None or slowness(usage.cpu, usual) is None or usual is None:
        return usage
    parts = {"text_encoder": usage.text_encoder, "vae": usage.vae, "total": usage.total}
    steps, values = _corrected(
        usage.steps, {name: value for name, value in parts.items() if value is not None}, usage.cpu, usual
    )
    return usage.model_copy(update={"steps": steps, **values})


def _run_at(run: PerfRun, usual: float) -> PerfRun:
    if run.cpu is None:
        return run
    steps, values = _corrected(run.steps, run.values, run.cpu, usual)
    return run.model_copy(update={"steps": steps, "values": values})


def _corrected(
    steps: Sequence[float], values: Mapping[str, float], cpu: CpuSpeed, usual: float
) -> tuple[tuple[float, ...], dict[str, float]]:
    """Return steps and stages at the usual speed. Loads are left alone: no speed is measured beside them."""
    corrected = dict(values)
    at_steps = tuple(
        seconds * usual / speed for seconds, speed in zip(steps, _around(cpu.steps, len(steps)), strict=True)
    )
    for stage, speed in (("text_encoder", cpu.text_encoder), ("vae", cpu.vae)):
        if stage in values and speed:
            corrected[stage] = values[stage] * usual / speed
    if "first_step" in values and at_steps:
        corrected["first_step"] = at_steps[0]
    stages = [stage for stage in ("text_encoder", "vae") if stage in values]
    before = sum(steps) + sum(values[stage] for stage in stages)
    after = sum(at_steps) + sum(corrected[stage] for stage in stages)
    if "total" in values and before > 0:
        corrected["total"] = values["total"] * after / before
    return at_steps, corrected


def _around(speeds: Sequence[float], count: int) -> list[float]:
    """Return per step the mean of the speeds before and after it, smoothed by a median of three.

    The median keeps one interrupted measurement from making two steps look fast. If the engine measured another number
    of speeds than steps, all steps have the median.
    """
    if len(speeds) != count:
        return [statistics.median(speeds)] * count
    beside = [*(statistics.fmean(pair) for pair in itertools.pairwise(speeds)), *speeds[-1:]]
    if count < 3:
        return beside
    inner = [statistics.median(beside[place - 1 : place + 2]) for place in range(1, count - 1)]
    return [statistics.median(beside[:3]), *inner, statistics.median(beside[-3:])]


def _middle(cpu: CpuSpeed | None) -> float | None:
    return statistics.median(cpu.steps) if cpu is not None and cpu.steps else None
