"""``quantgate regenerate``: parse, measure, show the difference, write."""

from __future__ import annotations

import getpass
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from harness.cli import options
from harness.errors import GoldenError, InvalidCaseError
from harness.project import Project

if TYPE_CHECKING:
    from harness.calibrate.regenerate import Controls
    from harness.definitions.case import Located
    from harness.definitions.choosing import Filters
    from harness.records.limits import LimitFile
    from harness.session.context import Event


def regenerate_command(
    ctx: typer.Context,
    case: options.SeveralCases = None,
    file: options.CaseFiles = None,
    keyword: Annotated[
        str, typer.Option("-k", help="cases whose id matches, as in pytest: 'nvfp4 and not override'")
    ] = "",
    runner: options.RunnerMark = "",
    reason: options.Reason = "",
    author: options.Author = "",
    run_id: options.RunId = "",
    repeats: Annotated[int, typer.Option("--repeats", min=0, help="runs disturbed by one unit in the last place")] = 12,
    controls: Annotated[
        str, typer.Option("--controls", help="faults to inject: all; frames (no further run); none")
    ] = "all",
    from_results: Annotated[
        list[Path] | None,
        typer.Option("--from-results", help="folder of runs made elsewhere, read instead of run; may be repeated"),
    ] = None,
    from_samples: Annotated[
        bool, typer.Option("--from-samples", help="run nothing: place limits anew from the samples in their files")
    ] = False,
    replace_golden: Annotated[
        bool, typer.Option("--replace-golden", help="put a golden of another identity in place of the accepted one")
    ] = False,
    in_ci: Annotated[bool, typer.Option("--in-ci", help="allow it where CI is set")] = False,
    allow_dirty: Annotated[bool, typer.Option("--allow-dirty", help="allow uncommitted changes")] = False,
    check: options.Check = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="measure and show, write nothing")] = False,
    perf: options.Perf = False,
    measure_runs: Annotated[
        int, typer.Option("--measure", min=0, help="with --perf: make so many runs first, each in a fresh engine")
    ] = 0,
    since: Annotated[
        str, typer.Option("--since", help="with --perf: leave out runs that began before this day, such as 2026-01-31")
    ] = "",
    runs: options.Runs = Path("runs"),
    store: options.HistoryStore = Path(".quantgate/history.sqlite"),
    root: options.Root = Path(),
) -> None:
    """Measure goldens and limits anew, or baselines of time and memory; show the difference, and write it."""
    from dataclasses import replace

    from harness.calibrate.apply import apply, limit_file
    from harness.calibrate.guards import refuse_dirty, refuse_in_ci
    from harness.calibrate.progress import RunProgress
    from harness.calibrate.regenerate import Plan, measure, planned_runs
    from harness.calibrate.samples import read_results
    from harness.definitions.choosing import Filters
    from harness.goldens.workspace import Workspace
    from harness.project import project_root
    from harness.session.context import open_context
    from harness.session.perturbation import cpu_flags, plan

    root = project_root(root)
    if check:
        _check(root, Filters(runner, tuple(case or ()), keyword, tuple(path.resolve() for path in file or ())))
        return
    if perf:
        from harness.cli.perf import Request, make_baselines

        if not dry_run:
            refuse_in_ci(os.environ, in_ci)
        with open_context(root, runner, run_id, "perf") as context:
            chosen = _choose(root, file or [], case or [], keyword, context.runner.name)
            by = author or getpass.getuser()
            make_baselines(context, chosen, Request(measure_runs, since, runs, store, reason, by, dry_run))
        return
    if controls not in ("all", "frames", "none"):
        raise InvalidCaseError(
            f"{controls!r} is none of all, frames, none", place="--controls", remedy="--controls frames"
        )
    if not dry_run:
        refuse_in_ci(os.environ, in_ci)
    if from_samples:
        _place_again(root, runner, case or [], keyword, reason, author or getpass.getuser(), dry_run)
        return
    changed = () if dry_run else refuse_dirty(root, allow_dirty)
    context = ctx.with_resource(open_context(root, runner, run_id, "regenerate"))
    chosen = _choose(root, file or [], case or [], keyword, context.runner.name)
    results = read_results(from_results or [], context.runner.name)
    if results:
        measured_ids = {result.record.case for result in results}
        chosen = tuple(
            located for located in chosen if located.case.id in measured_ids or located.case.id in (case or [])
        )
    perturbations = plan(context.runner, cpu_flags())
    names = ", ".join(("none", *(perturbation.name for perturbation in perturbations), f"{repeats} disturbed"))
    runs_text = f"results: {len(results)}" if results else f"runs: {names}"
    typer.echo(f"{len(chosen)} cases on {context.runner.name}; {runs_text}; records: {context.folder}")
    measuring_plan = Plan(
        perturbations,
        repeats,
        cast("Controls", controls),
        results,
        replace_golden,
        reason,
        lambda line: typer.echo(f"  {line}"),
    )
    with RunProgress(planned_runs(chosen, measuring_plan), lambda line: typer.echo(f"  {line}")) as progress:

        def watch(event: Event) -> None:
            progress.watch(event)
            _print_event(event)

        proposals = measure(context, chosen, replace(measuring_plan, begin=progress.begin), watch)
    if changed:
        reason = f"{reason or 'measured'} (with {len(changed)} uncommitted files)"
    if dry_run:
        for proposal in proposals:
            _show(limit_file(proposal, "", "shown"), proposal.old)
        typer.echo("nothing was written (--dry-run)")
        return
    for proposal in proposals:
        _show(limit_file(proposal, "", "shown"), proposal.old)
        applied = apply(Workspace(root), proposal, reason=reason, author=author or getpass.getuser())
        kind = "new golden" if applied.new_golden else "golden kept"
        typer.echo(f"  {kind} {applied.golden[:16]}; to commit: {', '.join(applied.changed)}")


def _place_again(
    root: Path, runner: str, ids: list[str], keyword: str, reason: str, author: str, dry_run: bool
) -> None:
    """Place the limits of all files, or of the chosen cases and runner, again by the current rule."""
    from harness.calibrate.apply import apply_again
    from harness.definitions.choosing import matcher
    from harness.goldens.workspace import Workspace
    from harness.limits.edited import placed_again
    from harness.limits.stored import limit_paths, load_limits

    matches = matcher(keyword)
    limit_files = sorted((path.parent.name, path.stem) for path in limit_paths(Project(root).thresholds))
    of_runner = [(name, case) for name, case in limit_files if runner in ("", name) and (not ids or case in ids)]
    missing = sorted(set(ids) - {case for _, case in of_runner})
    chosen = [(name, case) for name, case in of_runner if matches(case)]
    if missing or not chosen:
        raise InvalidCaseError(
            f"no limits of {', '.join(missing) or (f'a case that matches {keyword!r}' if keyword else 'any case')}"
            f"{f' on {runner}' if runner else ''}",
            place=str(Project(root).thresholds),
            remedy="measure first: quantgate regenerate --case ...",
        )
    for name, case in chosen:
        old = load_limits(Project(root).thresholds, name, case, allow_edited=True)
        if old is None:
            continue
        new = placed_again(old, author, reason)
        _show(new, old)
        if new == old and old.is_sealed:
            typer.echo(f"  {case} on {name}: current, nothing to write")
        elif not dry_run:
            written = apply_again(Workspace(root), old, new, reason=reason)
            typer.echo(f"  {'sealed as it is' if new == old else 'placed anew'}; to commit: {written}")
    if dry_run:
        typer.echo("nothing was written (--dry-run)")


def _check(root: Path, filters: Filters) -> None:
    from harness.calibrate.checking import check_files

    report = check_files(root, filters)
    for note in report.notes:
        typer.echo(f"note: {note}")
    for fault in report.faults:
        typer.echo(f"fault: {fault}")
    typer.echo(f"{report.checked} cases with goldens and limits, {len(report.faults)} faults")
    if report.faults:
        raise GoldenError(
            f"{len(report.faults)} faults in cases, goldens and limits", place=str(root), remedy="see the lines above"
        )


def _choose(root: Path, files: list[Path], ids: list[str], keyword: str, runner: str) -> tuple[Located, ...]:
    """Return the chosen cases of this runner, without negative controls, which have no golden of their own."""
    from harness.definitions.choosing import matcher, no_such_case
    from harness.definitions.loading import load_cases
    from harness.project import case_files

    located = load_cases([path.resolve() for path in files] or case_files(root), root)
    unknown = sorted(set(ids) - {item.case.id for item in located})
    if unknown:
        raise no_such_case(unknown, {item.case.id for item in located})
    chosen = [item for item in located if (item.case.id in ids) or (not ids and runner in item.case.runners)]
    wrong = [item.case.id for item in chosen if runner not in item.case.runners]
    if wrong:
        raise InvalidCaseError(f"{', '.join(wrong)}: not a case of runner {runner}", remedy="quantgate cases")
    matches = matcher(keyword)
    matching = tuple(item for item in chosen if item.case.golden_of is None and matches(item.case.id))
    if not matching:
        condition = f"matches {keyword!r}" if keyword else "has a golden of its own"
        option = "-k" if keyword else ", ".join(ids)
        raise InvalidCaseError(f"no case of runner {runner} {condition}", place=option, remedy="quantgate cases")
    return matching


def _print_event(event: Event) -> None:
    from harness.session.context import CaseFinished

    if isinstance(event, CaseFinished):
        record = event.record
        typer.echo(f"  {record.run.rpartition('/')[2]:<14} {record.case:<36} {record.timing.total:6.1f} s")


def _to_the_fault(margin: float) -> str:
    """Return the distance of a limit from the nearest injected fault in words; a negative margin is a missed fault."""
    if margin >= 0:
        return f", {margin:.4g} away from the nearest fault that it finds"
    return f", and the nearest fault passes it by {-margin:.4g}"


def _show(new: LimitFile, old: LimitFile | None) -> None:
    typer.echo(f"{new.runner}/{new.case}")
    for limit in new.limits:
        before = old.get(limit.metric) if old else None
        was = "none" if before is None or before.limit is None else f"{before.limit:.4g}"
        values = [sample.value for sample in limit.samples if sample.side == "benign"]
        worst = min(values) if limit.direction == "higher_is_better" else max(values)
        now = "does not gate" if limit.limit is None else f"{limit.limit:.4g}"
        unit = f" {limit.unit}" if limit.unit else ""
        far = _to_the_fault(limit.margin_faulty) if limit.margin_faulty is not None else ""
        typer.echo(f"  {limit.metric:<16} {was:>10} -> {now:<10} worst healthy {worst:.4g} of {len(values)}{unit}{far}")
    for control in new.controls:
        half, most = (
            "never" if strength is None else f"{strength:g}" for strength in (control.strength_50, control.strength_95)
        )
        typer.echo(f"  {control.fault:<16} found by frames in 50 % of runs from strength {half}, in 95 % from {most}")
    for note in new.notes:
        typer.echo(f"  note: {note}")
