"""``quantgate regenerate``: parse, measure, show the difference, write."""

from __future__ import annotations

import getpass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from harness.errors import InvalidCaseError

if TYPE_CHECKING:
    from harness.definitions.case import Located
    from harness.session.context import SessionContext
    from harness.session.events import Event
    from harness.session.regenerate import Proposal

Ids = Annotated[list[str] | None, typer.Option("--case", help="id of a case; may be repeated")]
Files = Annotated[list[Path] | None, typer.Option("--file", help="a case file; default: all of cases/")]


def regenerate_command(
    case: Ids = None,
    file: Files = None,
    runner: Annotated[str, typer.Option("--runner", help="runner profile")] = "",
    reason: Annotated[str, typer.Option("--reason", help="why; needed to loosen a limit or to replace a golden")] = "",
    author: Annotated[str, typer.Option("--author", help="default: the user of this machine")] = "",
    run_id: Annotated[str, typer.Option("--run-id", help="go on with an interrupted regeneration")] = "",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="measure and show, write nothing")] = False,
    root: Annotated[Path, typer.Option("--root", help="root of the repository")] = Path(),
) -> None:
    """Measure goldens and limits anew, show the difference, and write both atomically."""
    from harness.review.workspace import Workspace
    from harness.session.apply import apply
    from harness.session.perturbation import cpu_flags, plan
    from harness.session.regenerate import measure

    root = root.resolve()
    context = _context(root, runner, run_id)
    chosen = _choose(root, file or [], case or [], context.runner.name)
    perturbations = plan(context.runner, cpu_flags())
    names = ", ".join(("none", *(one.name for one in perturbations)))
    typer.echo(f"{len(chosen)} cases on {context.runner.name}; runs: {names}; records: {context.folder}")
    proposals = measure(context, chosen, perturbations, _say)
    if dry_run:
        for proposal in proposals:
            _show(proposal)
        typer.echo("nothing was written (--dry-run)")
        return
    for proposal in proposals:
        _show(proposal)
        done = apply(Workspace(root), proposal, reason=reason, author=author or getpass.getuser())
        kind = "new golden" if done.new_golden else "golden kept"
        typer.echo(f"  {kind} {done.golden[:16]}; to commit: {', '.join(done.changed)}")


def _context(root: Path, runner: str, run_id: str) -> SessionContext:
    from harness.definitions.runner import load_runners, match_runner
    from harness.goldens.store import open_store
    from harness.lane.devices import cpu_device, gpu_devices
    from harness.session.context import SessionContext, new_run_id
    from harness.session.devices import device_environment, devices_for

    profiles = load_runners(root / "runners")
    if runner and runner not in profiles:
        raise InvalidCaseError(
            f"there is no runner {runner!r}", where="--runner", remedy=f"one of {', '.join(profiles)}"
        )
    gpus = () if runner else gpu_devices()
    profile = profiles[runner] if runner else match_runner(gpus[0] if gpus else cpu_device(), profiles)
    device = devices_for(profile)[0]
    return SessionContext(
        root=root,
        run=run_id or f"regenerate-{new_run_id()}",
        runs_dir=root / "runs",
        runner=profile,
        device=device,
        store=open_store(root / "goldens"),
        thresholds=root / "thresholds",
        device_env=device_environment(device),
        leave_candidates=False,
    )


def _choose(root: Path, files: list[Path], ids: list[str], runner: str) -> tuple[Located, ...]:
    """The cases of this runner, negative controls left out: they have no golden of their own."""
    from harness.definitions.loading import load_cases

    located = load_cases([path.resolve() for path in files] or sorted((root / "cases").glob("*.yaml")), root)
    unknown = sorted(set(ids) - {one.case.id for one in located})
    if unknown:
        raise InvalidCaseError(f"there is no case {', '.join(unknown)}", remedy="quantgate cases")
    chosen = [one for one in located if (one.case.id in ids) or (not ids and runner in one.case.runners)]
    wrong = [one.case.id for one in chosen if runner not in one.case.runners]
    if wrong:
        raise InvalidCaseError(f"{', '.join(wrong)}: not a case of runner {runner}", remedy="quantgate cases")
    return tuple(one for one in chosen if one.case.golden_of is None)


def _say(event: Event) -> None:
    from harness.session.events import CaseFinished

    if isinstance(event, CaseFinished):
        record = event.record
        typer.echo(f"  {record.run.rpartition('/')[2]:<14} {record.case:<36} {record.timing.total:6.1f} s")


def _show(proposal: Proposal) -> None:
    from harness.session.regenerate import limit_file

    new = limit_file(proposal, "", "shown")
    typer.echo(f"{new.runner}/{new.case}")
    for limit in new.limits:
        before = proposal.old.get(limit.metric) if proposal.old else None
        was = "none" if before is None or before.limit is None else f"{before.limit:.4g}"
        values = [sample.value for sample in limit.samples]
        worst = min(values) if limit.direction == "higher_is_better" else max(values)
        now = "does not gate" if limit.limit is None else f"{limit.limit:.4g}"
        typer.echo(
            f"  {limit.metric:<16} {was:>10} -> {now:<10} worst healthy {worst:.4g} of {len(values)} {limit.unit}"
        )
