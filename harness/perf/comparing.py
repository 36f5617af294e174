"""Compare one generation with the runs of a pool, measure by measure."""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from harness.definitions.case import Case
from harness.perf.measures import (
    EXPERT_STEPS,
    FRESH,
    GROWTH,
    MEMORY,
    STEP,
    TIMES,
    WORDS,
    is_fresh,
    unit_of,
    usage_of,
    values_of,
)
from harness.perf.quiet import Disturbance, cold_cache, disturbances
from harness.perf.rule import (
    LEAST_RUNS,
    Comparison,
    Rule,
    compare_steps,
    compare_values,
    confirms,
)
from harness.perf.speed import pool_at_usual_speed, too_far, usage_at_usual_speed, usual_speed
from harness.records.generation import EngineStart, Generation
from harness.records.perf import Conditions, CpuSpeed, PerfComparison, PerfReport, PerfState
from harness.records.perf_file import PerfPool, PerfRun

GRANULARITY = 2 * 2**20
"""Bytes. torch takes memory from the driver in segments of 2 MiB; a block that is split otherwise costs as much."""
HOST_GRANULARITY = 64 * 2**20
"""Bytes of host memory that malloc's arenas move by themselves."""
HOST_EFFECT = 0.10
GROWTH_MARGIN = {"growth": GRANULARITY, "host_growth": 16 * 2**20}
"""Bytes a generation that are no leak: a segment of the GPU's allocator, an arena of malloc's."""
SUSPICIOUS = {"growth": GRANULARITY, "host_growth": 8 * 2**20}
"""Bytes beyond the baseline's highest growth from which on further generations are made, to see whether it goes on."""
MATTERS = 0.01
"""Share of the whole generation that an effect on a stage must cost before it gates."""
BAD: tuple[PerfState, ...] = ("slower", "more_memory", "leak")
GOOD: tuple[PerfState, ...] = ("faster", "less_memory")


@dataclass(frozen=True)
class Look:
    """One generation, with the conditions of the machine at that time."""

    generation: Generation
    engine: EngineStart | None
    conditions: Conditions | None

    @property
    def cpu(self) -> CpuSpeed | None:
        """Return the speed of the CPU, if the engine measured it."""
        return self.generation.usage.cpu if self.generation.usage else None

    def at_speed(self, usual: float | None) -> Look:
        """Return the generation with its times at the usual speed of the CPU (`harness.perf.speed`)."""
        usage = self.generation.usage
        if usage is None or usage.cpu is None:
            return self
        return replace(
            self, generation=self.generation.model_copy(update={"usage": usage_at_usual_speed(usage, usual)})
        )

    @property
    def values(self) -> dict[str, float]:
        """Return every measure but the steps."""
        return values_of(self.generation, self.engine, self.conditions)

    @property
    def warm(self) -> tuple[float, ...]:
        """Return the seconds of all steps but the first."""
        usage = usage_of(self.generation)
        return usage.warm if usage else ()


@dataclass(frozen=True)
class Judged:
    """Comparison of one generation, measure by measure."""

    comparisons: tuple[PerfComparison, ...]
    disturbed: tuple[Disturbance, ...]

    def suspects(self, states: Sequence[PerfState] = BAD) -> tuple[PerfComparison, ...]:
        """Return the gating measures in one of ``states``."""
        return tuple(row for row in self.comparisons if row.gates and row.state in states)

    @property
    def slow(self) -> bool:
        """Return whether a gating time is slower. A disturbance does not explain memory, so memory is left out."""
        return any(row.measure in TIMES for row in self.suspects())


@dataclass(frozen=True)
class Comparer:
    """Compares the generations of a case with one pool of its baseline.

    Args:
        case: the case, with its `perf` settings.
        pool: the runs to compare with.
        usual_clock: median SM clock of the baseline's runs, MHz.
    """

    case: Case
    pool: PerfPool
    usual_clock: int | None

    def judge(self, look: Look) -> Judged:
        """Compare every measure of a generation, at the CPU speed that is usual in the pool."""
        usual = usual_speed(self.pool)
        # a run without a measured speed is compared as it is, with the runs as they are
        at_usual_speed = replace(self, pool=pool_at_usual_speed(self.pool)) if look.cpu is not None else self
        judged = at_usual_speed._rows(look.at_speed(usual))
        if look.cpu is not None and any(row.state == "faster" for row in judged.comparisons):
            judged = _faster_in_truth(judged, self._rows(look))
        far = too_far(look.cpu, usual)
        return replace(judged, disturbed=(*judged.disturbed, far)) if far else judged

    def _rows(self, look: Look) -> Judged:
        rows: list[PerfComparison] = []
        if look.warm:
            rows += self._steps(look)
        fresh = is_fresh(look.generation)
        for measure, value in look.values.items():
            rows.append(self._value(measure, value, fresh, look))
        rows.sort(key=lambda row: _ORDER.index(row.measure))
        return Judged(tuple(rows), disturbances(look.conditions, self.usual_clock))

    def _steps(self, look: Look) -> Iterator[PerfComparison]:
        """Compare all warm steps, and those of each expert if there are two."""
        runs = [run.steps[1:] for run in self.pool.runs if len(run.steps) == len(look.warm) + 1]
        groups: dict[str, list[int]] = {STEP: list(range(len(look.warm)))}
        usage = usage_of(look.generation)
        experts = usage.experts[1:] if usage else ()
        if len(set(experts)) > 1:
            for expert, name in EXPERT_STEPS.items():
                groups[name] = [place for place, ran in enumerate(experts) if ran == expert]
        for name, places in groups.items():
            seconds = [look.warm[place] for place in places]
            if len(runs) < LEAST_RUNS:
                yield self._unmeasured(name, statistics.median(seconds), len(runs))
                continue
            past = [[run[place] for place in places] for run in runs]
            compared = compare_steps(past, seconds, self._rule)
            usual = statistics.median(itertools.chain.from_iterable(past))
            yield self._row(name, usual * compared.ratio, usual, compared, gates=STEP in self.case.perf.gates)

    def _value(self, measure: str, value: float, fresh: bool, look: Look) -> PerfComparison:
        past = _past(measure, self.pool.runs, fresh)
        if len(past) < LEAST_RUNS:
            return self._unmeasured(measure, value, len(past))
        # of a program that tells nothing of its steps, the whole duration stands for them
        stands_in = measure == "total" and not look.warm and STEP in self.case.perf.gates
        gates = measure in self.case.perf.gates or stands_in
        if measure in GROWTH:
            return self._growth(measure, value, past, gates)
        if measure in MEMORY and measure != "host_memory":
            return self._exact(measure, value, past, gates)
        if min(value, *past) <= 0:
            return self._unmeasured(measure, value, sum(number > 0 for number in past))
        rule = self._rule if measure != "host_memory" else Rule(max(HOST_EFFECT, self.case.perf.memory_effect))
        compared = compare_values(past, value, rule)
        usual = sorted(past)[len(past) // 2]
        total = look.values.get("total", 0.0)
        if measure in TIMES and value - usual < MATTERS * total:
            gates = False
        if measure == "host_memory" and value - usual < HOST_GRANULARITY:
            gates = False
        cold = cold_cache(look.engine.load) if look.engine and measure in ("read", "total") and fresh else None
        row = self._row(measure, value, usual, compared, gates=gates)
        if cold and row.state == "slower":
            return row.model_copy(update={"state": "inconclusive", "gates": False, "message": cold.message})
        return row

    @property
    def _rule(self) -> Rule:
        return Rule(effect=self.case.perf.effect)

    def _exact(self, measure: str, value: float, past: Sequence[float], gates: bool) -> PerfComparison:
        """Compare peaks of allocated memory. They have no noise: a peak a segment above the highest is more."""
        low, high = min(past), max(past)
        usual = sorted(past)[len(past) // 2]
        limit = exact_limit(past, self.case.perf.memory_effect)
        state: PerfState = "more_memory" if value > limit else "within"
        if value < low - max(GRANULARITY, high - low, usual * self.case.perf.effect):
            state = "less_memory"
        return PerfComparison(
            measure=measure,
            unit="bytes",
            value=value,
            baseline=usual,
            limit=limit,
            ratio=value / usual if usual else None,
            state=state,
            gates=gates,
            message=f"{signed_bytes(value - usual)} {WORDS[measure]}",
        )

    def _growth(self, measure: str, value: float, past: Sequence[float], gates: bool) -> PerfComparison:
        limit = max(past) + SUSPICIOUS[measure]
        usual = sorted(past)[len(past) // 2]
        return PerfComparison(
            measure=measure,
            unit="bytes",
            value=value,
            baseline=usual,
            limit=limit,
            state="leak" if value > limit else "within",
            gates=gates,
            message=f"{signed_bytes(value - usual)} {WORDS[measure]} after the run",
        )

    def _row(self, measure: str, value: float, usual: float, compared: Comparison, *, gates: bool) -> PerfComparison:
        state: PerfState = compared.direction
        if unit_of(measure) == "bytes":
            state = {"slower": "more_memory", "faster": "less_memory"}.get(state, state)  # type: ignore[assignment]
        return PerfComparison(
            measure=measure,
            unit=unit_of(measure),
            value=value,
            baseline=usual,
            limit=usual * compared.limit,
            ratio=compared.ratio,
            p=compared.p,
            state=state,
            gates=gates,
            message=f"{compared.ratio - 1:+.1%} {WORDS[measure]} (p = {compared.p:.1g})",
        )

    def _unmeasured(self, measure: str, value: float, runs: int) -> PerfComparison:
        return PerfComparison(
            measure=measure,
            unit=unit_of(measure),
            value=value,
            baseline=None,
            limit=None,
            state="unmeasured",
            gates=False,
            message=f"{WORDS[measure]}: the baseline has {runs} runs of it, and needs {LEAST_RUNS}",
        )


def _faster_in_truth(judged: Judged, measured: Judged) -> Judged:
    """Return the comparisons at the usual speed of the CPU; what did not take less time as measured is not faster.

    A disturbance that hits the fixed computation harder than the model would otherwise ask for a new baseline.
    """
    ratios = {row.measure: row.ratio for row in measured.comparisons}
    return replace(
        judged,
        comparisons=tuple(
            row.model_copy(update={"state": "within"})
            if row.state == "faster" and (ratios.get(row.measure) or 1.0) >= 1.0
            else row
            for row in judged.comparisons
        ),
    )


_ORDER = (STEP, *(measure for measure in TIMES if measure != STEP), *MEMORY, *GROWTH)


def without_baseline(first: Look, why: str) -> PerfReport:
    """Return a row per measure without a comparison, for a case that has no baseline."""
    values = {**({STEP: sorted(first.warm)[len(first.warm) // 2]} if first.warm else {}), **first.values}
    rows = tuple(
        PerfComparison(
            measure=measure,
            unit=unit_of(measure),
            value=value,
            baseline=None,
            limit=None,
            state="unmeasured",
            gates=False,
        )
        for measure, value in sorted(values.items(), key=lambda row: _ORDER.index(row[0]))
    )
    return PerfReport(state="unmeasured", comparisons=rows, reasons=(why,), message=f"not compared: {why}")


def _past(measure: str, runs: Sequence[PerfRun], fresh: bool) -> list[float]:
    alike = [run for run in runs if measure not in FRESH or measure == "host_memory" or run.fresh == fresh]
    return [run.values[measure] for run in alike if measure in run.values]


def bears_out_row(row: PerfComparison, case: Case) -> bool:
    """Return whether a further generation confirms a slower or larger measure."""
    if row.measure in MEMORY and row.measure != "host_memory":
        return row.state == "more_memory"
    effect = HOST_EFFECT if row.measure == "host_memory" else case.perf.effect
    return row.ratio is not None and confirms(row.ratio, row.p, effect)


def exact_limit(past: Sequence[float], effect: float) -> float:
    """Return the largest peak that does not count as more memory: the baseline's highest, plus its spread or a segment.

    Args:
        past: peaks of the baseline's runs.
        effect: smallest relative change that is worth red.
    """
    usual = sorted(past)[len(past) // 2]
    return max(max(past) + max(GRANULARITY, max(past) - min(past)), usual * (1 + effect))


def amount(value: float, unit: str) -> str:
    """Return a time or a size as text: ``0.512 s``, ``23.4 GiB``."""
    if unit == "bytes":
        return signed_bytes(value).removeprefix("+")
    return f"{value:.3g} s" if value >= 0.1 else f"{1000 * value:.3g} ms"


def signed_bytes(value: float) -> str:
    """Return a difference of bytes as text: ``+1.25 GiB``, ``-12 MiB``."""
    size = abs(value)
    for unit, scale in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if size >= scale:
            return f"{'+' if value >= 0 else '-'}{size / scale:.3g} {unit}"
    return f"{'+' if value >= 0 else '-'}{size:.0f} bytes"
