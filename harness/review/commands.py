"""``quantgate pending | accept | reject``. Thin: parse, call the review, print."""

from __future__ import annotations

import getpass
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import typer

from harness.definitions.project import project_root
from harness.errors import GoldenError
from harness.records.base import Json
from harness.review.accept import Acceptance
from harness.review.accept import accept as accept_candidate
from harness.review.journal import recover
from harness.review.pending import Pending, listed
from harness.review.pending import reject as reject_candidate
from harness.review.workspace import Workspace

Root = Annotated[Path, typer.Option("--root", help="the repository's root")]
RunnerName = Annotated[str, typer.Option("--runner", help="where candidates of several runners are there")]

LIMITS = {
    "new": "limits: the ones that were measured against this candidate",
    "carried": "limits: carried over, since only the code differs; the file says so",
    "removed": "limits: removed, since they were measured for another configuration; next: quantgate regenerate",
    "extended": "limits: hold for this golden too; next: quantgate regenerate, which measures against the nearest",
    "none": "limits: there are none yet; next: quantgate regenerate",
}


def pending(root: Root = Path()) -> None:
    """List the candidates that wait to be accepted or rejected."""
    workspace = Workspace(project_root(root))
    with workspace.locked():
        for sentence in recover(workspace):
            typer.echo(sentence)
    found = listed(workspace)
    for item in found:
        typer.echo("\n".join(describe(item)))
    typer.echo(f"{len(found)} pending" if found else "nothing is pending")


def accept(
    case: Annotated[str, typer.Argument(help="id of the case")],
    reason: Annotated[str, typer.Option("--reason", help="why this output is right")],
    source: Annotated[Path | None, typer.Option("--from", help="a downloaded CI artifact: folder or zip")] = None,
    runner: RunnerName = "",
    author: Annotated[str, typer.Option("--author", help="default: git's user.name")] = "",
    also: Annotated[bool, typer.Option("--also", help="beside the present goldens: the case is bistable")] = False,
    over: Annotated[bool, typer.Option("--over", help="in place of all present goldens, even unreadable ones")] = False,
    loosen_limits: Annotated[
        bool, typer.Option("--loosen-limits", help="take limits that came along though they gate less than before")
    ] = False,
    root: Root = Path(),
) -> None:
    """Make a candidate the golden of its case."""
    from harness.review.present import present_case

    root = project_root(root)
    now = present_case(root, case)
    for sentence in now.notes:
        typer.echo(sentence)
    run_accept(
        Workspace(root),
        case,
        request=now.request,
        extra=now.extra,
        reason=reason,
        source=source,
        runner=runner,
        author=author or default_author(root),
        also=also,
        over=over,
        loosen_limits=loosen_limits,
    )


def run_accept(
    workspace: Workspace,
    case: str,
    *,
    reason: str,
    author: str,
    source: Path | None = None,
    runner: str = "",
    also: bool = False,
    over: bool = False,
    request: Mapping[str, Json] | None = None,
    extra: Mapping[Path, bytes] | None = None,
    loosen_limits: bool = False,
) -> Acceptance:
    """Accept and print what changed. A door that knows the cases passes the case's present ``request``."""
    done = accept_candidate(
        workspace,
        case,
        reason=reason,
        author=author,
        source=source,
        runner=runner,
        also=also,
        over=over,
        request=request,
        extra=extra,
        loosen_limits=loosen_limits,
    )
    for sentence in done.recovered:
        typer.echo(sentence)
    typer.echo(f"accepted {done.manifest.runner}/{done.manifest.case} as golden {done.digest[:16]}")
    if done.replaced:
        typer.echo(f"in place of {', '.join(digest[:16] for digest in done.replaced)}")
    typer.echo(LIMITS[done.limits])
    for sentence in done.changes:
        typer.echo(f"  {sentence}")
    typer.echo(f"to commit: git add {' '.join(done.changed)}")
    return done


def reject(
    case: Annotated[str, typer.Argument(help="id of the case")], runner: RunnerName = "", root: Root = Path()
) -> None:
    """Drop a pending candidate."""
    workspace = Workspace(project_root(root))
    with workspace.locked():
        for sentence in recover(workspace):
            typer.echo(sentence)
    folder = reject_candidate(workspace, case, runner)
    typer.echo(f"rejected: {folder} is gone; the run's own folder keeps what it has")


def describe(item: Pending) -> list[str]:
    """A pending candidate in a few lines."""
    head = f"{item.runner}/{item.case}"
    candidate = item.candidate
    if candidate is None:
        return [f"{head}  DAMAGED", f"    {item.fault}"]
    parts = ", ".join(f"{name} {part.bytes / 1e6:.2f} MB" for name, part in sorted(candidate.parts.items()))
    lines = [f"{head}  {candidate.outcome.value}  {candidate.created}  run {candidate.provenance.run}"]
    lines.append(f"    {candidate.summary}")
    lines.append(f"    instead of golden {candidate.golden[:16]}" if candidate.golden else "    the first golden")
    lines += [
        f"    {change.identity_class}.{change.field}: {change.golden!r} -> {change.run!r}"
        for change in candidate.changes
    ]
    lines.append(f"    {parts}{'; with limits' if candidate.limits is not None else ''}")
    lines.append(f"    quantgate accept {item.case} --runner {item.runner} --reason '…'")
    return lines


def default_author(root: Path) -> str:
    """git's ``user.name``, else the login name.

    Raises:
        GoldenError: there is neither.
    """
    try:
        asked = subprocess.run(
            ["git", "config", "user.name"], cwd=root, capture_output=True, text=True, check=False, timeout=10
        )
        name = asked.stdout.strip()
    except (OSError, subprocess.TimeoutExpired):
        name = ""
    try:
        return name or getpass.getuser()
    except (KeyError, OSError) as error:
        raise GoldenError("nobody is known who accepts", remedy="add --author NAME") from error
