"""What the lane's commands do, as plain functions: read files, call the lane, print, return an exit code."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path

from pydantic import ValidationError

from harness.definitions.files import case_files
from harness.definitions.loading import load_cases
from harness.definitions.project import project_root
from harness.definitions.runner import named_runner
from harness.errors import InvalidCaseError
from harness.lane.base_tree import LOOSER, TRAILER, coverage_against
from harness.lane.coverage import Change, Coverage
from harness.lane.doctor import Host, examine
from harness.lane.github import post_comment, propose, pull_request_of
from harness.lane.history import read_history
from harness.lane.merge import HISTORY, PLAN
from harness.lane.merge import merge as merge_shards
from harness.lane.plan import Plan, PlanError, make_plan
from harness.lane.preflight import Preflight
from harness.lane.settings_checks import check_callers, check_home, check_settings
from harness.lane.summary import lane_markdown, plan_markdown
from harness.records.base import write_text_atomic
from harness.records.verdict import RULES, Outcome

Say = Callable[[str], None]


def say(text: str) -> None:
    """Print to standard output."""
    sys.stdout.write(text + "\n")


def complain(text: str) -> None:
    """Print to standard error: what a matrix on standard output must not be mixed with."""
    sys.stderr.write(text + "\n")


def plan(
    *,
    root: Path,
    runner: str,
    shards: int,
    out: Path = Path(PLAN),
    history: Sequence[Path] = (Path("runs/history.json"),),
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
    profile = named_runner(root / "runners", runner)
    located = load_cases(case_files(root), root)
    coverage = None
    if against is not None:
        coverage = coverage_against(root, against, runner, [one.case for one in located])
    made = make_plan(located, profile, shards, read_history(history), code=_head(root), coverage=coverage)
    made.write(out)
    matrix = json.dumps(made.matrix(), separators=(",", ":"))
    say(matrix)
    for note in made.notes:
        complain(f"note: {note}")
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
    """Join what the shards left and hold it against the plan.

    Args:
        folders: artifacts of the shards; one that is absent is a shard that left nothing.
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
        read_history([history, out / HISTORY]).write(history)
    if summary is not None:
        _append(summary, text)
    for case in merged.cases:
        say(f"{case.outcome.value:<21} {case.case}  {case.summary}")
    for problem in merged.problems:
        complain(f"problem: {problem}")
    say(f"{len(merged.cases)} planned, {len(merged.missing())} without a result; exit code {merged.exit_code}")
    return merged.exit_code


def doctor(*, root: Path, runner: str, out: Path | None = None, as_json: bool = False, host: Host | None = None) -> int:
    """Examine this machine for a runner and print what was found.

    Args:
        root: the repository.
        runner: name of a profile.
        out: the record is also written there.
        as_json: print the record instead of lines.
        host: where to look; this machine if not given.

    Returns:
        0 where it is fit, else the code of ``infra``, or of ``no_runner`` where there is no such device.
    """
    root = project_root(root)
    profile = named_runner(root / "runners", runner)
    cases = [one.case for one in load_cases(case_files(root), root) if runner in one.case.runners]
    checkpoints = tuple(ref for case in cases for ref in case.checkpoints().values())
    found = examine(profile, root, checkpoints=checkpoints, host=host)
    if out is not None:
        found.write(out)
    say(found.to_json().rstrip() if as_json else "\n".join(found.lines()))
    return found.exit_code


def doctor_of_lane(
    *,
    root: Path,
    runner: str,
    repository: str,
    out: Path | None = None,
    as_json: bool = False,
    environ: Mapping[str, str] | None = None,
) -> int:
    """Examine the settings on GitHub that keep code of others away from the lane's machines, and print them.

    Args:
        root: the repository.
        runner: name of a profile; its labels say which machines are meant.
        repository: ``owner/name``.
        out: the record is also written there.
        as_json: print the record instead of lines.
        environ: of this process; on a self-hosted runner its home is looked at, too.

    Returns:
        0 where every setting protects, else the code of ``infra``.

    Raises:
        QuantgateError: there is no such runner, or `gh` does not work.
    """
    profile = named_runner(project_root(root) / "runners", runner)
    checks = (*check_settings(repository, profile.labels), *check_callers(project_root(root), repository))
    home = check_home(os.environ if environ is None else environ)
    found = Preflight(runner=profile.name, checks=(*checks, *home))
    if out is not None:
        found.write(out)
    say(found.to_json().rstrip() if as_json else "\n".join(found.lines()))
    return found.exit_code


def comment(*, repository: str, branch: str, body: Path) -> int:
    """Write the lane's summary as the one comment of the pull request that ``branch`` is the vetted copy of.

    Returns:
        0, also where ``branch`` belongs to no pull request: a nightly has nobody to tell.
    """
    number = pull_request_of(branch)
    if number is None:
        say(f"{branch} is no vetted copy of a pull request: no comment")
        return 0
    say(f"comment {post_comment(repository, number, body.read_text(encoding='utf-8'))} on pull request {number}")
    return 0


def propose_changes(*, root: Path, changes: Path, branch: str, title: str, reason: str, base: str = "main") -> int:
    """Open a pull request with the goldens and limits below ``changes``, once they were checked."""
    address = propose(root, changes, branch, title, reason, base, check=check_proposal)
    say(address or "nothing differs: no pull request")
    return 0


def check_proposal(root: Path, pairs: Collection[tuple[str, str]]) -> None:
    """Check goldens and limits by ``quantgate regenerate --check`` before anybody else sees them.

    In a process of its own: it decodes frames, which this room does not import.

    Args:
        root: the checkout, with the proposed files in it.
        pairs: runner and case of each proposed file.

    Raises:
        InvalidCaseError: they do not fit together, are damaged, or were edited; with what the check printed.
    """
    for runner in sorted({runner for runner, _ in pairs}):
        named = [part for name, case in sorted(pairs) if name == runner for part in ("--case", case)]
        code = "from harness.cli import main; main()"
        command = [sys.executable, "-c", code, "regenerate", "--check", "--runner", runner, *named, "--root", str(root)]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=600)
        if done.returncode:
            raise InvalidCaseError(
                f"the proposed goldens and limits are refused:\n{(done.stdout + done.stderr).strip()}",
                where=runner,
                remedy="read the lines above, and run the workflow again",
            )


def read_plan(path: Path, plan_id: str | None = None) -> Plan:
    """Read a plan file.

    Args:
        path: the file.
        plan_id: digest that it must have; ``None``: only that of its own content.

    Raises:
        InvalidCaseError: it cannot be read as one.
        PlanError: it was changed after it was made, or another plan lies in its place.
    """
    try:
        plan = Plan.read(path)
    except (OSError, ValidationError, UnicodeDecodeError) as error:
        first = str(error).splitlines()[0]
        raise InvalidCaseError(
            f"not a plan: {first}", where=str(path), remedy="quantgate plan --runner NAME --out plan.json"
        ) from error
    again = f"quantgate plan --runner {plan.runner} --out {path}"
    if plan.id != plan.digest():
        raise PlanError("the plan was changed after it was made", where=str(path), remedy=again)
    if plan_id is not None and plan.id != plan_id:
        raise PlanError(
            f"it was replaced: this is plan {plan.id[:16]}, and the job that planned made {plan_id[:16] or 'none'}",
            where=str(path),
            remedy=again,
        )
    return plan


def _unexplained(coverage: Coverage | None, runner: str) -> int:
    """Print what nobody gave a reason for, and which files cannot be used. Returns the exit code."""
    if coverage is None:
        return 0
    bad = coverage.without_reason()
    for change in bad:
        what, how = _refusal(change, runner)
        complain(f"{change.case}: {what} without a reason\n  next: {how}")
    for fault in coverage.faults:
        complain(fault)
    return RULES[Outcome.INVALID_CASE].exit_code if bad or coverage.faults else 0


def _refusal(change: Change, runner: str) -> tuple[str, str]:
    """What was done, and the command by which its reason is given."""
    commit = "git commit --amend --trailer"
    if change.kind == "removed":
        what = f"removed from {change.before}" if change.field else "removed"
        return what, f"{commit} '{TRAILER}: {change.key}: <reason>'"
    if change.kind != "limit":
        what = f"{change.field} lets more through"
        return what, f"{commit} '{LOOSER}: {change.key}: <reason>'"
    measure = f"quantgate regenerate --runner {runner} --case {change.case} --reason '<reason>'"
    if change.field:
        return f"limit of {change.field} loosened", measure
    removed = f"{commit} '{TRAILER}: {change.key}: <reason>'"
    return "limits removed", f"{measure}; or, where they are not measured yet, {removed}"


def _append(path: Path, text: str) -> None:
    with path.open("a", encoding="utf-8") as out:
        out.write(text)


def _head(root: Path) -> str:
    done = subprocess.run(["git", "-C", str(root), "rev-parse", "HEAD"], capture_output=True, text=True, check=False)
    return done.stdout.strip() if done.returncode == 0 else ""
