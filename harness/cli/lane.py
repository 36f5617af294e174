"""``quantgate plan | merge | doctor | ci comment | ci propose``: parse, call `harness.lane`, exit with its code.

``--github`` appends to the files ``$GITHUB_STEP_SUMMARY`` and ``$GITHUB_OUTPUT`` of the GitHub runner.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Collection
from pathlib import Path
from typing import Annotated

import typer

from harness.cli import options
from harness.definitions.loading import load_cases
from harness.definitions.runner import named_runner
from harness.errors import InvalidCaseError
from harness.git import head_of
from harness.lane.coverage import LOOSER, TRAILER, Change, Coverage, coverage_against
from harness.lane.durations import read_history
from harness.lane.github import post_comment, propose, pull_request_of
from harness.lane.merge import PLAN, merge
from harness.lane.plan import make_plan, read_plan
from harness.lane.settings_checks import check_callers, check_home, check_settings
from harness.lane.summary import lane_markdown, plan_markdown
from harness.machine.doctor import examine
from harness.machine.preflight import Preflight
from harness.outcomes import RULES, Outcome
from harness.project import HERE, Project, case_files, project_root
from harness.reading import read_text
from harness.records.base import write_text_atomic
from harness.records.run_folder import HISTORY_FILE

PlanFile = Annotated[Path, typer.Option("--plan", help="the plan file")]


def plan_command(
    runner: options.Runner,
    shards: Annotated[int, typer.Option("--shards", help="machines at hand", min=1)] = 1,
    out: options.Out = Path(PLAN),
    history: options.Histories = None,
    against: options.Against = None,
    github: options.Github = False,
    root: options.Root = Path(),
) -> int:
    """Spread the cases of a runner over machines, longest first, and print the matrix JSON."""
    if shards < 1:
        raise InvalidCaseError(f"--shards {shards}: at least 1", remedy="--shards 4")
    root = project_root(root)
    profile = named_runner(Project(root).runners, runner)
    located = load_cases(case_files(root), root)
    coverage = None
    if against is not None:
        coverage = coverage_against(root, against, runner, [item.case for item in located])
    past = read_history(history or [HERE.runs / HISTORY_FILE])
    made = make_plan(located, profile, shards, past, code=head_of(root).removesuffix("+dirty"), coverage=coverage)
    made.write(out)
    matrix = json.dumps(made.matrix(), separators=(",", ":"))
    typer.echo(matrix)
    for note in made.notes:
        typer.echo(f"note: {note}", err=True)
    if github:
        _append("GITHUB_STEP_SUMMARY", plan_markdown(made))
        _append("GITHUB_OUTPUT", f"matrix={matrix}\nplan={made.id}\n")
    return _unexplained(coverage, runner)


def merge_command(
    folders: Annotated[list[Path], typer.Argument(help="what the shards left: folders with record.json files")],
    plan: PlanFile = Path(PLAN),
    out: options.Out = Path("merged"),
    history: options.OptionalHistory = None,
    plan_id: Annotated[
        str | None, typer.Option("--plan-id", help="digest that the plan must have, from the job that made it")
    ] = None,
    github: options.Github = False,
) -> int:
    """Join the shards in a new folder and compare them with the plan; fails if a planned case has no result."""
    made = read_plan(plan, plan_id)
    # an absent folder is a shard without results: its cases count as not run
    merged = merge([folder for folder in folders if folder.is_dir()], made, out)
    text = lane_markdown(merged, made)
    write_text_atomic(out / "summary.md", text)
    if history is not None:
        read_history([history, out / HISTORY_FILE]).write(history)
    if github:
        _append("GITHUB_STEP_SUMMARY", text)
    for case in merged.cases:
        typer.echo(f"{case.outcome.value:<21} {case.case}  {case.summary}")
    for problem in merged.problems:
        typer.echo(f"problem: {problem}", err=True)
    typer.echo(f"{len(merged.cases)} planned, {len(merged.missing())} without a result; exit code {merged.exit_code}")
    return merged.exit_code


def doctor_command(
    runner: options.Runner,
    out: options.OptionalOut = None,
    as_json: options.AsJson = False,
    lane: Annotated[bool, typer.Option("--lane", help="look at the settings on GitHub instead, through gh")] = False,
    repo: options.Repo = "",
    root: options.Root = Path(),
) -> int:
    """Report whether this machine may run the lane now: device, driver, errors, clocks, memory, processes, disk, cache.

    With --lane: whether the settings on GitHub keep code of others away from the runner's machines.
    """
    root = project_root(root)
    profile = named_runner(Project(root).runners, runner)
    if lane:
        checks = (*check_settings(repo, profile.labels), *check_callers(root, repo), *check_home(os.environ))
        preflight = Preflight(runner=profile.name, checks=checks)
    else:
        cases = [located.case for located in load_cases(case_files(root), root) if runner in located.case.runners]
        preflight = examine(profile, root, checkpoints=[ref for case in cases for ref in case.checkpoints().values()])
    if out is not None:
        preflight.write(out)
    typer.echo(preflight.to_json().rstrip() if as_json else "\n".join(preflight.lines()))
    return preflight.exit_code


def comment_command(
    body: Annotated[Path, typer.Option("--body", help="Markdown, such as merged/summary.md")],
    repo: options.Repo,
    branch: options.CommentBranch,
) -> None:
    """Write or replace the lane's one comment on a pull request, through gh."""
    number = pull_request_of(branch)
    if number is None:  # a nightly run: green, since there is no pull request that could lack the comment
        typer.echo(f"{branch} is no vetted copy of a pull request: no comment")
        return
    typer.echo(f"comment {post_comment(repo, number, read_text(body, limit=1 << 22))} on pull request {number}")


def propose_command(
    changes: Annotated[Path, typer.Argument(help="folder with goldens/ and thresholds/")],
    branch: options.NewBranch,
    title: Annotated[str, typer.Option("--title", help="of the pull request")],
    reason: options.Reason,
    base: options.TargetBranch = "main",
) -> None:
    """Open a pull request with regenerated goldens and limits, through git and gh."""
    address = propose(Path.cwd(), changes, branch, title, reason, base, check=check_proposal)
    typer.echo(address or "nothing differs: no pull request")


def check_proposal(root: Path, pairs: Collection[tuple[str, str]]) -> None:
    """Check proposed goldens and limits with ``quantgate regenerate --check``, before they are published.

    It runs in a separate process: the check decodes frames, which this room does not import.

    Args:
        root: the checkout, with the proposed files in it.
        pairs: runner and case of each proposed file.

    Raises:
        InvalidCaseError: they do not fit together, are damaged, or were edited. It holds the output of the check.
    """
    for runner in sorted({runner for runner, _ in pairs}):
        named = [part for name, case in sorted(pairs) if name == runner for part in ("--case", case)]
        code = "from harness.cli.app import main; main()"
        command = [sys.executable, "-c", code, "regenerate", "--check", "--runner", runner, *named, "--root", str(root)]
        completed = subprocess.run(command, capture_output=True, text=True, check=False, timeout=600)
        if completed.returncode:
            raise InvalidCaseError(
                f"the proposed goldens and limits are refused:\n{(completed.stdout + completed.stderr).strip()}",
                place=runner,
                remedy="read the lines above, and run the workflow again",
            )


def _unexplained(coverage: Coverage | None, runner: str) -> int:
    """Print changes without a reason, and files that cannot be used. Return the exit code."""
    if coverage is None:
        return 0
    bad = coverage.without_reason()
    for change in bad:
        change_text, how = _refusal(change, runner)
        typer.echo(f"{change.case}: {change_text} without a reason\n  next: {how}", err=True)
    for fault in coverage.faults:
        typer.echo(fault, err=True)
    return RULES[Outcome.INVALID_CASE].exit_code if bad or coverage.faults else 0


def _refusal(change: Change, runner: str) -> tuple[str, str]:
    """Return a change in words, and the command that gives a reason for it."""
    commit = "git commit --amend --trailer"
    if change.kind == "removed":
        text = f"removed from {change.before}" if change.field else "removed"
        return text, f"{commit} '{TRAILER}: {change.key}: <reason>'"
    if change.kind == "baseline":
        removed = f"{commit} '{TRAILER if not change.field else LOOSER}: {change.key}: <reason>'"
        make = f"quantgate regenerate --perf --runner {runner} --case {change.case} --reason '<reason>'"
        text = f"baseline of {change.field} loosened" if change.field else "baseline of time and memory removed"
        return text, f"{make}; or {removed}"
    if change.kind != "limit":
        text = f"{change.field} lets more through"
        return text, f"{commit} '{LOOSER}: {change.key}: <reason>'"
    measure = f"quantgate regenerate --runner {runner} --case {change.case} --reason '<reason>'"
    if change.field:
        return f"limit of {change.field} loosened", measure
    removed = f"{commit} '{TRAILER}: {change.key}: <reason>'"
    return "limits removed", f"{measure}; or, where they are not measured yet, {removed}"


def _append(variable: str, text: str) -> None:
    """Append to the file that a variable of the GitHub runner names; nothing is written if it is not set."""
    if name := os.environ.get(variable):
        with Path(name).open("a", encoding="utf-8") as out:
            out.write(text)
