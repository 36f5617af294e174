"""``quantgate try`` and ``quantgate bisect``: parse, run, print."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from harness.cli import options
from harness.cli.cases import named_case
from harness.definitions.case import UNRESOLVED
from harness.errors import InvalidCaseError
from harness.project import project_root
from harness.reading import parse_json

if TYPE_CHECKING:
    from collections.abc import Mapping

    from harness.definitions.case import Case, CheckpointRef
    from harness.records.base import Json
    from harness.session.context import SessionContext
    from harness.trial.trying import Trial

CaseArgument = Annotated[str, typer.Argument(help="id of the case")]
Reference = Annotated[str, typer.Option(help="./folder, or owner/name@commit")]


def try_command(
    ctx: typer.Context,
    case: CaseArgument,
    model: Reference = "",
    transformer: options.Transformer = None,
    transformer_2: options.Transformer2 = None,
    env: Annotated[list[str] | None, typer.Option("--env", help="NAME=VALUE; may be repeated")] = None,
    runtime: Annotated[str, typer.Option(help="another version, sglang==0.5.23, for a case of backend sglang")] = "",
    runner: options.Runner = "",
    run_id: options.RunId = "",
    root: options.Root = Path(),
) -> int:
    """Is another checkpoint, environment or version of the runtime safe for a case?

    Exit code 0: safe, alone or with the patch; 10: unsafe; 13: inconclusive.
    """
    from harness.records.base import write_text_atomic
    from harness.report.render import render_run
    from harness.trial.record import write_record
    from harness.trial.trying import candidate_case, patch, reference, try_candidate

    root = project_root(root)
    located = named_case(root, case)
    named = {"model": model, "transformer": transformer, "transformer_2": transformer_2}
    changes = {
        role: None if text == "none" else reference(text, getattr(located.case, role))
        for role, text in named.items()
        if text
    }
    _require_commits(changes)
    candidate = candidate_case(located.case, changes, dict(_pair(text, "--env") for text in env or []), runtime)
    context = _open(ctx, root, runner, located.case, run_id or "")
    trial = try_candidate(context, located, candidate)
    folder = context.folder / "try" / case
    trial.write(folder / "trial.json")
    write_record(context, located, trial, folder)
    _show(trial)
    if trial.yaml:
        text = patch(root / located.path, case, trial.yaml, root)
        write_text_atomic(folder / "case.patch", text)
        # an unsafe candidate is not offered: what the lines above ask for must change with it
        offered = "" if trial.answer == "unsafe" else f"\ngit apply {folder / 'case.patch'}"
        typer.echo(f"\n{text}{offered}")
    typer.echo(f"record: {folder / 'trial.json'}")
    typer.echo(f"report: {render_run(folder, context.folder / 'report')}")
    return {"safe": 0, "safe_with_changes": 0, "unsafe": 10, "inconclusive": 13}[trial.answer]


def bisect_command(
    ctx: typer.Context,
    good: Annotated[str, typer.Argument(help="id of a case that passes here")],
    bad: Annotated[str, typer.Argument(help="id of a case that does not; or leave out and use --set")] = "",
    change: Annotated[list[str] | None, typer.Option("--set", help="field=JSON, such as sampling.seed=1")] = None,
    runner: options.Runner = "",
    run_id: options.RunId = "",
    root: options.Root = Path(),
) -> None:
    """Find the smallest set of differences between two configurations that turns the good one red."""
    from harness.trial.bisecting import Tester, bisect

    root = project_root(root)
    first = named_case(root, good).case
    second = named_case(root, bad).case if bad else first
    second = _changed(second, change or [])
    context = _open(ctx, root, runner, first, run_id)
    tester = Tester(context, first)
    log = context.folder / "bisect" / "log.jsonl"
    try:
        result = bisect(first, second, tester, log)
    finally:
        tester.close()
    for note in result.notes:
        typer.echo(f"note: {note}")
    for attempt in result.tried:
        typer.echo(f"  {attempt.answer:<10} {', '.join(attempt.fields)}: {attempt.why[:120]}")
    typer.echo(f"\n{result.runs} runs now, {len(result.tried) - result.runs} from the log {log}")
    typer.echo("red because of:")
    for item in result.smallest:
        typer.echo(f"  {item.field}: {json.dumps(item.good)} -> {json.dumps(item.bad)}")


def _show(trial: Trial) -> None:
    answer = trial.answer.replace("_", " ").upper()
    typer.echo(f"{trial.case}: the candidate is {answer}")
    for reason in trial.reasons:
        typer.echo(f"  {reason}")
    for change in trial.changes[:12]:
        typer.echo(f"  {change.identity_class:<8} {change.field}: {str(change.golden)[:24]} -> {str(change.run)[:24]}")
    if len(trial.changes) > 12:
        typer.echo(f"  and {len(trial.changes) - 12} more fields of the identity")
    for part in trial.difference.changes if trial.difference else ():
        place = f"{part.expert} " if part.expert else ""
        typer.echo(f"  checkpoint {place}{part.field}: {_short(part.old)} -> {_short(part.new)}")
    for line in trial.contract:
        typer.echo(f"  runtime  {line}")
    for pair in trial.probes:
        mark = "" if pair.then <= pair.limit else "  ABOVE"
        typer.echo(
            f"  probe {pair.expert:<13} t={pair.timestep:<6g} off the base: now {pair.now:.4f}, "
            f"candidate {pair.then:.4f} (limit {pair.limit:.4f}){mark}"
        )
    for line in trial.must_change:
        typer.echo(f"  must change with it: {line}")
    for label, path in trial.clips.items():
        typer.echo(f"  clip {label}: {path}")
    if trial.distance:
        typer.echo(f"  between the clips: {trial.distance}")


def _short(value: Json) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= _WIDE else f"{text[:_WIDE]}..."


_WIDE = 60
"""Most characters of a value that are shown; the record holds the whole value."""


def _pair(text: str, option: str) -> tuple[str, str]:
    name, sign, value = text.partition("=")
    if not sign or not name:
        raise InvalidCaseError("a value is not NAME=VALUE (not shown: it may be a secret)", place=option)
    return name, value


def _changed(case: Case, changes: list[str]) -> Case:
    from harness.definitions.validation import validate
    from harness.trial.trying import refuse_env

    data = case.model_dump(mode="json")
    for text in changes:
        name, value = _pair(text, "--set")
        outer, _, inner = name.partition(".")
        try:
            parsed = parse_json(value, "--set")
        except ValueError:
            parsed = value
        if outer not in data or (inner and not isinstance(data[outer], dict)):
            raise InvalidCaseError(f"a case has no {name}", place="--set", remedy="quantgate cases --json")
        if inner:
            data[outer][inner] = parsed
        else:
            data[outer] = parsed
    env = data["env"] if isinstance(data["env"], dict) else {}
    refuse_env([name for name in env if name not in case.env], case, "--set")
    changed, wrong = validate(type(case), data)
    if changed is None:
        faults = "; ".join(f"{'.'.join(map(str, path))}: {text}" for path, text in wrong)
        raise InvalidCaseError(faults, place="--set", remedy="correct the value")
    return changed


def _require_commits(changes: Mapping[str, CheckpointRef | None]) -> None:
    for role, ref in changes.items():
        if ref is not None and ref.revision == UNRESOLVED:
            folder = f"./{ref.path}, if that folder is meant; or " if Path(ref.path.partition("/")[0]).is_dir() else ""
            raise InvalidCaseError(
                f"{ref.path} has no commit; a branch would be another checkpoint tomorrow",
                place=f"--{role.replace('_', '-')}",
                remedy=f"write {folder}{ref.path}@commit; quantgate inspect {ref.path}, which names its commit",
            )


def _open(ctx: typer.Context, root: Path, runner: str, case: Case, run_id: str) -> SessionContext:
    from harness.session.context import open_context

    context = ctx.with_resource(open_context(root, runner, run_id, "candidate"))
    if context.runner.name not in case.runners:
        name = context.runner.name
        raise InvalidCaseError(f"not a case of runner {name}", place=case.id, remedy="name one with --runner")
    return context
