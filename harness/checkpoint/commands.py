"""``quantgate inspect`` and ``quantgate lock``: arguments in, exit code out. The command line door only wires them."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict, Unpack

if TYPE_CHECKING:
    from rich.console import Console

    from harness.checkpoint.assemble import Ref
    from harness.checkpoint.inspect import Asked

from harness.checkpoint.errors import InspectionInterruptedError
from harness.definitions.case import Case
from harness.errors import QuantgateError
from harness.records.inspection import InspectionOutcome, InspectionReport
from harness.records.verdict import RULES, Outcome

EXIT: dict[InspectionOutcome, int] = {
    "clean": RULES[Outcome.PASS].exit_code,
    "fault": RULES[Outcome.CHECKPOINT_FAULT].exit_code,
    "inconclusive": RULES[Outcome.INCONCLUSIVE].exit_code,
    "infra": RULES[Outcome.INFRA].exit_code,
}
"""The same codes as for verdicts; a bad reference or contract exits as ``invalid_case``."""


class Given(TypedDict, total=False):
    """Options of ``inspect`` that say what is looked at, as `harness.checkpoint.question.Options`."""

    base: str | None
    transformer: str | None
    transformer_2: str | None
    contracts: Sequence[str]
    nibble_order: str | None
    scale_layout: str | None
    against: str | None
    full: bool


def inspect_command(
    reference: str = "",
    *,
    case: Case | None = None,
    root: Path | None = None,
    layers: bool = False,
    as_json: bool = False,
    output: Path | None = None,
    **given: Unpack[Given],
) -> int:
    """Inspect one checkpoint or a case's, or say what changes against another one.

    Args:
        reference: a folder or ``owner/name@revision``; with a case, what is put in its model's place.
        case: inspected as stage 1 of a run does, with what is given in place of what it says.
        root: the repository of the case.
        layers: print a row for each Linear.
        as_json: print the record; ``output`` writes it to a file as well.
        given: the other options; see ``Given``.

    Returns:
        Exit code: 0 clean, 11 fault, 13 inconclusive, 17 bad reference, contract or value, 18 the source failed.
    """
    from harness.checkpoint.inspect import inspect_checkpoint
    from harness.checkpoint.question import Options, question, refuse_beside_against, typed

    options = Options(reference, **given)
    try:
        ref, asked = question(options, case, root)
        if options.against is not None:
            names = ("contracts", "nibble_order", "scale_layout", "full")
            refuse_beside_against({name: getattr(options, name) for name in names} | {"layers": layers})
            return _compare(ref, typed(options.against), asked, as_json, output)
        report = inspect_checkpoint(ref, **asked)
    except InspectionInterruptedError as error:
        _show(error.report, as_json, layers, output)
        print(error, file=sys.stderr)
        return EXIT[error.report.outcome]
    except QuantgateError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    _show(report, as_json, layers, output)
    return EXIT[report.outcome]


def _console() -> Console:
    """A console that never cuts a name: in a log there is no width to fit into."""
    from rich.console import Console

    return Console(soft_wrap=True, highlight=False, width=None if sys.stdout.isatty() else 240)


def _show(report: InspectionReport, as_json: bool, layers: bool, output: Path | None) -> None:
    if output is not None:
        report.write(output)
    if as_json:
        sys.stdout.write(report.to_json())
        return
    from harness.checkpoint.show import print_report

    print_report(report, _console(), layers)


def _compare(ref: Ref, against: str, asked: Asked, as_json: bool, output: Path | None) -> int:
    from harness.checkpoint.compare import compare_checkpoints, with_proof
    from harness.checkpoint.inspect import inspect_checkpoint

    base, root = asked.get("base"), asked.get("root")
    high, low = asked.get("transformer"), asked.get("transformer_2")
    comparison = compare_checkpoints(ref, against, transformer=high, transformer_2=low, root=root)
    if base is not None:
        new = inspect_checkpoint(ref, base=base, transformer=high, transformer_2=low, root=root, digests=False)
        comparison = with_proof(comparison, new, inspect_checkpoint(against, base=base, root=root, digests=False))
    if output is not None:
        comparison.write(output)
    if as_json:
        sys.stdout.write(comparison.to_json())
        return 0
    from harness.checkpoint.show import print_comparison

    print_comparison(comparison, _console())
    return 0


def lock_command(cases: Iterable[Case], lock_file: Path, *, check: bool = False, root: Path | None = None) -> int:
    """Write the identity of every case's checkpoints, or (``check``) fail where cases and lock differ.

    Returns:
        0; 17 where ``check`` found a difference or no lock; 18 where a source failed.
    """
    from harness.checkpoint.lock import differences, make_lock, read_lock

    known = list(cases)
    try:
        held = read_lock(lock_file) if check else None
        current, left = make_lock(known, root, held)
    except QuantgateError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    for line in left:
        print(f"not locked: {line}")
    if held is None:
        current.write(lock_file)
        print(f"{lock_file}: {sum(map(len, current.cases.values()))} checkpoints of {len(current.cases)} cases")
        return 0
    found = differences(held, current, known)
    for item in found:
        print(item)
    if found:
        print("  next: quantgate lock, and review the diff")
        return RULES[Outcome.INVALID_CASE].exit_code
    print(f"{lock_file}: cases and lock agree")
    return 0
