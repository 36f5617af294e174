"""``quantgate plan | merge | doctor | comment | propose``. Thin: parse, call :mod:`.operations`, exit with its code.

``--github`` stands where a workflow would name ``$GITHUB_STEP_SUMMARY`` and ``$GITHUB_OUTPUT``: the runner's own files.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from harness.lane import operations
from harness.lane.merge import PLAN

Runner = Annotated[str, typer.Option("--runner", help="name of a profile in runners/")]
PlanFile = Annotated[Path, typer.Option("--plan", help="the plan file")]
Root = Annotated[Path, typer.Option("--root", help="root of the repository")]
OnGithub = Annotated[bool, typer.Option("--github", help="also write the job summary and the job's outputs")]


def plan_command(
    runner: Runner,
    shards: Annotated[int, typer.Option("--shards", help="machines at hand", min=1)] = 1,
    out: Annotated[Path, typer.Option("--out", help="the plan file to write")] = Path(PLAN),
    history: Annotated[
        list[Path] | None, typer.Option("--history", help="history.json, or a folder of records; may be repeated")
    ] = None,
    against: Annotated[
        str | None, typer.Option("--against", help="commit to compare cases, checkpoints and limits with")
    ] = None,
    github: OnGithub = False,
    root: Root = Path(),
) -> None:
    """Spread the cases of a runner over machines, longest first, and print the matrix JSON."""
    raise typer.Exit(
        operations.plan(
            root=root,
            runner=runner,
            shards=shards,
            out=out,
            history=history or [Path("runs/history.json")],
            against=against,
            summary=_file("GITHUB_STEP_SUMMARY", github),
            github_output=_file("GITHUB_OUTPUT", github),
        )
    )


def merge_command(
    folders: Annotated[list[Path], typer.Argument(help="what the shards left: folders with record.json files")],
    plan: PlanFile = Path(PLAN),
    out: Annotated[Path, typer.Option("--out", help="a new folder for everything")] = Path("merged"),
    history: Annotated[
        Path | None, typer.Option("--history", help="history.json that the measured times are added to")
    ] = None,
    plan_id: Annotated[
        str | None, typer.Option("--plan-id", help="digest that the plan must have, from the job that made it")
    ] = None,
    github: OnGithub = False,
) -> None:
    """Join the shards and hold them against the plan; fails if a planned case has no result."""
    summary = _file("GITHUB_STEP_SUMMARY", github)
    raise typer.Exit(
        operations.merge(folders=folders, plan_file=plan, out=out, history=history, summary=summary, plan_id=plan_id)
    )


def doctor_command(
    runner: Runner,
    out: Annotated[Path | None, typer.Option("--out", help="also write the record there")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="print the record")] = False,
    lane: Annotated[bool, typer.Option("--lane", help="look at the settings on GitHub instead, through gh")] = False,
    repo: Annotated[str, typer.Option("--repo", envvar="GITHUB_REPOSITORY", help="owner/name, with --lane")] = "",
    root: Root = Path(),
) -> None:
    """Say whether this machine may run the lane now: device, driver, errors, clocks, memory, processes, disk, cache.

    With --lane: whether the settings on GitHub keep code of others away from the runner's machines.
    """
    if lane:
        raise typer.Exit(operations.doctor_of_lane(root=root, runner=runner, repository=repo, out=out, as_json=as_json))
    raise typer.Exit(operations.doctor(root=root, runner=runner, out=out, as_json=as_json))


def comment_command(
    body: Annotated[Path, typer.Option("--body", help="Markdown, such as merged/summary.md")],
    repo: Annotated[str, typer.Option("--repo", envvar="GITHUB_REPOSITORY", help="owner/name")],
    branch: Annotated[str, typer.Option("--branch", envvar="GITHUB_REF_NAME", help="pull-request/<number>")],
) -> None:
    """Write or replace the lane's one comment on a pull request, through gh."""
    raise typer.Exit(operations.comment(repository=repo, branch=branch, body=body))


def propose_command(
    changes: Annotated[Path, typer.Argument(help="folder with goldens/ and thresholds/")],
    branch: Annotated[str, typer.Option("--branch", help="new branch")],
    title: Annotated[str, typer.Option("--title", help="of the pull request")],
    reason: Annotated[str, typer.Option("--reason", help="why; the text of the pull request")],
    base: Annotated[str, typer.Option("--base", help="branch to propose to")] = "main",
) -> None:
    """Open a pull request with regenerated goldens and limits, through git and gh."""
    raise typer.Exit(
        operations.propose_changes(
            root=Path.cwd(), changes=changes, branch=branch, title=title, reason=reason, base=base
        )
    )


def _file(variable: str, wanted: bool) -> Path | None:
    named = os.environ.get(variable)
    return Path(named) if wanted and named else None
