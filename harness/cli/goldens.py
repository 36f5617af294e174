"""``quantgate goldens verify | gc | push | pull | pin | renew``: parse, call `harness.goldens`, print."""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Annotated

import typer

from harness.calibrate.renewing import renew
from harness.calibrate.samples import read_results
from harness.cli import options
from harness.cli.review import default_author
from harness.errors import GoldenError, InvalidCaseError
from harness.goldens import maintenance
from harness.goldens.folder import FolderStore
from harness.goldens.hub import HubStore
from harness.goldens.maintenance import Select
from harness.goldens.store import CONFIG_FILE, GoldenStore, HubPin, StoreConfig, hub_store, open_store, read_config
from harness.goldens.workspace import Workspace
from harness.project import HERE, is_project, project_root

goldens_app = options.Commands(help="Verify, clean up and move goldens.", no_args_is_help=True)


def selection(runner: str, case: str) -> Select:
    """Return a filter of runner and case by globs."""
    return lambda a_runner, a_case: fnmatchcase(a_runner, runner) and fnmatchcase(a_case, case)


@goldens_app.command()
def verify(folder: options.Goldens = HERE.goldens, runner: options.Runner = "*", case: options.OneCase = "*") -> None:
    """Read every byte of every golden and hold it against its manifest."""
    store = open_store(folder)
    select = _select(folder, store, runner, case)
    checked = maintenance.verify(store, select)
    for item in checked:
        state = "accepted" if item.accepted else "unused  "
        typer.echo(f"{'DAMAGED ' if item.faults else 'ok      '} {state} {item.name}")
        for fault in item.faults:
            typer.echo(f"         {fault}")
    damaged = [item.name for item in checked if item.faults]
    typer.echo(f"{len(checked)} goldens, {len(damaged)} damaged, in {store.origin}")
    if damaged:
        raise GoldenError(f"{len(damaged)} of {len(checked)} goldens are damaged: {', '.join(damaged)}")


@goldens_app.command()
def gc(
    folder: options.Goldens = HERE.goldens,
    runner: options.Runner = "*",
    case: options.OneCase = "*",
    apply: Annotated[
        bool, typer.Option("--apply", help="delete what is listed; without it nothing is deleted")
    ] = False,
    hub: Annotated[bool, typer.Option("--hub", help="clean the dataset instead of the folder")] = False,
) -> None:
    """List goldens that no case accepts, and delete them with ``--apply``."""
    store = _pinned(folder) if hub else FolderStore(folder)
    listed = maintenance.unused(store, _select(folder, store, runner, case))
    for item in listed:
        typer.echo(f"unused {item.name}")
    if not apply or not listed:
        typer.echo(f"{len(listed)} unused goldens{'; nothing was deleted, add --apply' if listed else ''}")
        return
    if isinstance(store, HubStore):
        _save_pin(folder, maintenance.collect_hub(store, listed))
    else:
        maintenance.collect_folder(store, listed)
    typer.echo(f"deleted {len(listed)} goldens from {store.origin}")


@goldens_app.command()
def push(
    folder: options.Goldens = HERE.goldens,
    runner: options.Runner = "*",
    case: options.OneCase = "*",
    repo: options.DatasetRepo = "",
    replace: options.Replace = False,
) -> None:
    """Copy accepted goldens from the folder to the dataset, as one commit, and pin that commit."""
    target = _target(folder, repo)
    before = target.revision
    select = selection(runner, case)
    source = FolderStore(folder)
    after = maintenance.push(source, target, select, replace=replace)
    _save_pin(folder, after, repo_id=target.repo_id)
    typer.echo(f"nothing to push to {target.origin}" if after == before else f"pushed to {target.at(after).origin}")
    runners = sorted({name for name, a_case in source.cases() if select(name, a_case)})
    typer.echo(f'{folder / CONFIG_FILE} pins it; to read from there, list the runners there: "runners": {runners}')


@goldens_app.command()
def pull(
    folder: options.Goldens = HERE.goldens,
    runner: options.Runner = "*",
    case: options.OneCase = "*",
    replace: options.Replace = False,
) -> None:
    """Copy accepted goldens from the pinned commit of the dataset into the folder."""
    source = _pinned(folder)
    count = maintenance.pull(source, FolderStore(folder), selection(runner, case), replace=replace)
    typer.echo(f"pulled {count} goldens from {source.origin}")


@goldens_app.command()
def pin(
    revision: Annotated[str, typer.Argument(help="a commit; without it the newest of the branch")] = "",
    folder: options.Goldens = HERE.goldens,
) -> None:
    """Read goldens at another commit of the dataset from now on."""
    store = _pinned(folder)
    after = store.at(revision or store.head())
    changed = [
        f"{runner}/{case}"
        for runner, case in sorted(set(store.cases()) | set(after.cases()))
        if store.index(runner, case) != after.index(runner, case)
    ]
    _save_pin(folder, after.revision)
    typer.echo(
        f"{store.revision[:12]} -> {after.revision[:12]}; other goldens are accepted for: {changed or 'no case'}"
    )


def _select(folder: Path, store: GoldenStore, runner: str, case: str) -> Select:
    """Return the filter of the globs. Raise if it matches no golden: an empty check must not pass.

    Raises:
        InvalidCaseError: the globs match no golden, or ``folder`` is no goldens folder.
    """
    accepted = store.cases()
    if not accepted and not is_project(folder.resolve().parent):
        raise InvalidCaseError(
            "no goldens here" if folder.is_dir() else "there is no such folder",
            place=str(folder.resolve()),
            remedy="run it in the repository's root, or pass --goldens",
        )
    select = selection(runner, case)
    if (runner, case) != ("*", "*") and not any(select(*pair) for pair in accepted):
        names = ", ".join(f"{a_runner}/{a_case}" for a_runner, a_case in accepted[:20])
        raise InvalidCaseError(
            f"no golden of {runner}/{case}",
            place=store.origin,
            remedy=f"there are {names}" if names else "leave it out",
        )
    return select


def _pinned(folder: Path) -> HubStore:
    config = read_config(folder)
    if config.hub is None:
        raise GoldenError(
            "no dataset is configured",
            place=str(folder / CONFIG_FILE),
            remedy="quantgate goldens push --repo owner/name",
        )
    return hub_store(config.hub)


def _target(folder: Path, repo: str) -> HubStore:
    config = read_config(folder)
    if config.hub is not None:
        if repo and repo != config.hub.repo_id:
            raise GoldenError(f"store.json names {config.hub.repo_id}, not {repo}", place=str(folder / CONFIG_FILE))
        return hub_store(config.hub)
    if not repo:
        return _pinned(folder)
    nowhere = HubStore(repo, "main")
    return nowhere.at(nowhere.head())


def _save_pin(folder: Path, revision: str, *, repo_id: str = "") -> None:
    config = read_config(folder)
    # built again and not copied: `model_copy` does not validate
    pin = config.hub.model_dump() if config.hub is not None else {"repo_id": repo_id}
    saved = StoreConfig(hub=HubPin(**{**pin, "revision": revision}), runners=config.runners)
    if saved != config:
        saved.write(folder / CONFIG_FILE)


def renew_command(
    run: Annotated[Path, typer.Argument(help="folder of a run, such as runs/20260131-120000-ab12")],
    reason: options.Reason = "evidence that this version takes",
    author: options.Author = "",
    case: options.OneCase = "*",
    root: options.Root = Path(),
) -> None:
    """Add the evidence of a run to goldens with exactly its frames; limits stay, and nothing is run."""
    root = project_root(root)
    results = read_results([run])
    renewed = renew(
        Workspace(root), results, author=author or default_author(root), reason=reason, select=selection("*", case)
    )
    for line in renewed.goldens:
        typer.echo(f"renewed  {line}")
    for line in renewed.skipped:
        typer.echo(f"left     {line}")
    typer.echo(f"{len(renewed.goldens)} goldens were renewed, {len(renewed.skipped)} left as they were")
    _print_changed(root, renewed.changed)


def _print_changed(root: Path, changed: Sequence[Path]) -> None:
    if changed:
        folders = sorted({str(Path(*path.relative_to(root).parts[:2])) for path in changed})
        typer.echo(f"to commit: git add --all {' '.join(folders)}")
