"""``quantgate pending | review | accept | reject``: parse, call `harness.goldens`, print."""

from __future__ import annotations

import getpass
import os
import shlex
import subprocess
import sys
import webbrowser
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from harness.cli import options
from harness.errors import GoldenError
from harness.goldens.accept import Acceptance, present_case, present_cases, present_requests
from harness.goldens.accept import accept as accept_candidate
from harness.goldens.artifact import held_in
from harness.goldens.journal import recover
from harness.goldens.pending import RECORD, Pending, listed
from harness.goldens.pending import reject as reject_candidate
from harness.goldens.refusing import Allow, is_shown, request_changes
from harness.goldens.selecting import Held, is_plain, select
from harness.goldens.workspace import Workspace
from harness.in_ci import ci_variable
from harness.project import project_root
from harness.reading import UnreadableError
from harness.records.base import Json
from harness.records.candidate import Candidate
from harness.records.case_record import CaseRecord
from harness.redaction import safe_text
from harness.session.similarity import similarity

Cases = Annotated[
    list[str] | None, typer.Argument(metavar="[CASE]...", help="cases, runner/case, or globs such as 'wan22_*'")
]

SICK = "its frames are sick"
"""Beginning of the note on a candidate whose frames failed a check that needs no golden."""
LIMITS = {
    "new": "limits: the ones that were measured against this candidate",
    "carried": "limits: carried over, since only the code differs; the file says so",
    "removed": "limits: removed, since they were measured for another configuration; next: {regenerate}",
    "extended": "limits: hold for this golden too; next: {regenerate}, which measures against the nearest",
    "none": "limits: there are none yet; next: {regenerate}",
}


def pending(root: options.Root = Path()) -> None:
    """List the candidates that wait to be accepted or rejected, each with the golden that it was compared with."""
    root = project_root(root)
    workspace = Workspace(root)
    with workspace.locked():
        for sentence in recover(workspace):
            typer.echo(sentence)
    candidates = listed(workspace)
    requests = present_requests(root) if candidates else {}
    for item in candidates:
        typer.echo("\n".join(describe(item, notes(workspace, item, requests.get(item.case)))))
    typer.echo(f"{len(candidates)} pending" if candidates else "nothing is pending")


def _print_accepted(accepted: Acceptance) -> None:
    for sentence in accepted.recovered:
        typer.echo(sentence)
    typer.echo(f"accepted {accepted.manifest.runner}/{accepted.manifest.case} as golden {accepted.digest[:16]}")
    if accepted.replaced:
        typer.echo(f"in place of {', '.join(digest[:16] for digest in accepted.replaced)}")
    case, runner = shlex.quote(accepted.manifest.case), shlex.quote(accepted.manifest.runner)
    typer.echo(LIMITS[accepted.limits].format(regenerate=f"quantgate regenerate --case {case} --runner {runner}"))
    for sentence in accepted.changes:
        typer.echo(f"  {sentence}")


def reject(
    cases: Cases = None,
    everything: options.Everything = False,
    runner: options.Runner = "",
    root: options.Root = Path(),
) -> None:
    """Drop pending candidates."""
    workspace = Workspace(project_root(root))
    with workspace.locked():
        for sentence in recover(workspace):
            typer.echo(sentence)
    names = tuple(cases or ())
    chosen = (
        (Held(runner, names[0]),)
        if is_plain(names, everything)
        else select(names, everything, _pending(workspace), runner=runner, place=str(workspace.pending_root))
    )
    for item in chosen:
        folder = reject_candidate(workspace, item.case, item.runner)
        typer.echo(f"rejected: {folder} is gone; the run's own folder keeps what it has")


def review_command(
    source: options.Artifact = None,
    runner: options.Runner = "",
    out: options.OptionalOut = None,
    browse: Annotated[
        bool | None, typer.Option("--open/--no-open", help="open the page; default: where there is a display")
    ] = None,
    root: options.Root = Path(),
) -> None:
    """Show all candidates on one page, the accepted golden beside each; the page gives the decisions as one command.

    Without --out, the page goes to .quantgate/report.
    """
    from harness.report.load import load_pending, load_run
    from harness.report.render import render_review

    root = project_root(root)
    workspace = Workspace(root)
    with workspace.locked():
        for sentence in recover(workspace):
            typer.echo(sentence)
    if source is not None and not source.is_dir():
        raise GoldenError(
            "the page needs the artifact's pictures: unpack it first" if source.is_file() else "no such artifact",
            place=str(source),
            remedy=f"unzip {shlex.quote(str(source))} -d FOLDER, then quantgate review --from FOLDER",
        )
    candidates = [item for item in listed(workspace) if runner in ("", item.runner)] if source is None else []
    if source is None and not any(item.candidate for item in candidates):
        raise GoldenError("nothing is pending", place=str(workspace.pending_root), remedy="run the cases first")
    run = load_pending(workspace.pending_root) if source is None else load_run(source)
    entries = tuple(entry for entry in run.entries if entry.candidate and runner in ("", entry.record.runner))
    if not entries:
        raise GoldenError(
            "there is no candidate", place=str(source or workspace.pending_root), remedy="quantgate pending"
        )
    requests = present_requests(root)
    notes_by_case = {
        (item.runner, item.case): notes(workspace, item, requests.get(item.case), shown=True) for item in candidates
    }
    target = out or (workspace.state if source is None else source) / "report"
    page = render_review(replace(run, entries=entries), target, notes_by_case, source)
    for item in candidates:
        if item.candidate is None:
            typer.echo(f"{item.runner}/{item.case} is damaged and not shown: {item.fault}")
    typer.echo(f"{len(entries)} candidates: {page}")
    if browse if browse is not None else _has_display():
        webbrowser.open(page.resolve().as_uri())


def _has_display() -> bool:
    """Return whether a person can see a browser window: a terminal and a screen, and no CI."""
    screen = sys.platform == "darwin" or any(os.environ.get(name) for name in ("DISPLAY", "WAYLAND_DISPLAY"))
    return sys.stdout.isatty() and screen and not ci_variable(os.environ)


def _pending(workspace: Workspace) -> list[tuple[str, str]]:
    return [(item.runner, item.case) for item in listed(workspace)]


def notes(workspace: Workspace, item: Pending, request: Mapping[str, Json] | None, *, shown: bool = False) -> list[str]:
    """Return the reasons that keep a pending candidate from being accepted as it is, one sentence per reason.

    Args:
        workspace: the project.
        item: the candidate.
        request: request of the case file now; ``None``: there is no such case.
        shown: whether a report is about to show the candidate.
    """
    candidate = item.candidate
    if candidate is None:
        return []
    doubts = []
    changes = request_changes(candidate, request) if request is not None else ()
    if changes:
        doubts.append(f"the case file asks for something else now: {'; '.join(changes)}")
    record = record_of(item)
    if record is not None and record.sanity is not None and record.sanity.failures:
        doubts.append(f"{SICK}: {'; '.join(check.message for check in record.sanity.failures)}")
    if not shown and not is_shown(workspace, candidate):
        doubts.append("no report shows it yet: quantgate review")
    return doubts


def describe(item: Pending, notes: Sequence[str] = ()) -> list[str]:
    """Describe a pending candidate in a few lines: its parts, its golden, and its distance from the golden."""
    head = f"{item.runner}/{item.case}"
    candidate = item.candidate
    if candidate is None:
        return [f"{head}  DAMAGED", f"    {item.fault}"]
    parts = ", ".join(f"{name} {part.bytes / 1e6:.2f} MB" for name, part in sorted(candidate.parts.items()))
    lines = [f"{head}  {candidate.outcome.value}  {candidate.created}  run {candidate.provenance.run}"]
    lines.append(f"    {candidate.summary}")
    lines.append(f"    {_against(item, candidate)}")
    lines += [
        f"    {change.identity_class}.{change.field}: {change.golden!r} -> {change.run!r}"
        for change in candidate.changes
    ]
    lines += [f"    {note}" for note in notes]
    lines.append(f"    {parts}{'; with limits' if candidate.limits is not None else ''}")
    is_sick = any(note.startswith(SICK) for note in notes)  # accept would refuse it
    lines.append(
        f"    quantgate reject {item.case} --runner {item.runner}"
        if is_sick
        else f"    quantgate accept {item.case} --runner {item.runner} --reason '...'"
    )
    return lines


def _against(item: Pending, candidate: Candidate) -> str:
    if not candidate.golden:
        return "the first golden: there is none that it could be compared with"
    record = record_of(item)
    comparison = record.comparison if record is not None else None
    if any(change.identity_class == "request" for change in candidate.changes):
        distance = "of another request, so that its frames are not compared"
    elif comparison is None:
        distance = "its frames were not compared"
    else:
        distance = comparison.distance()
    return f"instead of golden {candidate.golden[:16]}: {distance}"


def record_of(item: Pending) -> CaseRecord | None:
    """Return the record beside a pending candidate; ``None`` if it is absent or unreadable."""
    part = item.candidate.parts.get(RECORD) if item.candidate is not None else None
    if part is None:
        return None
    try:
        return CaseRecord.read(item.folder / part.path)
    except (OSError, UnreadableError):
        return None


def default_author(root: Path) -> str:
    """Return git's ``user.name``, else the login name.

    Raises:
        GoldenError: both are unset.
    """
    try:
        completed = subprocess.run(
            ["git", "config", "user.name"], cwd=root, capture_output=True, text=True, check=False, timeout=10
        )
        name = completed.stdout.strip()
    except (OSError, subprocess.TimeoutExpired):
        name = ""
    try:
        return name or getpass.getuser()
    except (KeyError, OSError) as error:
        fault = "cannot determine the author: git's user.name and the login name are both unset"
        raise GoldenError(fault, remedy="add --author NAME") from error


# ``quantgate accept``: parse, look up the case as its file states it now, accept.


def accept(
    reason: options.Reason,
    cases: Cases = None,
    everything: options.Everything = False,
    source: options.Artifact = None,
    runner: options.Runner = "",
    author: options.Author = "",
    also: Annotated[bool, typer.Option("--also", help="beside the present goldens: the case is bistable")] = False,
    over: Annotated[bool, typer.Option("--over", help="in place of all present goldens, even unreadable ones")] = False,
    loosen_limits: Annotated[
        bool, typer.Option("--loosen-limits", help="take limits that came along though they gate less than before")
    ] = False,
    drop_limits: Annotated[
        bool, typer.Option("--drop-limits", help="delete limits that were measured for another configuration")
    ] = False,
    another_video: Annotated[
        bool, typer.Option("--another-video", help="take it though it shows another video than the golden it replaces")
    ] = False,
    other_request: Annotated[
        bool, typer.Option("--other-request", help="take it though the case file asks for something else now")
    ] = False,
    failed_sanity: Annotated[
        bool, typer.Option("--failed-sanity", help="take it though its frames are NaN, static, frozen, ...")
    ] = False,
    unseen: Annotated[bool, typer.Option("--unseen", help="take it though no report shows it")] = False,
    root: options.Root = Path(),
) -> None:
    """Make candidates the goldens of their cases. Each is accepted or refused on its own."""
    root = project_root(root)
    workspace, names = Workspace(root), tuple(cases or ())
    chosen: tuple[Held, ...] = (Held(runner, names[0]),) if is_plain(names, everything) else ()
    if not chosen:
        candidates = _pending(workspace) if source is None else held_in(source)
        place = str(source or workspace.pending_root)
        chosen = select(names, everything, candidates, runner=runner, place=place)
    present = present_cases(root)
    allow = Allow(
        other_request=other_request,
        failed_sanity=failed_sanity,
        unseen=unseen,
        another_video=another_video,
        drop_limits=drop_limits,
    )
    author = author or default_author(root)
    changed: dict[str, None] = {}
    refused: list[GoldenError] = []
    for item in chosen:
        now = present_case(root, item.case, present)
        for sentence in now.notes:
            typer.echo(sentence)
        try:
            accepted = accept_candidate(
                workspace,
                item.case,
                request=now.request,
                extra=now.extra,
                reason=reason,
                source=source,
                runner=item.runner,
                author=author,
                also=also,
                over=over,
                loosen_limits=loosen_limits,
                allow=allow,
                similarity=similarity,
            )
        except GoldenError as error:
            if len(chosen) == 1:
                raise
            refused.append(error)
            typer.echo(f"refused {item}: {safe_text(str(error))}", err=True)
            continue
        _print_accepted(accepted)
        changed.update(dict.fromkeys(accepted.changed))
    if len(chosen) > 1:
        typer.echo(f"{len(chosen) - len(refused)} accepted, {len(refused)} refused")
    if changed:
        typer.echo(f"to commit: git add {' '.join(map(shlex.quote, changed))}")
    if refused:
        raise typer.Exit(refused[0].exit_code)
