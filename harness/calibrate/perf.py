"""Make baselines of time and memory: run the case, compute the limits of a baseline, and write it."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable
from dataclasses import replace

from harness.definitions.case import Located
from harness.errors import InvalidCaseError
from harness.goldens.journal import committing
from harness.goldens.workspace import Workspace
from harness.perf.baseline import baseline_path
from harness.perf.comparing import SUSPICIOUS, exact_limit
from harness.perf.measures import GROWTH, MEMORY, STEP
from harness.perf.rule import LEAST_RUNS, compare_values, spread_of
from harness.project import Project
from harness.records.case_record import CaseRecord
from harness.records.perf_file import PerfFile, PerfPool
from harness.session.conductor import Session
from harness.session.context import SessionContext

LOOSER = 1.01
"""Factor by which a limit may rise without a reason: so much is noise of the runs of the baseline."""


def measure(context: SessionContext, located: Located, runs: int, say: Callable[[str], None]) -> tuple[CaseRecord, ...]:
    """Run a case several times, each time in its own engine, so that the baseline contains the noise between runs.

    Args:
        context: session context; each run has its own folder below the context's run.
        located: the case.
        runs: number of runs.
        say: called with one line per run.
    """
    records = []
    for number in range(1, runs + 1):
        session = Session(replace(context, run=f"{context.run}/{number:02}"))
        try:
            record = session.run_case(located, f"perf::{located.case.id}", lambda _: None).record
        finally:
            session.close()
        usage = record.generation.usage if record.generation else None
        shown = f", {statistics.median(usage.warm):.4g} s a step" if usage and usage.warm else ""
        say(f"{number:2} of {runs}  {record.case:<36} {record.verdict.outcome.value}{shown}")
        records.append(record)
    return tuple(records)


def limits_of(file: PerfFile) -> dict[tuple[str, str], float]:
    """Return, per pool and measure, the value from which a run is slower or larger, for default settings of a case."""
    limits: dict[tuple[str, str], float] = {}
    for pool in file.pools:
        for name, limit in _limits(pool).items():
            limits[pool.label, name] = limit
    return limits


def _limits(pool: PerfPool) -> dict[str, float]:
    found: dict[str, float] = {}
    warm = [statistics.median(run.steps[1:]) for run in pool.runs if len(run.steps) > 1]
    if len(warm) >= LEAST_RUNS:
        found[STEP] = math.exp(spread_of(warm).location) * compare_values(warm, warm[0]).limit
    names = dict.fromkeys(name for run in pool.runs for name in run.values)
    for name in names:
        values = [run.values[name] for run in pool.runs if name in run.values and run.fresh]
        if len(values) < LEAST_RUNS:
            continue
        if name in GROWTH:
            found[name] = max(values) + SUSPICIOUS[name]
        elif name in MEMORY and name != "host_memory":
            found[name] = exact_limit(values, 0.0)
        elif min(values) > 0:
            found[name] = math.exp(spread_of(values).location) * compare_values(values, values[0]).limit
    return found


def write_baseline(workspace: Workspace, new: PerfFile, old: PerfFile | None, *, reason: str) -> str:
    """Write a baseline. Return the file to commit, relative to the root.

    Raises:
        InvalidCaseError: the new baseline would let more through than the old one, and no reason is given.
    """
    target = baseline_path(Project(workspace.root).thresholds, new.runner, new.case)
    if old is not None and not reason.strip() and (looser := _looser(old, new)):
        raise InvalidCaseError(
            f"this baseline would let more through than before: {'; '.join(looser)}",
            where=str(target),
            remedy=f"if so: quantgate regenerate --perf --case {new.case} --runner {new.runner} --reason '...'",
        )
    with committing(workspace, f"baseline of {new.runner}/{new.case}") as transaction:
        transaction.write(target, new.to_json().encode())
    return str(target.relative_to(workspace.root))


def _looser(old: PerfFile, new: PerfFile) -> list[str]:
    before, now = limits_of(old), limits_of(new)
    return [
        f"{measure} in pool {pool} {before[pool, measure]:.4g} -> {limit:.4g}"
        for (pool, measure), limit in now.items()
        if measure not in GROWTH and limit > LOOSER * before.get((pool, measure), math.inf)
    ]
