"""Compare the results of all shards with the plan; write one folder of records, one JUnit file, one exit code."""

from __future__ import annotations

import re
import shutil
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import ClassVar, Literal, NamedTuple
from xml.etree import ElementTree as ET

from pydantic import ValidationError

from harness.definitions.case import Case
from harness.errors import QuantgateError
from harness.goldens.pending import RECORD, read_candidate
from harness.judge.verdict import BROKEN, unwaived
from harness.lane.durations import History
from harness.lane.plan import Plan, PlanError, PlannedCase, request_digest
from harness.outcomes import RULES, Outcome
from harness.reading import UnreadableError, digest_file, parse_xml, read_bytes
from harness.reading import reason as why
from harness.records.base import Record, write_bytes_atomic
from harness.records.candidate import CANDIDATE_FILE
from harness.records.case_record import CaseRecord
from harness.records.limits import LimitCheck
from harness.records.run_folder import HISTORY_FILE, RECORD_FILE
from harness.records.verdict import worst
from harness.text import clean, one_line

# Join the JUnit files of the shards, with an error for every planned case that has no result.


PLAN_PROPERTY = "quantgate_plan"
"""Name of the test suite property that holds the id of the plan that the suite ran."""
_COUNTED = {"failure": "failures", "error": "errors", "skipped": "skipped"}


def join_junit(
    files: Iterable[Path],
    missing: Iterable[tuple[str, str]],
    out: Path,
    *,
    plan: str = "",
    planned: Collection[str] = (),
    red: Mapping[str, str] | None = None,
) -> tuple[str, ...]:
    """Join the test suites of ``files`` and write ``out``.

    Args:
        files: JUnit XML files.
        missing: pytest id and reason per planned case without a result; each becomes an error.
        out: path of the joined file.
        plan: id of the plan. A suite of another plan is left out.
        planned: pytest ids of the plan's cases; they are left out of a suite that names no plan.
        red: reason by pytest id of each case that failed by its record. A suite that shows none of its failures gets
            an error: a person who reads only this file must not see green.

    Returns:
        Problems, a sentence each: unreadable files, and results that were left out.
    """
    joined = ET.Element("testsuites", name="quantgate")
    problems = []
    names = {_names(node) for node in planned}
    for path in sorted(files):
        try:
            root = _parse(path)
        except (OSError, UnreadableError) as error:
            problems.append(f"{path}: not readable as JUnit: {why(error)}")
            continue
        for suite in [root] if root.tag == "testsuite" else root.findall("testsuite"):
            reason = _of_another_plan(suite, plan, names)
            if reason:
                problems.append(f"{path}: {reason}")
            joined.append(suite)
    lost = list(missing)
    if lost:
        suite = ET.SubElement(joined, "testsuite", name="not_run")
        for node, reason in lost:
            _add_error(suite, node, "not_run", reason)
    _one_a_test(joined)
    failed = {(case.get("classname"), case.get("name")) for case in joined.iter("testcase") if _bad(case)}
    silent = {node: reason for node, reason in (red or {}).items() if _names(node) not in failed}
    for case in joined.iter("testcase"):
        matching = [node for node in silent if _names(node) == (case.get("classname"), case.get("name"))]
        for node in matching:
            ET.SubElement(case, "error", type="record", message=one_line(silent.pop(node), 1000))
    if silent:
        suite = ET.SubElement(joined, "testsuite", name="records")
        for node, reason in silent.items():
            _add_error(suite, node, "record", reason)
    for suite in joined:
        _count(suite)
    for name in ("tests", "failures", "errors", "skipped"):
        joined.set(name, str(sum(int(suite.get(name, "0")) for suite in joined)))
    ET.indent(joined)
    write_bytes_atomic(out, ET.tostring(joined, encoding="utf-8", xml_declaration=True) + b"\n")
    return tuple(problems)


def _add_error(suite: ET.Element, node: str, kind: str, reason: str) -> None:
    classname, name = _names(node)
    case = ET.SubElement(suite, "testcase", classname=clean(classname), name=clean(name), time="0")
    ET.SubElement(case, "error", type=kind, message=one_line(reason, 1000))


def _names(node: str) -> tuple[str, str]:
    """Return the class name and name that pytest writes to JUnit for a case."""
    file, _, name = node.partition("::")
    return file.replace("/", "."), name


def _of_another_plan(suite: ET.Element, plan: str, planned: Collection[tuple[str, str]]) -> str:
    """Remove the results that are not of this plan from ``suite``; return the reason, empty if none was removed."""
    marks = [entry.get("value") for entry in suite.findall("properties/property") if entry.get("name") == PLAN_PROPERTY]
    if plan in marks:
        return ""
    # Without the property, the suite may hold other tests: only names of planned cases are removed from it.
    stale = [
        case
        for case in suite.findall("testcase")
        if marks or (case.get("classname", ""), case.get("name", "")) in planned
    ]
    for case in stale:
        suite.remove(case)
    of = f"plan {marks[0]}" if marks else "no plan"
    return f"it is of {of}, not of plan {plan}; {len(stale)} results of it do not count" if stale else ""


def _parse(path: Path) -> ET.Element:
    return parse_xml(read_bytes(path), str(path))


def _one_a_test(joined: ET.Element) -> None:
    """Keep one entry per test. A case that ran again after its worker died has two: a failed entry wins."""
    latest: dict[tuple[str | None, str | None], tuple[ET.Element, ET.Element]] = {}
    for suite in joined:
        for case in suite.findall("testcase"):
            name = (case.get("classname"), case.get("name"))
            if name in latest:
                drop_new = _bad(latest[name][1]) and not _bad(case)
                loser = (suite, case) if drop_new else latest[name]
                loser[0].remove(loser[1])
                if drop_new:
                    continue
            latest[name] = (suite, case)


def _bad(case: ET.Element) -> bool:
    return case.find("failure") is not None or case.find("error") is not None


def _count(suite: ET.Element) -> None:
    cases = suite.findall("testcase")
    suite.set("tests", str(len(cases)))
    for tag, name in _COUNTED.items():
        suite.set(name, str(sum(case.find(tag) is not None for case in cases)))


# Check that a green record carries its evidence: records come from other machines, as files that anybody may write.


def unproven(record: CaseRecord, case: Case) -> str:
    """Return why a green record lacks the evidence that a pass requires; empty if the evidence is complete.

    Args:
        record: record of any outcome; only ``pass`` and ``waived`` are checked.
        case: the request of the record.
    """
    verdict = record.verdict
    if verdict.outcome is Outcome.WAIVED:
        return _waived(record, case)
    if verdict.outcome is not Outcome.PASS:
        return ""
    if case.expect != "pass":
        return _control(record, case)
    if verdict.observed not in (None, Outcome.PASS):
        return f"it passes although {verdict.observed.value} was observed, and the case expects to pass"
    if record.generation is None:
        return "it passes without a generation"
    if record.comparison is None or record.golden is None:
        return "it passes without a comparison with a golden"
    # Limits that do not gate only inform: a pass must rest on at least one limit that could have failed.
    gating = [check for check in record.limits if check.gates]
    if not gating:
        return "it passes without a limit"
    # the stated result is not believed: value and limit are compared again
    failed = [check.metric for check in gating if not (check.passed and _within_limit(check))]
    if failed:
        return f"it passes although {', '.join(failed)} lies outside its limit"
    codes = [finding.code for finding in verdict.findings if finding.gating]
    return f"it passes although {', '.join(codes)} was found" if codes else ""


def _within_limit(check: LimitCheck) -> bool:
    """Return whether the value of a check that gates lies inside its limit."""
    if check.value is None or check.limit is None:
        return False
    higher = check.direction == "higher_is_better"
    return check.value >= check.limit if higher else check.value <= check.limit


def _control(record: CaseRecord, case: Case) -> str:
    """Return why a negative control does not pass: it passes only by failing as its case expects."""
    # ``expect`` is "outcome" or "outcome:cause".
    outcome = case.expect.partition(":")[0]
    if record.verdict.observed != outcome:
        return f"it is a negative control, and nothing says that {outcome} was observed"
    stage_codes = {(finding.stage, finding.code) for finding in record.verdict.findings if finding.gating}
    codes = {code for _, code in stage_codes} | {record.verdict.cause}
    for stage, cause in case.must_be_seen():
        if ((stage, cause) not in stage_codes) if stage else (cause not in codes):
            return f"it is a negative control, and no finding says {cause}"
    named = {cause for _, cause in case.must_be_seen()}
    if broken := sorted(
        code for stage, code in stage_codes if stage == "sanity" and code in BROKEN and code not in named
    ):
        return f"it is a negative control, and its output is {', '.join(broken)}, which any breakage can cause"
    return _unsupported(record, named)


def _unsupported(record: CaseRecord, named: Collection[str]) -> str:
    """Return why a finding of the frames that excuses a failure is not believed; empty if its evidence is there.

    The run must have frames that were compared, and the metric a value outside its limit.
    """
    gating = [finding for finding in record.verdict.findings if finding.gating]
    elsewhere = {finding.code for finding in gating if finding.stage != "frames"}
    codes = {finding.code for finding in gating if finding.stage == "frames"} | ({record.verdict.cause} - elsewhere)
    for code in sorted(codes.intersection(named)):
        match = _MISSED.fullmatch(code)
        if match is None:
            continue
        if record.generation is None or record.comparison is None:
            return f"it may fail by {code}, and has no generation that was compared"
        checks = [check for check in record.limits if check.metric == match[1] and check.gates]
        if not any(check.value is not None and not _within_limit(check) for check in checks):
            return f"it may fail by {code}, and no value of {match[1]} lies outside its limit"
    return ""


_MISSED = re.compile(r"(.+)_(?:above|below)_limit")
"""Cause of a metric outside its limit, as `harness.judge.limits_rule` names it."""


def _waived(record: CaseRecord, case: Case) -> str:
    """Return why a waived record is none; a waiver covers named causes until a date, and nothing else."""
    waiver, observed = case.waiver, record.verdict.observed
    if waiver is None:
        return "it is waived, and the case has no waiver"
    # ISO 8601: dates compare as text; `newest` is the newest time that the run's machine has seen
    if max(record.started, record.newest)[:10] > waiver.expires.isoformat():
        return f"it is waived, and its waiver ended on {waiver.expires.isoformat()}"
    if observed is None or observed != waiver.outcome:
        return "it is waived, and not for what its waiver is for"
    findings = record.verdict.findings
    before = record.verdict.model_copy(update={"outcome": observed})
    if others := [finding.code for _, finding in unwaived(case, waiver, before)]:
        return f"it is waived, and {', '.join(dict.fromkeys(others))} is not what its waiver is for"
    if not waiver.causes.intersection({record.verdict.cause, *(finding.code for finding in findings)}):
        return f"it is waived, and no finding says {', '.join(sorted(waiver.causes))}"
    return _unsupported(record, waiver.causes)


PLAN = "plan.json"
MERGED = "merge.json"
JUNIT = "junit.xml"


class MergedCase(Record):
    """The result of one planned case after all shards."""

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
    """UUID of the GPU (its name without one), or the architecture of the CPU."""
    process: int | None = None
    """Number of the engine process that served the case."""


class Merged(Record):
    """The result of ``quantgate merge``."""

    redact_on_write: ClassVar[bool] = True

    schema_version: Literal[1] = 1
    runner: str
    cases: tuple[MergedCase, ...]
    """In the order of the plan."""
    problems: tuple[str, ...] = ()
    """Unusable files, and records that no plan asked for."""
    exit_code: int

    def missing(self) -> tuple[MergedCase, ...]:
        """Return the planned cases without a result."""
        return tuple(case for case in self.cases if case.outcome is Outcome.NOT_RUN)


class _ShardResult(NamedTuple):
    record: CaseRecord
    folder: Path


def merge(folders: Sequence[Path], plan: Plan, out: Path) -> Merged:
    """Join the records and JUnit files of the shards.

    Copies the folder of every case to ``out/<case>``, and writes ``merge.json``, ``plan.json``, ``junit.xml`` and
    ``history.json`` beside them.

    Args:
        folders: output folders of the shards: case folders with their ``record.json``, and JUnit files, at any depth.
        plan: the plan that the shards ran.
        out: a new or empty folder.

    Returns:
        Every planned case with its outcome; ``not_run`` if there is no usable record. ``exit_code`` is that of the
        worst case, and never 0 if a case has no result.

    Raises:
        PlanError: ``out`` is not empty.
    """
    # records of an earlier merge would stand beside these, and a report reads all of a folder
    if out.exists() and any(out.iterdir()):
        raise PlanError(f"{out} is not empty", remedy=f"rm -r {out}, or name another folder with --out")
    out.mkdir(parents=True, exist_ok=True)
    problems: list[str] = []
    records, unusable = _records(folders, plan, problems)
    cases = []
    for planned in plan.cases:
        shown = records.get(planned.node)
        if shown is None:
            cases.append(_lost(planned, unusable.get(planned.node), plan))
        else:
            foreign = _foreign_candidate(shown)
            if foreign:
                problems.append(foreign)
            shutil.copytree(
                shown.folder,
                out / planned.case,
                ignore=lambda place, names, left_out=({CANDIDATE_FILE} if foreign else set()): (
                    _not_plain(place, names, problems) | left_out
                ),
            )
            cases.append(_merged(planned, shown.record))
    lost = [(case.node, case.summary) for case in cases if case.outcome is Outcome.NOT_RUN]
    red = {case.node: f"{case.outcome.value}: {case.summary}" for case in cases if RULES[case.outcome].exit_code}
    junit = [path for folder in folders for path in folder.rglob("junit*.xml")]
    planned_nodes = [planned.node for planned in plan.cases]
    problems += join_junit(junit, lost, out / JUNIT, plan=plan.id, planned=planned_nodes, red=red)
    plan.write(out / PLAN)
    History().with_records(item.record for item in records.values()).write(out / HISTORY_FILE)
    merged = Merged(
        runner=plan.runner,
        cases=tuple(cases),
        problems=tuple(problems),
        exit_code=RULES[worst([case.outcome for case in cases])].exit_code,
    )
    merged.write(out / MERGED)
    return merged


def _foreign_candidate(result: _ShardResult) -> str:
    """Return why the candidate beside a record is not of that record; empty if it is, or if there is none.

    The record names its plan, and the candidate holds the digest of its record: so a candidate of another run, which
    somebody could accept from the merged artifact, is left out.
    """
    path = result.folder / CANDIDATE_FILE
    if path.is_symlink() or not path.is_file():
        return ""  # `_not_plain` leaves links out
    try:
        candidate = read_candidate(result.folder)
        part = candidate.parts.get(RECORD)
        record_digest = digest_file(result.folder / RECORD_FILE)
    except (OSError, QuantgateError) as error:
        message = error.message if isinstance(error, QuantgateError) else str(error)
        return f"{path}: {one_line(message)}: it is left out"
    if (candidate.case, candidate.runner) != (result.record.case, result.record.runner):
        return f"{path} is of {candidate.runner}/{candidate.case}: it is left out"
    if part is None or part.sha256 != record_digest:
        return f"{path} is of another run than the record beside it: it is left out"
    return ""


def _not_plain(folder: str, names: list[str], problems: list[str]) -> set[str]:
    """Return the names that are not copied: a link would bring a file of this machine into the artifact."""
    left_out = set()
    for name in names:
        path = Path(folder) / name
        if path.is_symlink() or not (path.is_file() or path.is_dir()):
            left_out.add(name)
            problems.append(f"{path} is a link or no plain file: it is left out")
    return left_out


def _records(
    folders: Iterable[Path], plan: Plan, problems: list[str]
) -> tuple[dict[str, _ShardResult], dict[str, str]]:
    """Return the record that counts per planned node, and the reason per node whose record is unusable."""
    planned = {case.node: case for case in plan.cases}
    by_folder = {case.case: case.node for case in plan.cases}
    records: dict[str, _ShardResult] = {}
    unusable: dict[str, str] = {}
    for path in sorted(path for folder in folders for path in folder.rglob(RECORD_FILE)):
        try:
            if path.is_symlink() or not path.is_file():
                # a link could show the record of another run as this shard's
                raise OSError("it is a link or no plain file")
            record = CaseRecord.read(path)
        except (OSError, UnreadableError) as error:
            reason = f"{path} cannot be read: {why(error)}"
            problems.append(reason)
            # An unreadable record does not name its case; its folder does.
            if path.parent.name in by_folder:
                unusable[by_folder[path.parent.name]] = reason
            continue
        if record.node not in planned:
            problems.append(f"{path}: {record.node} was not planned; its result does not count")
            continue
        reason = _misfit(record, path.parent, planned[record.node], plan)
        if reason:
            unusable[record.node] = f"{path}: {reason}"
            problems.append(unusable[record.node])
            continue
        earlier = records.get(record.node)
        # Both records count only if they hold a result: `not_run` is left by a shard that was stopped and restarted.
        if earlier is not None and Outcome.NOT_RUN not in (earlier.record.verdict.outcome, record.verdict.outcome):
            problems.append(f"{record.node} has two records, {earlier.folder} and {path.parent}: the worse one counts")
        records[record.node] = (
            _ShardResult(record, path.parent) if earlier is None else _worse(earlier, _ShardResult(record, path.parent))
        )
    return records, unusable


def _misfit(record: CaseRecord, folder: Path, planned: PlannedCase, plan: Plan) -> str:
    """Return why ``record``, which lies in ``folder``, is not a result of ``planned``; empty if it is."""
    if record.case != planned.case:
        return f"it is of the case {record.case}, and its node is that of {planned.case}"
    # the folder is copied as a whole: that of another case, or of a whole shard, would bring further records
    if folder.name != planned.case:
        return f"it is of the case {record.case}, and lies in a folder called {folder.name}"
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


def _worse(first: _ShardResult, second: _ShardResult) -> _ShardResult:
    """Return the worse of two records. `not_run` (left by a restarted shard) loses to any real result."""
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
