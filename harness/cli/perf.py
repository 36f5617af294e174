"""``quantgate regenerate --perf``: baselines of time and memory from past runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from harness.definitions.case import Located
    from harness.records.perf_file import PerfFile
    from harness.session.context import SessionContext


@dataclass(frozen=True)
class Request:
    """The options of ``quantgate regenerate --perf``."""

    measure: int
    since: str
    runs: Path
    store: Path
    reason: str
    author: str
    dry_run: bool


def make_baselines(context: SessionContext, cases: Sequence[Located], request: Request) -> None:
    """Build a baseline of each case, show it beside the old baseline, and write it.

    A case with too few runs is named and left out.

    Raises:
        InvalidCaseError: no case has enough quiet runs, or a baseline would let more through and no reason is given.
    """
    from harness.calibrate.perf import measure, write_baseline
    from harness.cli.report import add_runs
    from harness.errors import InvalidCaseError
    from harness.goldens.workspace import Workspace
    from harness.perf.baseline import build, load_baseline
    from harness.perf.ceilings import limits_of
    from harness.report.history.store import open_history

    context = replace(context, leave_candidates=False)
    written, problems = 0, []
    with open_history(context.root / request.store) as history:
        if (context.root / request.runs).is_dir():
            add_runs(history, context.root / request.runs)
        for located in cases:
            case, runner = located.case, context.runner.name
            if request.measure:
                new = measure(context, located, request.measure, lambda line: typer.echo(f"  {line}"))
                history.add(new)
            records = [record for record in history.records(case.id, runner) if record.started >= request.since]
            try:
                file, refused = build(case, runner, records, author=request.author, reason=request.reason or "measured")
            except InvalidCaseError as error:
                problems.append(error)
                typer.echo(f"{runner}/{case.id}: {error.message}")
                continue
            old = load_baseline(context.thresholds, runner, case.id, allow_edited=True)
            _show(file, limits_of(file), limits_of(old) if old else {})
            for run in refused:
                typer.echo(f"  left out: {run.run}: {run.why}")
            if not request.dry_run:
                path = write_baseline(Workspace(context.root), file, old, reason=request.reason)
                typer.echo(f"  to commit: {path}")
            written += 1
    if not written and problems:
        raise problems[0]
    if request.dry_run:
        typer.echo("nothing was written (--dry-run)")


def _show(file: PerfFile, new: dict[tuple[str, str], float], old: dict[tuple[str, str], float]) -> None:
    from harness.perf.comparing import amount
    from harness.perf.measures import WORDS, unit_of

    typer.echo(f"{file.runner}/{file.case}: {file.covers}")
    for (pool, measure), limit in new.items():
        before = old.get((pool, measure))
        was = amount(before, unit_of(measure)) if before is not None else "none"
        typer.echo(f"  {pool:<12} {WORDS[measure]:<34} {was:>12} -> {amount(limit, unit_of(measure)):<12} at most")
    for note in file.notes:
        typer.echo(f"  note: {note}")
