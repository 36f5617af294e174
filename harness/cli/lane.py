"""``quantgate plan | merge | doctor | comment | propose``: parse, call `harness.lane`, exit with its code.

``--github`` writes to the files ``$GITHUB_STEP_SUMMARY`` and ``$GITHUB_OUTPUT`` of the GitHub runner.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Annotated

import typer

from harness.cli import options
from harness.definitions.loading import load_cases
from harness.definitions.runner import named_runner
from harness.errors import InvalidCaseError
from harness.lane.coverage import LOOSER, TRAILER, Change, Coverage, coverage_against
from harness.lane.durations import read_history
from harness.lane.github import post_comment, propose, pull_request_of
from harness.lane.merge import PLAN
from harness.lane.merge import merge as merge_shards
from harness.lane.plan import make_plan, read_plan
from harness.lane.settings_checks import check_callers, check_home, check_settings
from harness.lane.summary import lane_markdown, plan_markdown
from harness.machine.doctor import Host, examine
from harness.machine.preflight import Preflight
from harness.outcomes import RULES, Outcome
from harness.project import HERE, Project, case_files, project_root
from harness.reading import read_text
from harness.records.base import write_text_atomic
from harness.records.run_folder import HISTORY_FILE

# The lane's commands as functions: they read files, call the lane, print, and return an exit code.


def plan(
    *,
    root: Path,
    runner: str,
    shards: int,
    out: Path = Path(PLAN),
    history: Sequence[Path] = (HERE.runs / HISTORY_FILE,),
    against: str | None = None,
    summary: Path | None = None,
    github_output: Path | None = None,
) -> int:
    """Plan the cases of a runner; write the plan file and print the matrix JSON.

    Args:
        root: the repository.
        runner: name of a profile in ``runners/``.
        shards: machines at hand.
        out: the plan file.
        history: history files and folders of records; one that is absent counts as empty.
        against: compare the coverage with this commit or branch; a removal, or a change that lets more through, fails
            without a reason.
        summary: Markdown is appended to it, such as ``$GITHUB_STEP_SUMMARY``.
        github_output: ``matrix=...`` and ``plan=<digest>`` are appended to it, such as ``$GITHUB_OUTPUT``.

    Returns:
        0, or the code of ``invalid_case`` where the change lowers the coverage without a reason.

    Raises:
        QuantgateError: nothing can be planned.
    """
    if shards < 1:
        raise InvalidCaseError(f"--shards {shards}: at least 1", remedy="--shards 4")
    root = project_root(root)
    profile = named_runner(Project(root).runners, runner)
    located = load_cases(case_files(root), root)
    coverage = None
    if against is not None:
        coverage = coverage_against(root, against, runner, [item.case for item in located])
    made = make_plan(located, profile, shards, read_history(history), code=_head(root), coverage=coverage)
    made.write(out)
    matrix = json.dumps(made.matrix(), separators=(",", ":"))
    typer.echo(matrix)
    for note in made.notes:
        typer.echo(f"note: {note}", err=True)
    if summary is not None:
        _append(summary, plan_markdown(made))
    if github_output is not None:
        _append(github_output, f"matrix={matrix}\nplan={made.id}\n")
    return _unexplained(coverage, runner)


def merge(
    *,
    folders: Sequence[Path],
    plan_file: Path,
    out: Path,
    history: Path | None = None,
    summary: Path | None = None,
    plan_id: str | None = None,
) -> int:
    """Join the results of the shards and compare them with the plan.

    Args:
        folders: artifacts of the shards; an absent folder is a shard without results.
        plan_file: the plan.
        out: folder for records, ``junit.xml``, ``merge.json``, ``history.json`` and ``summary.md``.
        history: a history file that the measured times are added to; made if absent.
        summary: the Markdown is also appended to it.
        plan_id: digest that the plan must have, from the job that made it; ``None``: any plan.

    Returns:
        Exit code of the worst case; never 0 while a planned case has no result.

    Raises:
        QuantgateError: the plan cannot be read, or ``out`` is not empty.
    """
    made = read_plan(plan_file, plan_id)
    merged = merge_shards([folder for folder in folders if folder.is_dir()], made, out)
    text = lane_markdown(merged, made)
    write_text_atomic(out / "summary.md", text)
    if history is not None:
        read_history([history, out / HISTORY_FILE]).write(history)
    if summary is not None:
        _append(summary, text)
    for case in merged.cases:
        typer.echo(f"{case.outcome.value:<21} {case.case}  {case.summary}")
    for problem in merged.problems:
        typer.echo(f"problem: {problem}", err=True)
    typer.echo(f"{len(merged.cases)} planned, {len(merged.missing())} without a result; exit code {merged.exit_code}")
    return merged.exit_code


def doctor(*, root: Path, runner: str, out: Path | None = None, as_json: bool = False, host: Host | None = None) -> int:
    """Examine this machine for a runner and print the result of each check.

    Args:
        root: the repository.
        runner: name of a profile.
        out: the record is also written there.
        as_json: print the record instead of lines.
        host: access to the examined machine; this machine if not given.

    Returns:
        0 if the machine is fit, else the code of ``infra``, or of ``no_runner`` if it has no such device.
    """
    root = project_root(root)
    profile = named_runner(Project(root).runners, runner)
    cases = [located.case for located in load_cases(case_files(root), root) if runner in located.case.runners]
    checkpoints = tuple(ref for case in cases for ref in case.checkpoints().values())
    preflight = examine(profile, root, checkpoints=checkpoints, host=host)
    if out is not None:
        preflight.write(out)
    typer.echo(preflight.to_json().rstrip() if as_json else "\n".join(preflight.lines()))
    return preflight.exit_code


def doctor_of_lane(
    *,
    root: Path,
    runner: str,
    repository: str,
    out: Path | None = None,
    as_json: bool = False,
    environ: Mapping[str, str] | None = None,
) -> int:
    """Examine the settings on GitHub that keep foreign code away from the lane's machines, and print them.

    Args:
        root: the repository.
        runner: name of a profile; its labels select the machines.
        repository: ``owner/name``.
        out: the record is also written there.
        as_json: print the record instead of lines.
        environ: variables of this process; on a self-hosted runner its home is examined too.

    Returns:
        0 if every setting protects, else the code of ``infra``.

    Raises:
        QuantgateError: there is no such runner, or `gh` does not work.
    """
    profile = named_runner(Project(project_root(root)).runners, runner)
    checks = (*check_settings(repository, profile.labels), *check_callers(project_root(root), repository))
    home = check_home(os.environ if environ is None else environ)
    preflight = Preflight(runner=profile.name, checks=(*checks, *home))
    if out is not None:
        preflight.write(out)
    typer.echo(preflight.to_json().rstrip() if as_json else "\n".join(preflight.lines()))
    return preflight.exit_code


def comment(*, repository: str, branch: str, body: Path) -> int:
    """Write the lane's summary as the single comment on the pull request whose vetted copy is ``branch``.

    Returns:
        0, also if ``branch`` belongs to no pull request, as in a nightly run.
    """
    number = pull_request_of(branch)
    if number is None:
        typer.echo(f"{branch} is no vetted copy of a pull request: no comment")
        return 0
    typer.echo(f"comment {post_comment(repository, number, read_text(body, limit=1 << 22))} on pull request {number}")
    return 0


def propose_changes(*, root: Path, changes: Path, branch: str, title: str, reason: str, base: str = "main") -> int:
    """Check the goldens and limits below ``changes``, then open a pull request with them."""
    address = propose(root, changes, branch, title, reason, base, check=check_proposal)
    typer.echo(address or "nothing differs: no pull request")
    return 0


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


def _append(path: Path, text: str) -> None:
    with path.open("a", encoding="utf-8") as out:
        out.write(text)


def _head(root: Path) -> str:
    completed = subprocess.run(
        ["git", "-C", str(root), "rev-parse", "HEAD"], capture_output=True, text=True, check=False
    )
    return completed.stdout.strip() if completed.returncode == 0 else ""


PlanFile = Annotated[Path, typer.Option("--plan", help="the plan file")]


def plan_command(
    runner: options.Runner,
    shards: Annotated[int, typer.Option("--shards", help="machines at hand", min=1)] = 1,
    out: options.Out = Path(PLAN),
    history: options.Histories = None,
    against: options.Against = None,
    github: options.Github = False,
    root: options.Root = Path(),
) -> None:
    """Spread the cases of a runner over machines, longest first, and print the matrix JSON."""
    raise typer.Exit(
        plan(
            root=root,
            runner=runner,
            shards=shards,
            out=out,
            history=history or [HERE.runs / HISTORY_FILE],
            against=against,
            summary=_file("GITHUB_STEP_SUMMARY", github),
            github_output=_file("GITHUB_OUTPUT", github),
        )
    )


def merge_command(
    folders: Annotated[list[Path], typer.Argument(help="what the shards left: folders with record.json files")],
    plan: PlanFile = Path(PLAN),
    out: options.Out = Path("merged"),
    history: options.OptionalHistory = None,
    plan_id: Annotated[
        str | None, typer.Option("--plan-id", help="digest that the plan must have, from the job that made it")
    ] = None,
    github: options.Github = False,
) -> None:
    """Join the shards in a new folder and compare them with the plan; fails if a planned case has no result."""
    summary = _file("GITHUB_STEP_SUMMARY", github)
    raise typer.Exit(merge(folders=folders, plan_file=plan, out=out, history=history, summary=summary, plan_id=plan_id))


def doctor_command(
    runner: options.Runner,
    out: options.OptionalOut = None,
    as_json: options.AsJson = False,
    lane: Annotated[bool, typer.Option("--lane", help="look at the settings on GitHub instead, through gh")] = False,
    repo: options.Repo = "",
    root: options.Root = Path(),
) -> None:
    """Report whether this machine may run the lane now: device, driver, errors, clocks, memory, processes, disk, cache.

    With --lane: whether the settings on GitHub keep code of others away from the runner's machines.
    """
    if lane:
        raise typer.Exit(doctor_of_lane(root=root, runner=runner, repository=repo, out=out, as_json=as_json))
    raise typer.Exit(doctor(root=root, runner=runner, out=out, as_json=as_json))


def comment_command(
    body: Annotated[Path, typer.Option("--body", help="Markdown, such as merged/summary.md")],
    repo: options.Repo,
    branch: options.CommentBranch,
) -> None:
    """Write or replace the lane's one comment on a pull request, through gh."""
    raise typer.Exit(comment(repository=repo, branch=branch, body=body))


def propose_command(
    changes: Annotated[Path, typer.Argument(help="folder with goldens/ and thresholds/")],
    branch: options.NewBranch,
    title: Annotated[str, typer.Option("--title", help="of the pull request")],
    reason: options.Reason,
    base: options.TargetBranch = "main",
) -> None:
    """Open a pull request with regenerated goldens and limits, through git and gh."""
    raise typer.Exit(
        propose_changes(root=Path.cwd(), changes=changes, branch=branch, title=title, reason=reason, base=base)
    )


def _file(variable: str, enabled: bool) -> Path | None:
    named = os.environ.get(variable)
    return Path(named) if enabled and named else None
