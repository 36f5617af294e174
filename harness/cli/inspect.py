"""``quantgate inspect`` and ``quantgate lock``: parse, call `harness.inspector`, print."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_args

import typer

from harness.cli import options as shared
from harness.cli.cases import named_case
from harness.definitions.case import Case, Loader
from harness.errors import InvalidCaseError
from harness.formats.errors import InspectionInterruptedError
from harness.inspector.assemble import Ref
from harness.inspector.inspect import Asked
from harness.inspector.lock import LOCK_NAME
from harness.inspector.parts import EXPERTS
from harness.outcomes import RULES, Outcome
from harness.project import HERE, project_root
from harness.records.inspection import CheckpointComparison, InspectionOutcome, InspectionReport, LayerEvidence
from harness.redaction import safe_text

if TYPE_CHECKING:
    from rich.console import Console

    from harness.definitions.case import Case
    from harness.inspector.assemble import Ref
    from harness.inspector.inspect import Asked


# Options of ``quantgate inspect``, which override the fields of a case. No given option is ignored.


NONE = "none"
"""Value of an option that removes an override of the case."""


@dataclass(frozen=True)
class Options:
    """The options as they were typed; ``None`` or empty: not given."""

    reference: str = ""
    base: str | None = None
    transformer: str | None = None
    transformer_2: str | None = None
    contracts: Sequence[str] = ()
    nibble_order: str | None = None
    scale_layout: str | None = None
    full: bool = False


def question(options: Options, case: Case | None = None, root: Path | None = None) -> tuple[Ref, Asked]:
    """Return the checkpoint to inspect and the settings: the typed options, and the case's fields for the others.

    Args:
        options: as typed; paths are relative to the current folder.
        case: its checkpoints, contracts and loader are used for options that were not typed.
        root: the repository, to which the case's paths are relative.

    Raises:
        InvalidCaseError: nothing to inspect, an unknown value, or a checkpoint that would not be read at all.
    """
    from harness.session.inspecting import settings_of

    arguments: Asked = {"full": options.full, "root": root}
    if case is not None:
        arguments |= {"base": case.base, "transformer": case.transformer, "transformer_2": case.transformer_2}
        arguments |= settings_of(case)
        _refuse_hidden(options, case)
    elif not options.reference:
        raise InvalidCaseError("nothing to inspect", remedy="quantgate inspect FOLDER, or quantgate inspect --case ID")
    if options.base is not None:
        arguments["base"] = typed(options.base)
    if options.transformer is not None:
        arguments["transformer"] = _override(options.transformer)
    if options.transformer_2 is not None:
        arguments["transformer_2"] = _override(options.transformer_2)
    if options.contracts:
        arguments["contracts"] = options.contracts
    loader = {"nibble_order": options.nibble_order, "scale_layout": options.scale_layout}
    chosen = {name: _choice(name, value) for name, value in loader.items() if value is not None}
    if chosen:
        arguments["loader"] = (case.loader if case is not None else Loader()).model_copy(update=chosen)
    if options.reference:
        return typed(options.reference), arguments
    return (case.model if case is not None else ""), arguments


def refuse_beside_against(options: Mapping[str, Any]) -> None:
    """Refuse options that ``--against`` ignores: a comparison reads only headers and, with a base, proofs.

    Raises:
        InvalidCaseError: one of ``options`` is set.
    """
    names = [f"--{name.replace('_', '-')}" for name, value in options.items() if value]
    if names:
        raise InvalidCaseError(
            f"a comparison does not look at {', '.join(names)}",
            place="--against",
            remedy="leave --against out, or leave the other options out",
        )


def typed(text: str) -> str:
    """Return a typed reference; a folder becomes absolute, because ``./`` of a case is relative to another folder."""
    folder = Path(text).expanduser()
    if folder.exists() or text.startswith(("./", "../", "~")):
        return str(folder.absolute())
    return text


def _override(text: str) -> str | None:
    return None if text == NONE else typed(text)


def _choice(name: str, value: str) -> str:
    allowed = get_args(Loader.model_fields[name].annotation)
    if value not in allowed:
        option = f"--{name.replace('_', '-')}"
        fault = f"{value!r} is none of {', '.join(allowed)}"
        raise InvalidCaseError(fault, place=option, remedy=f"{option} {allowed[0]}")
    return value


def _refuse_hidden(options: Options, case: Case) -> None:
    """Refuse a checkpoint in the model's place whose experts the overrides of the case would hide."""
    if not options.reference:
        return
    hidden = [name for name in EXPERTS if getattr(case, name) is not None and getattr(options, name) is None]
    if hidden:
        flags = " ".join(f"--{name.replace('_', '-')} {NONE}" for name in hidden)
        raise InvalidCaseError(
            f"the case takes {' and '.join(hidden)} from an override, so that of {options.reference} would not be read",
            place=case.id,
            remedy=f"add {flags} to inspect its own; or name it as the override",
        )


# Reports as tables for people.


STYLES = {
    "fault": "bold red",
    "inconclusive": "bold yellow",
    "warning": "yellow",
    "info": "dim",
    "infra": "bold magenta",
    "clean": "bold green",
}


def print_report(report: InspectionReport, console: Console, layers: bool = False) -> None:
    """Print verdict, findings, experts, contracts and missing checks; ``layers`` adds a row per Linear."""
    from rich.markup import escape
    from rich.table import Table

    style = STYLES[report.outcome]
    console.print(
        f"[{style}]{report.outcome}[/] {escape(report.reference)}"
        + (f" against {escape(report.base)}" if report.base else "")
    )
    experts = Table(
        "expert", "format", "reading", "recipe", "quantized", "kept", "GB", title=None, box=None, pad_edge=False
    )
    for item in report.experts:
        size = f"{item.bytes_on_disk / 1e9:.2f}"
        cells = (item.expert, item.format, item.encoding or "not proven", item.recipe or "-")
        experts.add_row(*cells, str(item.quantized_modules), str(item.unquantized_linears), size)
    console.print(experts)
    for finding in report.findings:
        console.print(f"[{STYLES[finding.severity]}]{finding.severity} {finding.code}[/] {escape(finding.message)}")
        if finding.next_command and finding.severity in ("fault", "inconclusive"):
            console.print(f"  next: {escape(finding.next_command)}", style="dim")
    bare = {item.expert for item in report.experts if not item.quantized_modules}
    for contract in report.contracts:
        unproven = "no quantized Linear to compare" if contract.expert in bare else "not provable"
        word = {True: "agrees", False: "differs", None: unproven}[contract.agrees]
        rows = ", ".join(f"{item.field}={item.value} ({item.rule})" for item in contract.assumptions[:2])
        about = " about" if contract.agrees else ";"
        console.print(f"{contract.contract} {contract.expert}: {word}{about} {escape(rows)}", style="dim")
    if layers:
        console.print(_layer_table(report.layers))
    for line in report.not_done:
        console.print(f"not done: {escape(line)}", style="dim")
    console.print(
        f"{report.bytes_read / 2**20:.1f} MiB in {report.requests} reads, {report.seconds:.2f} s", style="dim"
    )


def _layer_table(layers: tuple[LayerEvidence, ...]) -> object:
    from rich.table import Table

    table = Table(
        "expert", "module", "format", "reading", "cos", "rel", "gain", "gap", "state", box=None, pad_edge=False
    )
    for item in layers:
        numbers = (item.cosine, item.relative_error, item.gain, item.gap)
        cells = ["-" if number is None else f"{number:.4f}" for number in numbers]
        table.add_row(item.expert, item.module, item.format, item.hypothesis, *cells, item.state)
    return table


def print_comparison(comparison: CheckpointComparison, console: Console) -> None:
    """Print the changes of a switch of checkpoints, one row per field."""
    from rich.markup import escape
    from rich.table import Table

    console.print(f"A {escape(comparison.reference)}\nB {escape(comparison.against)}")
    table = Table("expert", "field", "A", "B", box=None, pad_edge=False)
    for change in comparison.changes:
        table.add_row(change.expert or "-", change.field, escape(str(change.new)), escape(str(change.old)))
    console.print(table if comparison.changes else "no difference in layout, formats, configuration or sizes")
    if comparison.identical_files:
        console.print(f"{len(comparison.identical_files)} files are byte-identical", style="dim")


# The commands.


HASHED_BYTES = 1 << 30
"""Larger weights are hashed with ``--full`` only, because hashing reads a whole file."""
EXIT: dict[InspectionOutcome, int] = {
    "clean": RULES[Outcome.PASS].exit_code,
    "fault": RULES[Outcome.CHECKPOINT_FAULT].exit_code,
    "inconclusive": RULES[Outcome.INCONCLUSIVE].exit_code,
    "infra": RULES[Outcome.INFRA].exit_code,
}
"""The exit codes of verdicts; a bad reference or contract exits as ``invalid_case``."""


def _console() -> Console:
    """Return a console that never cuts a name, since a log has no width."""
    from rich.console import Console

    return Console(soft_wrap=True, highlight=False, width=None if sys.stdout.isatty() else 240)


def _show(report: InspectionReport, as_json: bool, layers: bool, output: Path | None) -> None:
    if output is not None:
        report.write(output)
    if as_json:
        sys.stdout.write(report.to_json())
    else:
        print_report(report, _console(), layers)


def _compare(ref: Ref, against: str, arguments: Asked, as_json: bool, output: Path | None) -> None:
    from harness.inspector.compare import compare_checkpoints, with_proof
    from harness.inspector.inspect import inspect_checkpoint

    base, root = arguments.get("base"), arguments.get("root")
    high, low = arguments.get("transformer"), arguments.get("transformer_2")
    comparison = compare_checkpoints(ref, against, transformer=high, transformer_2=low, root=root)
    if base is not None:
        new = inspect_checkpoint(ref, base=base, transformer=high, transformer_2=low, root=root, digests=False)
        comparison = with_proof(comparison, new, inspect_checkpoint(against, base=base, root=root, digests=False))
    if output is not None:
        comparison.write(output)
    if as_json:
        sys.stdout.write(comparison.to_json())
    else:
        print_comparison(comparison, _console())


LOCK = HERE.cases / LOCK_NAME


def inspect(
    reference: Annotated[
        str, typer.Argument(help="a folder, or owner/name@revision; with --case, in place of the case's model")
    ] = "",
    case: shared.OneCase = "",
    base: shared.OriginalCheckpoint = None,
    transformer: shared.Transformer = None,
    transformer_2: shared.Transformer2 = None,
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
    against: shared.Against = None,
    full: Annotated[bool, typer.Option("--full", help="read every byte of scales and excluded tensors")] = False,
    layers: Annotated[bool, typer.Option("--layers", help="a row for each Linear")] = False,
    as_json: shared.AsJson = False,
    out: shared.OptionalOut = None,
    root: shared.Root = Path(),
) -> int:
    """Prove from bytes how a checkpoint is encoded, and who would read it otherwise. Needs no GPU and no torch."""
    from harness.inspector.proofs import inspect_once

    options = Options(reference, base, transformer, transformer_2, contract or (), nibble_order, scale_layout, full)
    # the project's contracts/ count for any checkpoint, so it is also needed without a case
    root = project_root(root) if case else root.resolve()
    ref, arguments = question(options, named_case(root, case).case if case else None, root)
    if against is not None:
        names = ("contracts", "nibble_order", "scale_layout", "full")
        refuse_beside_against({name: getattr(options, name) for name in names} | {"layers": layers})
        _compare(ref, typed(against), arguments, as_json, out)
        return 0
    try:
        report = inspect_once(ref, unread=None if full else HASHED_BYTES, **arguments)
    except InspectionInterruptedError as error:
        _show(error.report, as_json, layers, out)
        print(safe_text(str(error)), file=sys.stderr)
        return EXIT[error.report.outcome]
    _show(report, as_json, layers, out)
    return EXIT[report.outcome]


def lock(
    check: shared.Check = False,
    file: shared.LockFile = LOCK,
    root: shared.Root = Path(),
) -> int:
    """Write down the identity of every case's checkpoints, so that a change of one is a change in review."""
    from harness.definitions.loading import load_cases
    from harness.project import case_files

    root = project_root(root)
    return lock_cases([item.case for item in load_cases(case_files(root), root)], root / file, check=check, root=root)


def lock_cases(cases: Sequence[Case], lock_file: Path, *, check: bool = False, root: Path | None = None) -> int:
    """Write the identity of every case's checkpoints, or (``check``) compare it with the lock.

    Returns:
        0; 17 if ``check`` found a difference.

    Raises:
        QuantgateError: there is no lock to compare with, or a source failed.
    """
    from harness.inspector.lock import differences, make_lock, read_lock

    lock = read_lock(lock_file) if check else None
    current, unlocked = make_lock(cases, root, lock)
    for line in unlocked:
        print(f"not locked: {line}")
    if lock is None:
        current.write(lock_file)
        print(f"{lock_file}: {sum(map(len, current.cases.values()))} checkpoints of {len(current.cases)} cases")
        return 0
    changes = differences(lock, current, cases)
    for item in changes:
        print(item)
    if changes:
        print("  next: quantgate lock, and review the diff")
        return RULES[Outcome.INVALID_CASE].exit_code
    print(f"{lock_file}: cases and lock agree")
    return 0
