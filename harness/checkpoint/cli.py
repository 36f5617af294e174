"""The options of ``quantgate inspect`` and ``quantgate lock``; what they do is in `harness.checkpoint.commands`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from harness.checkpoint.lock import LOCK_NAME
from harness.definitions.project import project_root
from harness.errors import InvalidCaseError

if TYPE_CHECKING:
    from harness.definitions.case import Case

LOCK = Path("cases") / LOCK_NAME
Root = Annotated[Path, typer.Option("--root", help="root of the repository")]


def inspect(
    reference: Annotated[
        str, typer.Argument(help="a folder, or owner/name@revision; with --case, in place of the case's model")
    ] = "",
    case: Annotated[str, typer.Option("--case", help="as stage 1 of this case; other options override it")] = "",
    base: Annotated[str | None, typer.Option("--base", help="the BF16 checkpoint it was quantized from")] = None,
    transformer: Annotated[
        str | None, typer.Option("--transformer", help="override of the high-noise expert; or none")
    ] = None,
    transformer_2: Annotated[
        str | None, typer.Option("--transformer-2", help="override of the low-noise expert, or none")
    ] = None,
    contract: Annotated[
        list[str] | None,
        typer.Option("--contract", help="a runtime it is deployed to, sglang==0.5.23; may be repeated"),
    ] = None,
    nibble_order: Annotated[
        str | None, typer.Option("--nibble-order", help="hold it against a loader that reads low_first or high_first")
    ] = None,
    scale_layout: Annotated[
        str | None, typer.Option("--scale-layout", help="hold it against a loader that reads linear or swizzled")
    ] = None,
    against: Annotated[str | None, typer.Option("--against", help="say what a switch from this one changes")] = None,
    full: Annotated[bool, typer.Option("--full", help="read every byte of scales and excluded tensors")] = False,
    layers: Annotated[bool, typer.Option("--layers", help="a row for each Linear")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="print the record")] = False,
    out: Annotated[Path | None, typer.Option("--out", help="also write the record there")] = None,
    root: Root = Path(),
) -> None:
    """Prove from bytes how a checkpoint is encoded, and who would read it otherwise. Needs no GPU and no torch."""
    from harness.checkpoint.commands import inspect_command

    top = project_root(root) if case else root.resolve()
    raise typer.Exit(
        inspect_command(
            reference,
            case=_case(top, case) if case else None,
            root=top if case else None,
            base=base,
            transformer=transformer,
            transformer_2=transformer_2,
            contracts=contract or [],
            nibble_order=nibble_order,
            scale_layout=scale_layout,
            against=against,
            full=full,
            layers=layers,
            as_json=as_json,
            output=out,
        )
    )


def lock(
    check: Annotated[bool, typer.Option("--check", help="fail where cases and lock differ; write nothing")] = False,
    file: Annotated[Path, typer.Option("--file", help="the lock file, relative to the root")] = LOCK,
    root: Root = Path(),
) -> None:
    """Write down the identity of every case's checkpoints, so that a change of one is a change in review."""
    from harness.checkpoint.commands import lock_command
    from harness.definitions.commands import case_files
    from harness.definitions.loading import load_cases

    root = project_root(root)
    cases = [one.case for one in load_cases(case_files(root), root)]
    raise typer.Exit(lock_command(cases, root / file, check=check, root=root))


def _case(root: Path, wanted: str) -> Case:
    from harness.definitions.commands import case_files
    from harness.definitions.loading import load_cases

    found = [one.case for one in load_cases(case_files(root), root) if one.case.id == wanted]
    if not found:
        raise InvalidCaseError(f"there is no case {wanted}", remedy="quantgate cases")
    return found[0]
