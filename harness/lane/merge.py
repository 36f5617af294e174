"""The results of all shards, held against the plan: one folder of records, one JUnit file, one exit code."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

from pydantic import ValidationError

from harness.definitions.case import Case
from harness.lane.history import History
from harness.lane.junit import join_junit
from harness.lane.plan import Plan, PlanError, PlannedCase, request_digest
from harness.lane.proof import unproven
from harness.records.base import Record
from harness.records.case_record import CaseRecord
from harness.records.verdict import RULES, Outcome, worst

RECORD = "record.json"
PLAN = "plan.json"
MERGED = "merge.json"
JUNIT = "junit.xml"
HISTORY = "history.json"


class MergedCase(Record):
    """One planned case after all shards."""

    case: str
    node: str
    shard: int
    outcome: Outcome
    cause: str
    summary: str
    next_command: str = ""
    attempt: int = 1
    seconds: float = 0.0
    device: str = ""
    """UUID of the GPU, or the architecture of the CPU."""
    process: int | None = None
    """Engine process that served the case."""


class Merged(Record):
    """What ``quantgate merge`` found."""

    schema_version: Literal[1] = 1
    runner: str
    cases: tuple[MergedCase, ...]
    """In the order of the plan."""
    problems: tuple[str, ...] = ()
    """Files that could not be used and records that no plan asked for."""
    exit_code: int

    def missing(self) -> tuple[MergedCase, ...]:
        """Planned cases without a result."""
        return tuple(case for case in self.cases if case.outcome is Outcome.NOT_RUN)


class _Found(NamedTuple):
    record: CaseRecord
    folder: Path


def merge(folders: Sequence[Path], plan: Plan, out: Path) -> Merged:
    """Join what the shards left behind.

    Copies the folder of every case to ``out/<case>``, and writes ``merge.json``, ``plan.json``, ``junit.xml`` and
    ``history.json`` beside them.

    Args:
        folders: what the shards wrote, in any depth: folders of cases with their ``record.json``, and JUnit files.
        plan: what was planned.
        out: a folder that is new or empty.

    Returns:
        Every planned case with its outcome; ``not_run`` where there is no usable record. ``exit_code`` is that of the
        worst case, and never 0 while one has no result.

    Raises:
        PlanError: ``out`` holds something already.
    """
    if out.exists() and any(out.iterdir()):
        raise PlanError(f"{out} is not empty", remedy=f"rm -r {out}, or name another folder with --out")
    out.mkdir(parents=True, exist_ok=True)
    problems: list[str] = []
    found, unusable = _records(folders, plan, problems)
    cases = []
    for planned in plan.cases:
        one = found.get(planned.node)
        if one is None:
            cases.append(_lost(planned, unusable.get(planned.node), plan))
        else:
            shutil.copytree(
                one.folder, out / one.folder.name, ignore=lambda place, names: _not_plain(place, names, problems)
            )
            cases.append(_merged(planned, one.record))
    lost = [(case.node, case.summary) for case in cases if case.outcome is Outcome.NOT_RUN]
    junit = [path for folder in folders for path in folder.rglob("junit*.xml")]
    planned_nodes = [planned.node for planned in plan.cases]
    problems += join_junit(junit, lost, out / JUNIT, plan=plan.id, planned=planned_nodes)
    plan.write(out / PLAN)
    History().with_records(one.record for one in found.values()).write(out / HISTORY)
    merged = Merged(
        runner=plan.runner,
        cases=tuple(cases),
        problems=tuple(problems),
        exit_code=RULES[worst([case.outcome for case in cases])].exit_code,
    )
    merged.write(out / MERGED)
    return merged


def _not_plain(folder: str, names: list[str], problems: list[str]) -> set[str]:
    """Names in a shard's folder that are not copied: a link would bring a file of this machine into the artifact."""
    left_out = set()
    for name in names:
        path = Path(folder) / name
        if path.is_symlink() or not (path.is_file() or path.is_dir()):
            left_out.add(name)
            problems.append(f"{path} is a link or no plain file: it is left out")
    return left_out


def _records(folders: Iterable[Path], plan: Plan, problems: list[str]) -> tuple[dict[str, _Found], dict[str, str]]:
    """The record that counts of each planned node, and why a node has none that can be used."""
    planned = {case.node: case for case in plan.cases}
    by_folder = {case.case: case.node for case in plan.cases}
    found: dict[str, _Found] = {}
    unusable: dict[str, str] = {}
    for path in sorted(path for folder in folders for path in folder.rglob(RECORD)):
        try:
            if path.is_symlink() or not path.is_file():
                raise OSError("it is a link or no plain file")
            record = CaseRecord.read(path)
        except (ValidationError, OSError, UnicodeDecodeError) as error:
            reason = f"{path} cannot be read: {str(error).splitlines()[0]}"
            problems.append(reason)
            if path.parent.name in by_folder:
                unusable[by_folder[path.parent.name]] = reason
            continue
        if record.node not in planned:
            problems.append(f"{path}: {record.node} was not planned; its result does not count")
            continue
        reason = _misfit(record, planned[record.node], plan)
        if reason:
            unusable[record.node] = f"{path}: {reason}"
            problems.append(unusable[record.node])
            continue
        known = found.get(record.node)
        if known is not None and Outcome.NOT_RUN not in (known.record.verdict.outcome, record.verdict.outcome):
            problems.append(f"{record.node} has two records, {known.folder} and {path.parent}: the worse one counts")
        found[record.node] = (
            _Found(record, path.parent) if known is None else _worse(known, _Found(record, path.parent))
        )
    return found, unusable


def _misfit(record: CaseRecord, planned: PlannedCase, plan: Plan) -> str:
    """Why ``record`` is no result of ``planned``; empty where it is one."""
    if record.plan != plan.id:
        return f"it is of {f'plan {record.plan}' if record.plan else 'no plan'}, and this is plan {plan.id}"
    if record.runner != plan.runner:
        return f"it ran on runner {record.runner}, and the plan is for {plan.runner}"
    try:
        case = Case.model_validate(record.request)
    except ValidationError:
        return "its request is no case of this version"
    if request_digest(case) != planned.request:
        return "it ran another definition of the case than was planned"
    return unproven(record, case)


def _worse(first: _Found, second: _Found) -> _Found:
    """The worse of two results. A shard that was stopped and started again has left one that is none."""
    if Outcome.NOT_RUN in (first.record.verdict.outcome, second.record.verdict.outcome):
        return second if first.record.verdict.outcome is Outcome.NOT_RUN else first
    outcomes = [first.record.verdict.outcome, second.record.verdict.outcome]
    return first if worst(outcomes) is outcomes[0] else second


def _merged(planned: PlannedCase, record: CaseRecord) -> MergedCase:
    device = record.fingerprint.device if record.fingerprint else None
    return MergedCase(
        case=planned.case,
        node=planned.node,
        shard=planned.shard,
        outcome=record.verdict.outcome,
        cause=record.verdict.cause,
        summary=record.verdict.summary,
        next_command=record.verdict.next_command,
        attempt=record.attempt,
        seconds=record.timing.total,
        device=(device.uuid or device.name) if device else "",
        process=record.engine.process if record.engine else None,
    )


def _lost(planned: PlannedCase, reason: str | None, plan: Plan) -> MergedCase:
    shard = f"{planned.shard}/{plan.shards}"
    return MergedCase(
        case=planned.case,
        node=planned.node,
        shard=planned.shard,
        outcome=Outcome.NOT_RUN,
        cause="unusable_record" if reason else "no_record",
        summary=reason or f"planned for shard {shard}, and no shard left a record of it",
        next_command=f"pytest --plan {PLAN} --shard {shard} --runner {plan.runner}",
    )
