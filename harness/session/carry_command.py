"""``quantgate goldens carry``. Thin: parse, carry over, print."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from harness.checkpoint.lock import LOCK_NAME, differences, make_lock, read_lock
from harness.definitions.case import Located
from harness.definitions.files import case_files
from harness.definitions.loading import load_cases
from harness.definitions.project import project_root
from harness.errors import QuantgateError
from harness.goldens.commands import Case, Runner, selection
from harness.review.workspace import Workspace
from harness.session.carrying import carry


def carry_command(
    runner: Runner = "*", case: Case = "*", root: Annotated[Path, typer.Option("--root")] = Path()
) -> None:
    """Give goldens and the lock of an older version the contents of their weights; frames stay, and nothing is run."""
    root = project_root(root)
    cases = load_cases(case_files(root), root)
    done = carry(Workspace(root), cases, selection(runner, case))
    for line in done.goldens:
        typer.echo(f"carried  {line}")
    for line in done.left:
        typer.echo(f"left     {line}")
    changed = [*done.changed, *_lock(root, cases)]
    typer.echo(f"{len(done.goldens)} goldens were carried over, {len(done.left)} left as they were")
    if changed:
        folders = sorted({str(Path(*path.relative_to(root).parts[:2])) for path in changed})
        typer.echo(f"to commit: git add --all {' '.join(folders)}")


def _lock(root: Path, cases: Sequence[Located]) -> list[Path]:
    """Write the contents of locked checkpoints into the lock, if it agrees with the files that are here."""
    path = root / "cases" / LOCK_NAME
    if not path.exists():
        return []
    known = [one.case for one in cases]
    local = [case for case in known if all(ref.is_local for ref in case.checkpoints().values())]
    try:
        held = read_lock(path)
        now, _ = make_lock(local, root, held)
    except QuantgateError as error:
        typer.echo(f"left     {path.relative_to(root)}: {error.what}; quantgate lock")
        return []
    odd = [one for one in differences(held, now, known) if one.case in now.cases]
    if odd:
        typer.echo(f"left     {path.relative_to(root)}: {odd[0]}; quantgate lock")
        return []
    # a checkpoint that is not on this machine keeps what the lock says of it
    merged = {name: {**held.cases.get(name, {}), **roles} for name, roles in {**held.cases, **now.cases}.items()}
    new = held.model_copy(update={"cases": dict(sorted(merged.items()))})
    if new == held:
        return []
    new.write(path)
    typer.echo(f"carried  {path.relative_to(root)}")
    return [path]
