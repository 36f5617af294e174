"""Time and memory of a run compared with its baseline, and what further generations of the same engine make of it.

Pure functions over records; the session generates, this room decides.
"""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from harness.definitions.case import Case
from harness.perf.baseline import pool_for
from harness.perf.measures import (
    EXPERT_STEPS,
    FRESH,
    GROWTH,
    MEMORY,
    ONCE,
    STEP,
    TIMES,
    WORDS,
    is_fresh,
    unit_of,
    values_of,
    work_of,
)
from harness.perf.quiet import Disturbance, cold_cache, disturbances
from harness.perf.rule import (
    CONFIRMATIONS,
    LEAST_RUNS,
    Comparison,
    Rule,
    compare_steps,
    compare_values,
    leak_per_run,
)
from harness.records.generation import EngineStart, Generation
from harness.records.perf import Conditions, PerfComparison, PerfReport, PerfState
from harness.records.perf_file import PerfFile, PerfPool, PerfRun

GRANULARITY = 2 * 2**20
"""Bytes. torch takes memory from the driver in segments of 2 MiB; a block that is split otherwise counts as much."""
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
    """One generation, with what it was made under."""

    generation: Generation
    engine: EngineStart | None
    conditions: Conditions | None

    @property
    def values(self) -> dict[str, float]:
        """Every measure but the steps."""
        return values_of(self.generation, self.engine, self.conditions)

    @property
    def warm(self) -> tuple[float, ...]:
        """Seconds of the steps without the first."""
        return self.generation.usage.warm if self.generation.usage else ()


@dataclass(frozen=True)
class Judged:
    """What one look says, measure by measure."""

    comparisons: tuple[PerfComparison, ...]
    disturbed: tuple[Disturbance, ...]

    def suspects(self, states: Sequence[PerfState] = BAD) -> tuple[PerfComparison, ...]:
        """Gating measures in one of ``states``."""
        return tuple(one for one in self.comparisons if one.gates and one.state in states)

    @property
    def slow(self) -> bool:
        """Whether a gating time is slower. A disturbance says nothing of memory."""
        return any(one.measure in TIMES for one in self.suspects())


@dataclass
class Judge:
    """Judges the generations of one case against one baseline.

    Args:
        case: the case, with its `perf` settings.
        file: its baseline, or ``None``.
        machine: name of the machine.
        pool: pool that the lane states, or empty.
    """

    case: Case
    file: PerfFile | None
    machine: str
    pool: str = ""
    looks: list[Look] = field(default_factory=list)
    why_not: str = "it could not be generated again"
    """Why there is no further generation, if there is none."""

    def report(self, first: Look, again: Callable[[], Look | None]) -> PerfReport:
        """Judge a run.

        Args:
            first: the case's generation.
            again: generates once more in the same engine; ``None`` if that is not possible.

        Returns:
            The report without its cause, see `harness.perf.causes`.
        """
        self.looks = [first]
        report = self._compared(first, again)
        return self._with_repeats(report, again) if self.case.perf.generations > 1 else report

    def _compared(self, first: Look, again: Callable[[], Look | None]) -> PerfReport:
        pool, why = self._pool()
        if pool is None or self.file is None:
            return _without_baseline(first, why)
        judged = self._judge(first, pool)
        retried = False
        if judged.slow and judged.disturbed:
            judged, retried = self._again(again, pool) or judged, True
            if judged.slow and judged.disturbed:
                return self._inconclusive(judged, pool)
        suspects = judged.suspects()
        reasons: tuple[str, ...] = ()
        if suspects:
            confirmed = self._confirmed(suspects, again, pool)
            if isinstance(confirmed, Judged):
                return self._inconclusive(confirmed, pool)
            judged, reasons = _settled(judged, confirmed)
        if retried and not reasons:
            reasons = (f"generated again: {'; '.join(one.message for one in self._disturbed(first))}",)
        return self._final(judged, pool, reasons)

    def _pool(self) -> tuple[PerfPool | None, str]:
        if self.file is None:
            return None, "no baseline"
        if self.file.request != (now := work_of(self.case)):
            names = sorted(name for name in now if now[name] != self.file.request.get(name))
            return None, f"the baseline is of another size ({', '.join(names)})"
        if self.looks and self.looks[0].generation.usage and self.looks[0].generation.usage.emulated:
            return None, "the products are emulated, and their times mean nothing"
        return pool_for(self.file, self.machine, self.pool)

    def _disturbed(self, look: Look) -> tuple[Disturbance, ...]:
        usual = self.file.facts.sm_clock if self.file else None
        return disturbances(look.conditions, usual)

    def _again(self, again: Callable[[], Look | None], pool: PerfPool) -> Judged | None:
        look = again()
        if look is None:
            return None
        self.looks.append(look)
        return self._judge(look, pool)

    def _confirmed(
        self, suspects: Sequence[PerfComparison], again: Callable[[], Look | None], pool: PerfPool
    ) -> dict[str, str] | Judged:
        """The suspects that further generations do not bear out, with what they say; or a disturbed look."""
        cleared: dict[str, str] = {}
        # the first of two levels is dirty with caches that the first generation filled, so a leak takes one more
        growing = any(one.measure in GROWTH for one in suspects)
        for _ in range(CONFIRMATIONS + growing):
            left = [one for one in suspects if one.measure not in cleared and one.measure not in ONCE]
            if not left:
                break
            judged = self._again(again, pool)
            if judged is None:
                lone = self._judge(self.looks[-1], pool)
                return Judged(lone.comparisons, (*lone.disturbed, Disturbance("not_confirmed", self.why_not)))
            now = {one.measure: one for one in judged.comparisons}
            for one in left:
                second = now.get(one.measure)
                if one.measure in GROWTH or second is None:
                    continue
                if _beyond(second, self.case):
                    if judged.disturbed and one.measure in TIMES:
                        return judged
                else:
                    cleared[one.measure] = second.message
        for one in suspects:
            if one.measure in GROWTH and not self._leaks(one.measure):
                cleared[one.measure] = "it does not grow with further generations"
        return cleared

    def _leaks(self, measure: str) -> bool:
        """Whether each of the further generations left more memory allocated than the one before."""
        values = self._levels(measure)[1:]  # from the first to the second, caches are filled
        growth = [after - before for before, after in itertools.pairwise(values)]
        return bool(growth) and min(growth) > GROWTH_MARGIN[measure]

    def _levels(self, measure: str) -> list[float]:
        """Bytes that were allocated when each generation began, and at the end of the last."""
        levels: list[float | None] = []
        for look in self.looks:
            usage, seen = look.generation.usage, look.conditions
            levels.append(
                (usage.allocated_before if usage else None)
                if measure == "growth"
                else (seen.host_before if seen else None)
            )
        last = self.looks[-1]
        end = last.conditions.host_after if measure == "host_growth" and last.conditions else None
        return [float(level) for level in (*levels, end) if level is not None]

    def _judge(self, look: Look, pool: PerfPool) -> Judged:
        rows: list[PerfComparison] = []
        if look.warm:
            rows += self._steps(look, pool)
        fresh = is_fresh(look.generation)
        for measure, value in look.values.items():
            rows.append(self._value(measure, value, pool, fresh, look))
        rows.sort(key=lambda row: _ORDER.index(row.measure))
        return Judged(tuple(rows), self._disturbed(look))

    def _steps(self, look: Look, pool: PerfPool) -> Iterator[PerfComparison]:
        """All warm steps, and those of each expert if there are two."""
        runs = [run.steps[1:] for run in pool.runs if len(run.steps) == len(look.warm) + 1]
        groups: dict[str, list[int]] = {STEP: list(range(len(look.warm)))}
        experts = look.generation.usage.experts[1:] if look.generation.usage else ()
        if len(set(experts)) > 1:
            for expert, name in EXPERT_STEPS.items():
                groups[name] = [place for place, ran in enumerate(experts) if ran == expert]
        for name, places in groups.items():
            own = [look.warm[place] for place in places]
            if len(runs) < LEAST_RUNS:
                yield self._unmeasured(name, statistics.median(own), len(runs))
                continue
            past = [[run[place] for place in places] for run in runs]
            compared = compare_steps(past, own, self._rule)
            usual = statistics.median(itertools.chain.from_iterable(past))
            yield self._row(name, usual * compared.ratio, usual, compared, gates=STEP in self.case.perf.gates)

    def _value(self, measure: str, value: float, pool: PerfPool, fresh: bool, look: Look) -> PerfComparison:
        past = _past(measure, pool.runs, fresh)
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
            return self._unmeasured(measure, value, sum(one > 0 for one in past))
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
        """Peaks of allocated memory have no noise to test against: what exceeds the highest by a segment is more."""
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
            message=f"{_signed_bytes(value - usual)} {WORDS[measure]}",
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
            message=f"{_signed_bytes(value - usual)} {WORDS[measure]} after the run",
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

    def _with_repeats(self, report: PerfReport, again: Callable[[], Look | None]) -> PerfReport:
        """Make the further generations that the case asks for, and look for memory that grows with them."""
        while len(self.looks) < self.case.perf.generations:
            look = again()
            if look is None:
                break
            self.looks.append(look)
        for measure in GROWTH:
            levels = self._levels(measure)[1:]
            slope = leak_per_run(levels)
            if slope is not None and slope > GROWTH_MARGIN[measure]:
                message = f"{_signed_bytes(slope)} {WORDS[measure]} per generation, over {len(self.looks)} generations"
                row = PerfComparison(
                    measure=measure,
                    unit="bytes",
                    value=slope,
                    baseline=0.0,
                    limit=float(GROWTH_MARGIN[measure]),
                    state="leak",
                    gates=measure in self.case.perf.gates,
                    message=message,
                )
                rows = (*(one for one in report.comparisons if one.measure != measure), row)
                state: PerfState = "leak" if row.gates else report.state
                report = report.model_copy(update={"state": state, "comparisons": rows, "message": message})
        return report.model_copy(update={"confirmations": len(self.looks) - 1})

    def _inconclusive(self, judged: Judged, pool: PerfPool) -> PerfReport:
        said = tuple(one.message for one in judged.disturbed)
        rows = tuple(
            one.model_copy(update={"state": "inconclusive", "gates": False})
            if one.state in BAD and one.measure in TIMES
            else one
            for one in judged.comparisons
        )
        slow = "; ".join(one.message for one in judged.suspects())
        report = self._final(Judged(rows, judged.disturbed), pool, said)
        if report.state in BAD:
            return report
        message = f"inconclusive: {slow}, and {'; '.join(said)}"
        return report.model_copy(update={"state": "inconclusive", "message": message})

    def _final(self, judged: Judged, pool: PerfPool, reasons: tuple[str, ...]) -> PerfReport:
        bad, good = judged.suspects(BAD), judged.suspects(GOOD)
        leading = (bad or good or judged.comparisons)[0] if judged.comparisons else None
        state: PerfState = leading.state if (bad or good) and leading else "within"
        if not any(one.state != "unmeasured" and one.gates for one in judged.comparisons):
            state = "unmeasured"
        if good and not bad and self.looks and (disturbed := self._disturbed(self.looks[-1])):
            reasons = (*reasons, *(one.message for one in disturbed))
        parts = [one.message for one in (bad or good)] or [leading.message if leading else "nothing was measured"]
        message = f"{'; '.join(parts)}, pool {pool.label}, {len(pool.runs)} runs"
        return PerfReport(
            state=state,
            pool=pool.label,
            runs=len(pool.runs),
            comparisons=judged.comparisons,
            reasons=reasons,
            confirmations=len(self.looks) - 1,
            message=message,
        )


_ORDER = (STEP, *(one for one in TIMES if one != STEP), *MEMORY, *GROWTH)


def _without_baseline(first: Look, why: str) -> PerfReport:
    """Every measure, compared with nothing."""
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


def _beyond(row: PerfComparison, case: Case) -> bool:
    """Whether a further generation bears a suspect out."""
    if row.measure in MEMORY and row.measure != "host_memory":
        return row.state == "more_memory"
    effect = HOST_EFFECT if row.measure == "host_memory" else case.perf.effect
    return row.ratio is not None and math.log(row.ratio) > math.log1p(effect)


def _settled(judged: Judged, cleared: dict[str, str]) -> tuple[Judged, tuple[str, ...]]:
    """The comparisons after the confirmation: what was not borne out is within, and says so."""
    rows, reasons = [], []
    for row in judged.comparisons:
        if row.measure in cleared and row.gates and row.state in BAD:
            reasons.append(f"{row.message} in one generation, and in a further one: {cleared[row.measure]}")
            rows.append(row.model_copy(update={"state": "within", "message": f"{row.message}, not borne out"}))
        else:
            rows.append(row)
    return Judged(tuple(rows), judged.disturbed), tuple(reasons)


def exact_limit(past: Sequence[float], effect: float) -> float:
    """Most bytes that are not more than the baseline's: its highest, and what its runs differ by or a segment.

    Args:
        past: peaks of the baseline's runs.
        effect: smallest relative change that is worth red.
    """
    usual = sorted(past)[len(past) // 2]
    return max(max(past) + max(GRANULARITY, max(past) - min(past)), usual * (1 + effect))


def amount(value: float, unit: str) -> str:
    """A time or a size for people: ``0.512 s``, ``23.4 GiB``."""
    if unit == "bytes":
        return _signed_bytes(value).removeprefix("+")
    return f"{value:.3g} s" if value >= 0.1 else f"{1000 * value:.3g} ms"


def _signed_bytes(value: float) -> str:
    """``+1.25 GiB``, ``-12 MiB``."""
    size = abs(value)
    for unit, scale in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if size >= scale:
            return f"{'+' if value >= 0 else '-'}{size / scale:.3g} {unit}"
    return f"{'+' if value >= 0 else '-'}{size:.0f} bytes"
