"""``quantgate cases`` and ``quantgate resolve``: parse, call, print."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from harness.cli import options
from harness.errors import InvalidCaseError
from harness.project import Project, case_files, project_root

if TYPE_CHECKING:
    from harness.definitions.case import Located


def cases_command(
    root: options.Root = Path(),
    runner: options.Runner = "",
    as_json: options.AsJson = False,
) -> None:
    """List the cases: checkpoint, runners, and the expected outcome of each."""
    import json

    from harness.definitions.loading import load_cases
    from harness.definitions.runner import named_runner

    root = project_root(root)
    if runner:
        named_runner(Project(root).runners, runner)
    every_case = load_cases(case_files(root), root)
    located = [item for item in every_case if runner in ("", *item.case.runners)]
    if runner and not located:
        used = ", ".join(sorted({name for item in every_case for name in item.case.runners}))
        raise InvalidCaseError(f"no case of runner {runner}", place="--runner", remedy=f"cases have {used or 'none'}")
    if as_json:
        rows = [{"source": item.place, **item.case.model_dump(mode="json")} for item in located]
        typer.echo(json.dumps(rows, indent=2, sort_keys=True))
        return
    width = max((len(item.case.id) for item in located), default=0)
    for item in located:
        case = item.case
        over = "".join(f" + {role} {ref.path}" for role, ref in case.checkpoints().items() if "transformer" in role)
        expect = "" if case.expect == "pass" else f"  must fail: {case.expect}"
        typer.echo(f"{case.id:<{width}}  {','.join(case.runners):<10} {case.model.path}{over}{expect}  ({item.place})")
    typer.echo(f"{len(located)} case{'s' * (len(located) != 1)}")


def resolve_command(
    case: Annotated[
        list[str] | None, typer.Argument(help="ids of cases; default: all with an unresolved revision")
    ] = None,
    root: options.Root = Path(),
    revision: Annotated[str, typer.Option("--revision", help="branch or tag to take the commit of")] = "main",
) -> None:
    """Write the commit that the hub has now in the place of ``revision: unresolved``."""
    from harness.definitions.resolving import resolve_cases

    root = project_root(root)
    resolutions = resolve_cases(case_files(root), root, case or [], revision=revision)
    for resolved in resolutions:
        typer.echo(str(resolved))
    typer.echo(f"{len(resolutions)} revisions written")


def named_case(root: Path, case_id: str) -> Located:
    """Return the case of an id.

    Raises:
        InvalidCaseError: no case of the project has this id, or a case file is invalid.
    """
    from harness.definitions.choosing import no_such_case
    from harness.definitions.loading import load_cases

    cases = {located.case.id: located for located in load_cases(case_files(root), root)}
    if case_id not in cases:
        raise no_such_case([case_id], cases)
    return cases[case_id]
