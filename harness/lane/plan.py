"""Which case runs on which shard: the plan, as a file that shards and merge are held against."""

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

# Longest processing time first: which unit goes to which machine.


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


class PlanError(QuantgateError):
    """There is nothing to plan, or a plan and what is at hand do not fit together."""

    outcome = Outcome.NOT_RUN


class PlannedCase(Record):
    """One case of a plan."""

    case: str
    node: str
    """pytest id, such as ``cases/tiny.yaml::nvfp4``."""
    engine: str
    """Engine key: cases of one engine run one after another in one process."""
    request: str
    """:func:`request_digest` of the case: a record of another definition is no result of this one."""
    shard: int
    """From 1."""
    seconds: float
    """Expected, without the load of the model."""
    load: float
    """Expected seconds to load the model, once an engine and shard."""
    measured: bool
    """False: never measured on this runner, so ``seconds`` is an estimate."""


class Plan(Record):
    """The contract between ``plan``, the shards and ``merge``."""

    schema_version: Literal[1] = 1
    id: str = Field(min_length=1)
    """`digest` of the plan: every record says of which plan it is, and ``merge`` takes no other's."""
    nonce: str = ""
    """Random, so that no two plans have one digest, however equal they are."""
    runner: str
    labels: tuple[str, ...]
    """GitHub runner labels, all of which a shard's job asks for."""
    shards: int
    code: str = ""
    """Commit that was planned."""
    makespan: float
    """Expected seconds of the longest shard."""
    lower_bound: float
    """Expected seconds that no plan can beat."""
    cases: tuple[PlannedCase, ...]
    """Shard by shard, in the order in which they run."""
    notes: tuple[str, ...] = ()
    coverage: Coverage | None = None

    def digest(self) -> str:
        """sha256 (hex) over everything in the plan but its id: a plan that was changed has another one."""
        return canonical_sha256(self.model_copy(update={"id": "-"}))

    def of_shard(self, shard: int) -> tuple[PlannedCase, ...]:
        """The cases of one shard, in order.

        Raises:
            PlanError: the plan has no such shard.
        """
        if not 1 <= shard <= self.shards:
            raise PlanError(f"there is no shard {shard}: the plan has {self.shards}", remedy="name one from 1")
        return tuple(case for case in self.cases if case.shard == shard)

    def matrix(self) -> dict[str, Json]:
        """The plan as a GitHub Actions matrix: one job a shard, for ``fromJSON``."""
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
    """sha256 (hex) over the whole resolved case."""
    text = json.dumps(case.model_dump(mode="json"), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def node_id(located: Located) -> str:
    """The pytest id of a case."""
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
    """Plan the cases of ``profile`` over at most ``shards`` machines.

    Args:
        located: every loaded case; those of other runners are left out.
        profile: the runner.
        shards: machines at hand. Fewer are used where there are fewer engines: no shard is empty.
        history: measured times.
        code: commit that is planned.
        coverage: difference from the base branch, carried along for the summary.

    Raises:
        PlanError: no case names this runner. A lane without cases must not be green.
        ValueError: ``shards`` is less than one.
    """
    mine = [one for one in located if profile.name in one.case.runners]
    if not mine:
        raise PlanError(
            f"no case names runner {profile.name}", where="cases/", remedy=f"add `runners: [{profile.name}]` to a case"
        )
    expected = durations([one.case for one in mine], history, profile.name, profile.device_kind)
    units, splits = split_long(_engines(mine, expected), shards)
    bins = [one for one in lpt(units, shards) if one]
    by_id = {one.case.id: one for one in mine}
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
        notes=tuple(_notes(planned, splits, asked=shards, used=len(bins))),
        coverage=coverage,
    )
    return plan.model_copy(update={"id": plan.digest()})


def _engines(located: Sequence[Located], expected: dict[str, Duration]) -> list[Unit]:
    by_engine: dict[str, list[str]] = {}
    for one in located:
        by_engine.setdefault(engine_key(one.case), []).append(one.case.id)
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


def _notes(planned: Sequence[PlannedCase], splits: Sequence[Split], *, asked: int, used: int) -> list[str]:
    notes = []
    if used < asked:
        notes.append(f"{used} of {asked} shards are used: there are no more engines to give to the others")
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
    """Deadline of a shard's job: three times what is expected, at least 30 minutes, at most GitHub's six hours."""
    loads = {case.engine: case.load for case in cases}
    seconds = sum(case.seconds for case in cases) + sum(loads.values())
    return max(30, min(360, round(3 * seconds / 60)))


def read_plan(path: Path, plan_id: str | None = None) -> Plan:
    """Read a plan file.

    Args:
        path: the file.
        plan_id: digest that it must have; ``None``: only that of its own content.

    Raises:
        InvalidCaseError: it cannot be read as one.
        PlanError: it was changed after it was made, or another plan lies in its place.
    """
    try:
        plan = Plan.read(path)
    except (OSError, UnreadableError) as error:
        raise InvalidCaseError(
            f"not a plan: {reason(error)}", where=str(path), remedy="quantgate plan --runner NAME --out plan.json"
        ) from error
    again = f"quantgate plan --runner {plan.runner} --out {path}"
    if plan.id != plan.digest():
        raise PlanError("the plan was changed after it was made", where=str(path), remedy=again)
    if plan_id is not None and plan.id != plan_id:
        raise PlanError(
            f"it was replaced: this is plan {plan.id[:16]}, and the job that planned made {plan_id[:16] or 'none'}",
            where=str(path),
            remedy=again,
        )
    return plan
