"""``quantgate learn`` and ``quantgate runtime``: examine real runtimes, and create their environments."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from harness.cli import options
from harness.definitions.case import Case
from harness.definitions.loading import load_cases
from harness.errors import InvalidCaseError
from harness.inspector.contracts.model import load_contract
from harness.project import Project
from harness.records.base import write_text_atomic
from harness.runtimes.affected import affected
from harness.runtimes.environments import Environment, Installer, find, install, installed, parse_runtime, remove
from harness.runtimes.learn import as_yaml, ask, changed, contract_of, disagreements, schedule_disagreements

runtime_app = options.Commands(help="Environments of runtimes: install, list, remove.", no_args_is_help=True)
Name = Annotated[str, typer.Argument(help="runtime==version, such as sglang==0.5.23")]


def _report_line(text: str) -> None:
    typer.echo(text, err=True)


def _cases(root: Path) -> list[Case]:
    """Return the cases of the project; empty if it has no case files."""
    files = sorted((Project(root).cases).glob("*.yaml"))
    return [located.case for located in load_cases(files, root)] if files else []


def learn_command(
    name: Name,
    python: Annotated[
        Path | None,
        typer.Option("--python", help="an interpreter that can import the runtime; default: the installed one"),
    ] = None,
    check: options.Check = False,
    root: options.Root = Path(),
) -> int:
    """Run a runtime's own loader over generated checkpoints and write its assumptions to a contract."""
    from harness.runtimes.kinds import all_kinds
    from harness.runtimes.repositories import repositories

    version = parse_runtime(name)
    environment = Environment(version, python, "runner") if python is not None else find(version)
    answers = ask(environment, all_kinds(), _report_line, repositories())
    contract_before = load_contract(str(version), root)
    wrong = [
        (row.kind.name, predicted, row.outcome) for row, predicted in disagreements(contract_before.rules, answers.rows)
    ] + schedule_disagreements(contract_before.rules, answers.sampling)
    count = len(answers.rows) + len(answers.sampling)
    typer.echo(f"{version}: the known contract predicts {count - len(wrong)} of {count} answers")
    for kind, predicted, real in wrong:
        typer.echo(f"  {kind}: predicted {predicted}, the runtime: {real}")
    if check:
        return 1 if wrong else 0
    contract = contract_of(answers, environment, root)
    learned = contract.rules[0].learned
    place = Project(root).contracts / "learned" / f"{version.runtime}-{version.version}.yaml"
    place.parent.mkdir(parents=True, exist_ok=True)
    write_text_atomic(place, as_yaml(contract))
    typer.echo(f"written: {place}")
    for line in changed(contract_before.rules, contract.rules[0]):
        typer.echo(f"  {line}")
    for line in affected(_cases(root), version.runtime, contract.rules[0], root):
        typer.echo(f"  case {line}")
    if learned is not None and learned.unexplained:
        typer.echo(f"  no rule explains {len(learned.unexplained)} of them: {', '.join(learned.unexplained)}")
    return 0


@runtime_app.command("install")
def install_command(
    name: Name,
    cpu: Annotated[
        bool, typer.Option("--cpu", help="for a machine without a GPU; products of FP8 and FP4 are emulated")
    ] = False,
    installer: Annotated[
        Installer, typer.Option("--installer", help="pip, or uv, which must be on the PATH and reads its own settings")
    ] = "pip",
) -> None:
    """Make an isolated environment with a runtime and its dependencies."""
    environment = install(parse_runtime(name), "cpu" if cpu else "cuda", _report_line, installer)
    typer.echo(str(environment.python))


@runtime_app.command("list")
def list_command() -> None:
    """List the environments that were installed."""
    rows = installed()
    for row in rows:
        typer.echo(f"{row.name}  {row.kind}  {row.size / 2**20:.0f} MiB  {row.python}")
    if not rows:
        typer.echo("none is installed; next: quantgate runtime install sglang==0.5.23 --cpu")


@runtime_app.command("remove")
def remove_command(name: Name) -> None:
    """Delete an environment that was installed; dependencies go with the last version that used them."""
    place = remove(parse_runtime(name))
    if place is None:
        raise InvalidCaseError(f"{name} is not installed", remedy="quantgate runtime list")
    typer.echo(f"removed {place}")
