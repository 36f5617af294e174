"""Baselines: from the records of past runs to ``thresholds/<runner>/<case>.perf.json``, and the pool of a run in it.

A person makes a baseline with ``quantgate regenerate --perf``; nothing ever changes one by itself.
"""

from __future__ import annotations

import itertools
import math
import statistics
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from harness.definitions.case import Case
from harness.errors import InvalidCaseError
from harness.outcomes import Outcome
from harness.perf.measures import EXPERTS, PERF_CAUSES, is_fresh, usage_of, values_of, work_of
from harness.perf.quiet import disturbances
from harness.perf.rule import LEAST_RUNS, SMALLEST_EFFECT
from harness.reading import UnreadableError
from harness.records.base import Json
from harness.records.case_record import CaseRecord
from harness.records.perf import PerfFacts
from harness.records.perf_file import PerfFile, PerfPool, PerfRun
from harness.text import listed

MOST_RUNS = 40
"""Newest runs of a pool that a baseline keeps."""
ENOUGH_RUNS, ENOUGH_PLACES = 10, 3
"""Runs, and days or machines, below which a baseline's ``covers`` states that it covers little."""
GENERAL_MACHINES = 3
"""Number of machines that must be equally fast before a further machine is assumed to be like them."""
HEALTHY = frozenset({Outcome.PASS, Outcome.WAIVED, Outcome.GOLDEN_MISSING, Outcome.GOLDEN_STALE})


def baseline_path(thresholds: Path, runner: str, case: str) -> Path:
    """Return ``thresholds/<runner>/<case>.perf.json``."""
    return thresholds / runner / f"{case}.perf.json"


def baseline_paths(thresholds: Path, runner: str) -> list[Path]:
    """Return every baseline file of a runner, sorted."""
    return sorted(thresholds.glob(f"{runner}/*.perf.json"))


def load_baseline(thresholds: Path, runner: str, case: str, *, allow_edited: bool = False) -> PerfFile | None:
    """Read the baseline of a case on a runner. Returns ``None`` if there is none.

    Args:
        thresholds: folder ``thresholds/``.
        runner: name of the profile.
        case: id of the case.
        allow_edited: read a file that was edited by hand too, in order to replace it.

    Raises:
        InvalidCaseError: the file is there and cannot be read, belongs to another case, or was edited by hand.
    """
    path = baseline_path(thresholds, runner, case)
    again = f"git checkout {path}, or make it anew: quantgate regenerate --perf --case {case} --runner {runner}"
    try:
        file = PerfFile.read(path)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise InvalidCaseError(f"cannot be read: {error.strerror}", place=str(path), remedy=again) from None
    except UnreadableError as error:
        raise InvalidCaseError(f"is no baseline: {error.message}", place=str(path), remedy=again) from None
    if (file.case, file.runner) != (case, runner):
        raise InvalidCaseError(
            f"says case {file.case!r} on {file.runner!r}, and lies where {case!r} on {runner!r} is read",
            place=str(path),
            remedy=again,
        )
    if not allow_edited and not file.is_sealed:
        raise InvalidCaseError("was changed after it was made; its seal does not fit", place=str(path), remedy=again)
    return file


@dataclass(frozen=True)
class Refused:
    """Reason for leaving a record out of a baseline."""

    run: str
    why: str


def run_of(record: CaseRecord) -> PerfRun | Refused:
    """Return a record as a run of a baseline, or the reason if it is no measure of the usual speed."""
    generation, verdict = record.generation, record.verdict
    if generation is None:
        return Refused(record.run, "nothing was generated")
    if verdict.outcome not in HEALTHY and verdict.cause not in PERF_CAUSES:
        return Refused(record.run, f"it ended {verdict.label}")
    if disturbed := disturbances(record.conditions, None):
        return Refused(record.run, disturbed[0].message)
    usage = usage_of(generation)
    return PerfRun(
        run=record.run,
        started=record.started,
        machine=record.conditions.machine if record.conditions else "",
        fresh=is_fresh(generation),
        steps=usage.steps if usage else (),
        values=values_of(generation, record.engine, record.conditions),
        cpu=usage.cpu if usage else None,
    )


def build(
    case: Case, runner: str, records: Sequence[CaseRecord], *, author: str, reason: str
) -> tuple[PerfFile, tuple[Refused, ...]]:
    """Make a baseline of past runs.

    Args:
        case: the case as it is now; runs of another size are left out.
        runner: name of the profile.
        records: records of this case on this runner, in any order.
        author, reason: the person who makes it, and the reason.

    Returns:
        The baseline, and the runs that were left out.

    Raises:
        InvalidCaseError: no pool has enough runs.
    """
    work = work_of(case)
    refused: list[Refused] = []
    accepted: list[tuple[CaseRecord, PerfRun]] = []
    for record in sorted(records, key=lambda item: item.started):
        requested_work = work_of(Case.model_validate(record.request)) if record.request else work
        run = run_of(record) if requested_work == work else Refused(record.run, "it is of another size")
        if isinstance(run, Refused):
            refused.append(run)
        else:
            accepted.append((record, run))
    pools = tuple(_pools(accepted, runner))
    full = tuple(pool for pool in pools if len(pool.runs) >= LEAST_RUNS)
    refused += [
        Refused(run.run, f"its pool {pool.label} has {len(pool.runs)} runs, and needs {LEAST_RUNS}")
        for pool in pools
        if pool not in full
        for run in pool.runs
    ]
    if not full:
        most = max((len(pool.runs) for pool in pools), default=0)
        raise InvalidCaseError(
            f"a baseline needs {LEAST_RUNS} quiet runs on machines that are alike, and there are {most}"
            + (f"; left out: {_shown(refused)}" if refused else ""),
            place=case.id,
            remedy=f"quantgate regenerate --perf --case {case.id} --runner {runner} --measure {LEAST_RUNS - most}",
        )
    return (
        PerfFile(
            case=case.id,
            runner=runner,
            request=work,
            pools=full,
            facts=facts_of([record for record, run in accepted if any(run in pool.runs for pool in full)]),
            covers="; ".join(_covers(pool) for pool in full),
            notes=(*itertools.chain.from_iterable(_notes(pool) for pool in full), *_apart(full)),
            author=author,
            reason=reason,
            created=datetime.now(UTC).isoformat(timespec="seconds"),
        ),
        tuple(refused),
    )


def facts_of(records: Sequence[CaseRecord]) -> PerfFacts:
    """Return hardware and packages of the newest run, and the median clock of all runs."""
    if not records:
        return PerfFacts()
    newest = records[-1]
    generation, fingerprint = newest.generation, newest.fingerprint
    clocks = [record.conditions.sm_clock for record in records if record.conditions and record.conditions.sm_clock]
    receipts: dict[str, Json] = {}
    if generation is not None:
        for expert in EXPERTS:
            if counts := generation.receipts.count(expert):
                receipts[expert] = dict(counts)
    usage = generation.usage if generation else None
    return PerfFacts(
        receipts=receipts,
        compilations=usage.compilations if usage else None,
        attention=usage.attention if usage else "",
        driver=(fingerprint.driver or "") if fingerprint else "",
        packages=fingerprint.packages if fingerprint else {},
        sm_clock=round(statistics.median(clocks)) if clocks else None,
    )


def pool_for(file: PerfFile, machine: str, stated: str) -> tuple[PerfPool | None, str]:
    """Return the pool that a machine belongs to, or ``None`` and the reason.

    Args:
        file: the baseline.
        machine: name of the machine (`harness.perf.conditions.machine_name`).
        stated: pool that the lane states for it; empty: none.
    """
    for pool in file.pools:
        if machine in pool.machines:
            return pool, ""
    same = [pool for pool in file.pools if stated and pool.label.partition("/")[0] == stated]
    if len(same) == 1:
        return same[0], ""
    if len(file.pools) == 1 and len(file.pools[0].machines) >= GENERAL_MACHINES and not stated:
        return file.pools[0], ""
    pool_names = ", ".join(f"{pool.label} ({_count(len(pool.machines), 'machine')})" for pool in file.pools)
    return None, f"machine {machine or 'without a name'} is in no pool of the baseline ({pool_names})"


def _pools(accepted: Sequence[tuple[CaseRecord, PerfRun]], runner: str) -> Iterable[PerfPool]:
    """Group machines by the pool that the lane states, then by speed: a gap of the smallest effect parts them."""
    by_label: dict[str, list[PerfRun]] = defaultdict(list)
    for record, run in accepted:
        stated = record.conditions.pool if record.conditions else ""
        by_label[stated or runner].append(run)
    for label, runs in sorted(by_label.items()):
        clusters = _alike(runs)
        for place, machines in enumerate(clusters):
            recent = tuple(run for run in runs if run.machine in machines)[-MOST_RUNS:]
            name = label if len(clusters) == 1 else f"{label}/{_letters(place)}"
            yield PerfPool(label=name, machines=tuple(sorted(machines)), runs=recent)


def _alike(runs: Sequence[PerfRun]) -> list[set[str]]:
    """Group machines by speed, the fastest first. A gap in usual time above the smallest effect starts a new group."""
    speeds: dict[str, list[float]] = defaultdict(list)
    for run in runs:
        speeds[run.machine].append(_speed(run))
    order = sorted(speeds, key=lambda machine: statistics.median(speeds[machine]))
    clusters: list[set[str]] = []
    before = -math.inf
    for machine in order:
        now = statistics.median(speeds[machine])
        if now - before > math.log1p(SMALLEST_EFFECT) or not clusters:
            clusters.append(set())
        clusters[-1].add(machine)
        before = now
    return clusters


def _speed(run: PerfRun) -> float:
    """Return the logarithm of the usual time of a run: of its warm steps, or of the whole run."""
    warm = run.steps[1:]
    value = statistics.median(warm) if warm else run.values.get("total", 1.0)
    return math.log(max(value, 1e-9))


def _covers(pool: PerfPool) -> str:
    counts = (
        _count(len(pool.runs), "run"),
        _count(pool.days, "day"),
        _count(len(pool.machines), "machine"),
    )
    return f"pool {pool.label}: {counts[0]} on {counts[1]} and {counts[2]}"


def _notes(pool: PerfPool) -> Iterable[str]:
    places = max(pool.days, len(pool.machines))
    if len(pool.runs) < ENOUGH_RUNS:
        yield (
            f"pool {pool.label} has {len(pool.runs)} runs: its prediction interval is wide, so that small effects are "
            f"missed ({ENOUGH_RUNS} are enough)"
        )
    if places < ENOUGH_PLACES:
        yield (
            f"pool {pool.label} covers {_count(pool.days, 'day')} and {_count(len(pool.machines), 'machine')}: "
            f"how much days and machines differ is not known ({ENOUGH_PLACES} of either are enough)"
        )


def _apart(pools: Sequence[PerfPool]) -> Iterable[str]:
    """Return a note on the distance between the pools. A person must see it: it may be a regression of one machine."""
    for fast, slow in itertools.pairwise(pools):
        if fast.label.partition("/")[0] == slow.label.partition("/")[0]:
            ratio = math.exp(statistics.median(map(_speed, slow.runs)) - statistics.median(map(_speed, fast.runs)))
            yield f"pool {slow.label} is {ratio:.2f} times as slow as {fast.label}: each is judged by its own runs"


def _count(number: int, word: str) -> str:
    return f"{number} {word}{'' if number == 1 else 's'}"


def _letters(place: int) -> str:
    return chr(ord("a") + place) if place < 26 else str(place)


def _shown(refused: Sequence[Refused]) -> str:
    return listed([f"{run.run}: {run.why}" for run in refused], 3, "; ")
