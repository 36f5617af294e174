"""``quantgate init``, ``quantgate schema`` and ``--version``: parse, call, print."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from harness import __version__
from harness.cli import options
from harness.errors import InvalidCaseError
from harness.reading import parse_json


def init_command(
    folder: Annotated[Path, typer.Argument(help="folder of the project, in a repository or not")] = Path(),
    demo: Annotated[bool, typer.Option("--demo", help="bring the embedded model and two cases of it")] = False,
    source: Annotated[
        str,
        typer.Option("--source", help="owner/name@commit of quantgate on GitHub, for the workflow; default: detected"),
    ] = "",
) -> None:
    """Write the files of a project: cases/, runners/, thresholds/, goldens/, schemas, settings, workflow.

    Nothing that is there is changed, except for lines that are added to .gitignore and to pytest's settings.
    """
    from harness.adopt.init import init
    from harness.adopt.source import source_of
    from harness.errors import InfraError
    from harness.machine.devices import gpu_devices

    try:
        devices = gpu_devices()
    except InfraError as error:
        devices = ()
        typer.echo(f"note: {error.message}; no runner was written for this machine's GPU", err=True)
    made = init(folder.expanduser().resolve(), devices, source_of(source), demo=demo)
    for step in made.steps:
        typer.echo(f"{step.state:<8} {step.path}{f'  ({step.note})' if step.note else ''}")
    for note in made.notes:
        typer.echo(f"note: {note}")
    typer.echo("\nnext:")
    for command in made.commands:
        typer.echo(f"  {command}")


def schema_command(
    name: Annotated[str, typer.Argument(help="which schema; default: all of them")] = "",
    out: options.OptionalOut = None,
) -> None:
    """Print the JSON Schemas of case files, runner profiles and limit files; --out writes them into that folder."""
    import json

    from harness.definitions.schemas import SCHEMAS, text_of
    from harness.records.base import write_text_atomic

    names = {full: full for full in SCHEMAS} | {full.partition(".")[0]: full for full in SCHEMAS}
    if name and name not in names:
        names_of_schemas = ", ".join(sorted(full.partition(".")[0] for full in SCHEMAS))
        raise InvalidCaseError(
            f"there is no schema {name!r}", place="schema", remedy=f"quantgate schema NAME, of: {names_of_schemas}"
        )
    chosen = [names[name]] if name else sorted(SCHEMAS)
    if out is None:
        texts = {full: parse_json(text_of(full), full) for full in chosen}
        typer.echo(text_of(chosen[0]).rstrip() if name else json.dumps(texts, indent=2))
        return
    out.mkdir(parents=True, exist_ok=True)
    for full in chosen:
        write_text_atomic(out / full, text_of(full))
        typer.echo(f"written  {out / full}")


def version_option(requested: bool) -> None:
    """Print the version and end the command, if ``--version`` was given."""
    if requested:
        typer.echo(f"quantgate {__version__}")
        raise typer.Exit


def quantgate(
    version: Annotated[
        bool, typer.Option("--version", callback=version_option, is_eager=True, help="print the version")
    ] = False,
) -> None:
    """A gate for quantized video-diffusion checkpoints: names the fault, and the command to type next."""
