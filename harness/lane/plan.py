"""Assign each case to a shard, and write the plan that shards follow and ``merge`` compares the results with."""

from __future__ import annotations

import hashlib
import heapq
import json
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import Field

from harness.definitions.case import Case, Located
from harness.definitions.runner import RunnerProfile
from harness.engine.environment import engine_key
from harness.errors import InvalidCaseError, QuantgateError
from harness.lane.coverage import Coverage
from harness.lane.durations import Duration, History, durations
from harness.outcomes import Outcome
from harness.reading import UnreadableError, reason
from harness.records.base import Json, Record
from harness.records.golden import canonical_sha256

# Longest processing time first: assign units to machines.


WORTH = 0.1
"""Share of the makespan that splitting an engine must save at least (0.1: ten percent)."""


@dataclass(frozen=True)
class Unit:
    """Indivisible work: the cases of one engine, or a part of an engine that was too long for one machine."""

    key: str
    load: float
    """Seconds to load the model into memory, once per unit."""
    cases: tuple[tuple[str, float], ...]
    """Case id and seconds, in execution order."""

    @property
    def seconds(self) -> float:
        """Return the expected seconds of the whole unit, with its load."""
        return self.load + sum(seconds for _, seconds in self.cases)


@dataclass(frozen=True)
class Split:
    """An engine that was spread over several machines, each of which loads its model."""

    key: str
    parts: int
    seconds: float
    ideal: float


def lpt(units: Sequence[Unit], machines: int) -> list[list[Unit]]:
    """Assign units to machines (longest processing time first); return the units per machine, longest first.

    Ties are broken by key, so that a plan is reproducible.

    Raises:
        ValueError: ``machines`` is less than one.
    """
    if machines < 1:
        raise ValueError(f"a plan needs at least one machine, not {machines}")
    bins: list[list[Unit]] = [[] for _ in range(machines)]
    free = [(0.0, index) for index in range(machines)]
    for unit in sorted(units, key=lambda item: (-item.seconds, item.key)):
        # Each unit goes to the machine with the least work so far; the index breaks ties of the load.
        load, index = heapq.heappop(free)
        bins[index].append(unit)
        heapq.heappush(free, (load + unit.seconds, index))
    return bins


def makespan(bins: Sequence[Sequence[Unit]]) -> float:
    """Return the seconds of the machine that ends last; 0 without machines."""
    return max((sum(unit.seconds for unit in shard) for shard in bins), default=0.0)


def lower_bound(units: Sequence[Unit], machines: int) -> float:
    """Return a lower bound, in seconds, of every plan of indivisible ``units`` on ``machines``.

    The largest of three: the mean, the longest unit, and the two shortest of the m + 1 longest units, since two of
    those run on one machine.
    """
    times = sorted((unit.seconds for unit in units), reverse=True)
    shared = times[machines - 1] + times[machines] if len(times) > machines else 0.0
    return max(sum(times) / machines, times[0] if times else 0.0, shared)


def split_long(units: Sequence[Unit], machines: int) -> tuple[list[Unit], tuple[Split, ...]]:
    """Split an engine if it alone is longer than the ideal makespan and splitting makes the plan much shorter.

    Every part loads the model again, which costs machine time: the makespan must fall by ``WORTH`` at least.
    """
    ideal = sum(unit.seconds for unit in units) / machines if machines else 0.0
    best, splits = list(units), []
    for unit in sorted(units, key=lambda item: (-item.seconds, item.key)):
        # An engine within the ideal makespan does not delay the plan, and an engine of one case cannot be split.
        if machines < 2 or unit.seconds <= ideal or len(unit.cases) < 2:
            continue
        unsplit = [other for other in best if other.key != unit.key]
        plans = [unsplit + _parts(unit, count) for count in range(2, min(len(unit.cases), machines) + 1)]
        # Rounding hides differences in the last digits, so that of equally long plans the one with fewer parts wins.
        chosen = min(plans, key=lambda plan: (round(makespan(lpt(plan, machines)), 6), len(plan)))
        if makespan(lpt(chosen, machines)) <= (1 - WORTH) * makespan(lpt(best, machines)):
            splits.append(Split(unit.key, len(chosen) - len(unsplit), unit.seconds, ideal))
            best = chosen
    return best, tuple(splits)


def _parts(unit: Unit, count: int) -> list[Unit]:
    # The model load is left out here: every part pays it, so it does not change how the cases are distributed.
    singles = [Unit(f"{unit.key}/{name}", 0.0, ((name, seconds),)) for name, seconds in unit.cases]
    order = [name for name, _ in unit.cases]
    parts = []
    for index, part in enumerate(lpt(singles, count)):
        # lpt orders by length; the cases of a part keep the order that they have in the engine.
        cases = sorted((case for single in part for case in single.cases), key=lambda case: order.index(case[0]))
        parts.append(Unit(f"{unit.key}/{index + 1}", unit.load, tuple(cases)))
    return parts


class PlanError(QuantgateError):
    """There is nothing to plan, or the plan does not fit the shards, the files or the cases at hand."""

    outcome = Outcome.NOT_RUN


class PlannedCase(Record):
    """One case of a plan."""

    case: str
    node: str
    """pytest id, such as ``cases/tiny.yaml::nvfp4``."""
    engine: str
    """Engine key: the cases of one engine run in sequence in one process."""
    request: str
    """:func:`request_digest` of the case: ``merge`` rejects a record of another definition."""
    shard: int
    """Number of the shard, from 1."""
    seconds: float
    """Expected seconds, without the load of the model."""
    load: float
    """Expected seconds to load the model, once per engine and shard."""
    measured: bool
    """False: never measured on this runner, so ``seconds`` is an estimate."""


class Plan(Record):
    """The contract between ``plan``, the shards and ``merge``."""

    schema_version: Literal[1] = 1
    id: str = Field(min_length=1)
    """`digest` of the plan: every record names its plan, and ``merge`` rejects records of another plan."""
    nonce: str = ""
    """Random, so that two plans with equal content have different digests."""
    runner: str
    labels: tuple[str, ...]
    """GitHub runner labels; a shard's job requires all of them."""
    shards: int
    code: str = ""
    """Commit for which the plan was made."""
    makespan: float
    """Expected seconds of the longest shard."""
    lower_bound: float
    """Expected seconds that no plan can undercut; see :func:`lower_bound`."""
    cases: tuple[PlannedCase, ...]
    """Ordered by shard, then in execution order."""
    notes: tuple[str, ...] = ()
    coverage: Coverage | None = None

    def digest(self) -> str:
        """Return the sha256 (hex) of everything in the plan but its id: it changes when the plan is edited."""
        return canonical_sha256(self.model_copy(update={"id": "-"}))

    def of_shard(self, shard: int) -> tuple[PlannedCase, ...]:
        """Return the cases of one shard, in execution order.

        Raises:
            PlanError: the plan has no such shard.
        """
        if not 1 <= shard <= self.shards:
            raise PlanError(f"there is no shard {shard}: the plan has {self.shards}", remedy="name one from 1")
        return tuple(case for case in self.cases if case.shard == shard)

    def matrix(self) -> dict[str, Json]:
        """Return the plan as a GitHub Actions matrix for ``fromJSON``: one job per shard."""
        include: list[Json] = [
            {
                "shard": f"{shard}/{self.shards}",
                "index": shard,
                "runs_on": list(self.labels),
                "cases": len(self.of_shard(shard)),
                "minutes": _job_minutes(self.of_shard(shard)),
            }
            for shard in range(1, self.shards + 1)
        ]
        return {"include": include}


def request_digest(case: Case) -> str:
    """Return the sha256 (hex) of the whole resolved case."""
    text = json.dumps(case.model_dump(mode="json"), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def node_id(located: Located) -> str:
    """Return the pytest id of a case, such as ``cases/tiny.yaml::nvfp4``."""
    return f"{located.path.as_posix()}::{located.case.id}"


def make_plan(
    located: Sequence[Located],
    profile: RunnerProfile,
    shards: int,
    history: History,
    *,
    code: str = "",
    coverage: Coverage | None = None,
) -> Plan:
    """Plan the cases that name runner ``profile`` on at most ``shards`` machines.

    Args:
        located: every loaded case; cases of other runners are left out.
        profile: the runner.
        shards: available machines. Fewer are used if there are fewer units to assign: no shard is empty.
        history: measured times.
        code: commit for which the plan is made.
        coverage: difference from the base branch, stored in the plan for the summary.

    Raises:
        PlanError: no case names this runner. A lane without cases must not pass.
        ValueError: ``shards`` is less than one.
    """
    chosen = [entry for entry in located if profile.name in entry.case.runners]
    # an empty plan would end green with nothing run
    if not chosen:
        raise PlanError(
            f"no case names runner {profile.name}", place="cases/", remedy=f"add `runners: [{profile.name}]` to a case"
        )
    expected = durations([entry.case for entry in chosen], history, profile.name, profile.device_kind)
    units, splits = split_long(_engines(chosen, expected), shards)
    # a job without cases would occupy a machine and show nothing
    bins = [shard for shard in lpt(units, shards) if shard]
    by_id = {entry.case.id: entry for entry in chosen}
    planned = [
        _planned(by_id[case], expected[case], index)
        for index, unit_list in enumerate(bins, start=1)
        for unit in unit_list
        for case, _ in unit.cases
    ]
    plan = Plan(
        id="-",
        nonce=secrets.token_hex(8),
        runner=profile.name,
        labels=profile.labels,
        shards=len(bins),
        code=code,
        makespan=round(makespan(bins), 3),
        lower_bound=round(lower_bound(units, len(bins)), 3),
        cases=tuple(planned),
        notes=tuple(_notes(planned, splits, requested=shards, used=len(bins))),
        coverage=coverage,
    )
    return plan.model_copy(update={"id": plan.digest()})


def _engines(located: Sequence[Located], expected: dict[str, Duration]) -> list[Unit]:
    by_engine: dict[str, list[str]] = {}
    for entry in located:
        by_engine.setdefault(engine_key(entry.case), []).append(entry.case.id)
    return [
        Unit(key, max(expected[case].load for case in cases), tuple((case, expected[case].seconds) for case in cases))
        for key, cases in by_engine.items()
    ]


def _planned(located: Located, duration: Duration, shard: int) -> PlannedCase:
    return PlannedCase(
        case=located.case.id,
        node=node_id(located),
        engine=engine_key(located.case),
        request=request_digest(located.case),
        shard=shard,
        seconds=round(duration.seconds, 3),
        load=round(duration.load, 3),
        measured=duration.measured,
    )


def _notes(planned: Sequence[PlannedCase], splits: Sequence[Split], *, requested: int, used: int) -> list[str]:
    notes = []
    if used < requested:
        notes.append(f"{used} of {requested} shards are used: there are no more engines to give to the others")
    for split in splits:
        cases = [case.case for case in planned if case.engine == split.key]
        shown = ", ".join(cases[:3]) + (" ..." if len(cases) > 3 else "")
        notes.append(
            f"the engine of {shown} takes {split.seconds:.0f} s alone and the ideal shard {split.ideal:.0f} s, "
            f"so it is spread over {split.parts} shards, each of which loads the model"
        )
    guessed = [case.case for case in planned if not case.measured]
    if guessed:
        notes.append(
            f"{len(guessed)} of {len(planned)} durations are estimates, not measured: {', '.join(guessed[:5])}"
        )
    return notes


def _job_minutes(cases: Sequence[PlannedCase]) -> int:
    """Return the timeout of a shard's job: three times the expected minutes, at least 30, at most GitHub's 360."""
    # One load per engine of the shard, however many cases it serves.
    loads = {case.engine: case.load for case in cases}
    seconds = sum(case.seconds for case in cases) + sum(loads.values())
    return max(30, min(360, round(3 * seconds / 60)))


def read_plan(path: Path, plan_id: str | None = None) -> Plan:
    """Read a plan file.

    Args:
        path: the file.
        plan_id: digest that the plan must have; ``None``: the digest of its own content is enough.

    Raises:
        InvalidCaseError: the file cannot be read as a plan.
        PlanError: the plan was changed after it was made, or another plan replaced it.
    """
    try:
        plan = Plan.read(path)
    except (OSError, UnreadableError) as error:
        raise InvalidCaseError(
            f"not a plan: {reason(error)}", place=str(path), remedy="quantgate plan --runner NAME --out plan.json"
        ) from error
    again = f"quantgate plan --runner {plan.runner} --out {path}"
    if plan.id != plan.digest():
        raise PlanError("the plan was changed after it was made", place=str(path), remedy=again)
    # The content alone may be consistent and still be another plan: the caller's id detects a replaced file.
    if plan_id is not None and plan.id != plan_id:
        raise PlanError(
            f"it was replaced: this is plan {plan.id[:16]}, and the job that planned made {plan_id[:16] or 'none'}",
            place=str(path),
            remedy=again,
        )
    return plan
