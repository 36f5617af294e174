"""Judge a run's time and memory, with further generations of the same engine if they are needed.

Pure functions over records; the session generates, this room decides.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from harness.definitions.case import Case
from harness.perf.baseline import pool_for
from harness.perf.comparing import (
    BAD,
    GOOD,
    GROWTH_MARGIN,
    Comparer,
    Judged,
    Look,
    bears_out_row,
    signed_bytes,
    without_baseline,
)
from harness.perf.measures import (
    GROWTH,
    ONCE,
    TIMES,
    WORDS,
    work_of,
)
from harness.perf.quiet import Disturbance, disturbances
from harness.perf.rule import (
    CONFIRMATIONS,
    leak_per_run,
)
from harness.perf.speed import WORTH_SAYING, slowness, usual_speed
from harness.records.perf import PerfComparison, PerfReport, PerfState
from harness.records.perf_file import PerfFile, PerfPool

LEAST_LOOKS = 3
"""Generations that show a leak: from the first to the second, caches are filled."""


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
    """Reason why no further generation was made; empty if there was one."""

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
            return without_baseline(first, why)
        judged = self._comparer(pool).judge(first)
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
                return self._inconclusive(confirmed, pool, suspects)
            judged, reasons = _settled(judged, confirmed)
        if retried and not reasons:
            reasons = (f"generated again: {'; '.join(disturbance.message for disturbance in self._disturbed(first))}",)
        return self._growing(self._final(judged, pool, reasons))

    def _growing(self, report: PerfReport) -> PerfReport:
        """Return the report with a leak in place of more memory, if each confirming generation began with more.

        Memory that is lost between generations shows in the peaks of the first one already.
        """
        levels = self._levels("growth")
        if report.state != "more_memory" or len(levels) < LEAST_LOOKS or not self._leaks("growth"):
            return report
        leaking = self._with_leak(report, "growth", levels[-1] - levels[-2])
        message = f"{leaking.message}; {report.message}" if leaking.state == "leak" else report.message
        return leaking.model_copy(update={"message": message})

    def _with_leak(self, report: PerfReport, measure: str, per_generation: float) -> PerfReport:
        """Return the report with a leak of so many bytes a generation; its state changes only if the measure gates."""
        amount = signed_bytes(per_generation)
        row = PerfComparison(
            measure=measure,
            unit="bytes",
            value=per_generation,
            baseline=0.0,
            limit=float(GROWTH_MARGIN[measure]),
            state="leak",
            gates=measure in self.case.perf.gates,
            message=f"{amount} {WORDS[measure]} per generation, over {len(self.looks)} generations",
        )
        rows = (*(item for item in report.comparisons if item.measure != measure), row)
        state: PerfState = "leak" if row.gates else report.state
        return report.model_copy(update={"state": state, "comparisons": rows, "message": row.message})

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

    def _speed_note(self, pool: PerfPool) -> str:
        """Return a sentence if times were corrected for a CPU that was slower or faster than in the baseline."""
        ratio = slowness(self.looks[0].cpu, usual_speed(pool)) if self.looks else None
        if ratio is None or 1 / WORTH_SAYING < ratio < WORTH_SAYING:
            return ""
        return f"the CPU ran at {1 / ratio:.0%} of its usual speed: times are given at the usual speed"

    def _comparer(self, pool: PerfPool) -> Comparer:
        return Comparer(self.case, pool, self.file.facts.sm_clock if self.file else None)

    def _again(self, again: Callable[[], Look | None], pool: PerfPool) -> Judged | None:
        look = again()
        if look is None:
            return None
        self.looks.append(look)
        return self._comparer(pool).judge(look)

    def _confirmed(
        self, suspects: Sequence[PerfComparison], again: Callable[[], Look | None], pool: PerfPool
    ) -> dict[str, str] | Judged:
        """Generate again for the suspects. Return those not confirmed, or the disturbed generation."""
        cleared: dict[str, str] = {}
        # the first of two levels is dirty with caches that the first generation filled, so a leak takes one more
        growing = any(row.measure in GROWTH for row in suspects)
        for _ in range(CONFIRMATIONS + growing):
            open_rows = [row for row in suspects if row.measure not in cleared and row.measure not in ONCE]
            if not open_rows:
                break
            judged = self._again(again, pool)
            if judged is None:
                lone = self._comparer(pool).judge(self.looks[-1])
                return Judged(lone.comparisons, (*lone.disturbed, Disturbance("not_confirmed", self.why_not)))
            now = {row.measure: row for row in judged.comparisons}
            for suspect in open_rows:
                second = now.get(suspect.measure)
                if suspect.measure in GROWTH or second is None:
                    continue
                if bears_out_row(second, self.case):
                    if judged.disturbed and suspect.measure in TIMES:
                        return judged
                else:
                    cleared[suspect.measure] = second.message
        for suspect in suspects:
            if suspect.measure in GROWTH and not self._leaks(suspect.measure):
                cleared[suspect.measure] = "it does not grow with further generations"
        return cleared

    def _leaks(self, measure: str) -> bool:
        """Return whether each further generation left more memory allocated than the previous generation."""
        values = self._levels(measure)[1:]  # from the first to the second, caches are filled
        growth = [after - before for before, after in itertools.pairwise(values)]
        return bool(growth) and min(growth) > GROWTH_MARGIN[measure]

    def _levels(self, measure: str) -> list[float]:
        """Return the bytes that were allocated when each generation began, and at the end of the last."""
        levels: list[float | None] = []
        for look in self.looks:
            usage, conditions = look.generation.usage, look.conditions
            levels.append(
                (usage.allocated_before if usage else None)
                if measure == "growth"
                else (conditions.host_before if conditions else None)
            )
        last = self.looks[-1]
        end = last.conditions.host_after if measure == "host_growth" and last.conditions else None
        return [float(level) for level in (*levels, end) if level is not None]

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
                report = self._with_leak(report, measure, slope)
        return report.model_copy(update={"confirmations": len(self.looks) - 1})

    def _inconclusive(self, judged: Judged, pool: PerfPool, suspects: Sequence[PerfComparison] = ()) -> PerfReport:
        """Report that nothing can be concluded of ``suspects``; default: of what is slower in ``judged``."""
        messages = tuple(disturbance.message for disturbance in judged.disturbed)
        rows = tuple(
            row.model_copy(update={"state": "inconclusive", "gates": False})
            if row.state in BAD and row.measure in TIMES
            else row
            for row in judged.comparisons
        )
        slow = "; ".join(row.message for row in judged.suspects() or suspects)
        report = self._final(Judged(rows, judged.disturbed), pool, messages)
        if report.state in BAD:
            return report
        message = f"inconclusive: {slow}, and {'; '.join(messages)}"
        return report.model_copy(update={"state": "inconclusive", "message": message})

    def _final(self, judged: Judged, pool: PerfPool, reasons: tuple[str, ...]) -> PerfReport:
        # a leak explains a higher peak, so it leads
        bad = tuple(sorted(judged.suspects(BAD), key=lambda row: row.state == "more_memory"))
        good = judged.suspects(GOOD)
        leading = (bad or good or judged.comparisons)[0] if judged.comparisons else None
        state: PerfState = leading.state if (bad or good) and leading else "within"
        if not any(row.state != "unmeasured" and row.gates for row in judged.comparisons):
            state = "unmeasured"
        if good and not bad and self.looks and (disturbed := self._disturbed(self.looks[-1])):
            reasons = (*reasons, *(disturbance.message for disturbance in disturbed))
        if (note := self._speed_note(pool)) not in reasons:
            reasons = (*reasons, *([note] if note else []))
        parts = [item.message for item in (bad or good)] or [leading.message if leading else "nothing was measured"]
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


def _settled(judged: Judged, cleared: dict[str, str]) -> tuple[Judged, tuple[str, ...]]:
    """Return the comparisons after the confirmation. A measure that was not confirmed is within, with a note."""
    rows, reasons = [], []
    for row in judged.comparisons:
        if row.measure in cleared and row.gates and row.state in BAD:
            reasons.append(f"{row.message} in one generation, and in a further one: {cleared[row.measure]}")
            rows.append(row.model_copy(update={"state": "within", "message": f"{row.message}, not borne out"}))
        else:
            rows.append(row)
    return Judged(tuple(rows), judged.disturbed), tuple(reasons)
