"""Make baselines of time and memory: run the case, and write the baseline."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import replace

from harness.definitions.case import Located
from harness.errors import InvalidCaseError
from harness.goldens.journal import committing
from harness.goldens.workspace import Workspace
from harness.perf.baseline import baseline_path
from harness.perf.ceilings import raised
from harness.project import Project
from harness.records.case_record import CaseRecord
from harness.records.perf_file import PerfFile
from harness.session.conductor import Session
from harness.session.context import SessionContext


def measure(
    context: SessionContext, located: Located, runs: int, report_line: Callable[[str], None]
) -> tuple[CaseRecord, ...]:
    """Run a case several times, each time in its own engine, so that the baseline contains the noise between runs.

    Args:
        context: session context; each run has its own folder below the context's run.
        located: the case.
        runs: number of runs.
        report_line: called with one line per run.
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
        report_line(f"{number:2} of {runs}  {record.case:<36} {record.verdict.outcome.value}{shown}")
        records.append(record)
    return tuple(records)


def write_baseline(workspace: Workspace, new: PerfFile, old: PerfFile | None, *, reason: str) -> str:
    """Write a baseline. Return the file to commit, relative to the root.

    Raises:
        InvalidCaseError: the new baseline would let more through than the old one, and no reason is given.
    """
    target = baseline_path(Project(workspace.root).thresholds, new.runner, new.case)
    if old is not None and not reason.strip() and (looser := [*map(str, raised(old, new))]):
        raise InvalidCaseError(
            f"this baseline would let more through than before: {'; '.join(looser)}",
            place=str(target),
            remedy=f"if so: quantgate regenerate --perf --case {new.case} --runner {new.runner} --reason '...'",
        )
    with committing(workspace, f"baseline of {new.runner}/{new.case}") as transaction:
        transaction.write(target, new.to_json().encode())
    return str(target.relative_to(workspace.root))
