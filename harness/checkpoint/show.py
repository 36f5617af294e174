"""Reports as tables for people."""

from __future__ import annotations

from typing import TYPE_CHECKING

from harness.records.inspection import CheckpointComparison, InspectionReport, LayerEvidence

if TYPE_CHECKING:
    from rich.console import Console

STYLES = {
    "fault": "bold red",
    "inconclusive": "bold yellow",
    "warning": "yellow",
    "info": "dim",
    "infra": "bold magenta",
    "clean": "bold green",
}


def print_report(report: InspectionReport, console: Console, layers: bool = False) -> None:
    """Verdict, findings, experts, contracts and what was not done; ``layers`` adds a row a Linear."""
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
    for contract in report.contracts:
        word = {True: "agrees", False: "differs", None: "not provable"}[contract.agrees]
        rows = ", ".join(f"{item.field}={item.value} ({item.rule})" for item in contract.assumptions[:2])
        console.print(f"{contract.contract} {contract.expert}: {word}; {escape(rows)}", style="dim")
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
    """What a switch changes, one row a field."""
    from rich.markup import escape
    from rich.table import Table

    console.print(f"A {escape(comparison.reference)}\nB {escape(comparison.against)}")
    table = Table("expert", "field", "A", "B", box=None, pad_edge=False)
    for change in comparison.changes:
        table.add_row(change.expert or "-", change.field, escape(str(change.new)), escape(str(change.old)))
    console.print(table if comparison.changes else "no difference in layout, formats, configuration or sizes")
    if comparison.identical_files:
        console.print(f"{len(comparison.identical_files)} files are byte-identical", style="dim")
