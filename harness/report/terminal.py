"""Show one case of a run, and the difference of two runs, as text for a terminal, from records alone."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from shlex import quote

from harness.outcomes import SEVERITY
from harness.records.case_record import CaseRecord
from harness.records.identity import FieldChange, differences
from harness.records.run_folder import RECORD_FILE
from harness.report.bars import Bar, bars
from harness.report.case_page import receipt_rows
from harness.report.load import Entry, ReportError, Run
from harness.report.text import LABELS, is_control, next_step, number, plain, seconds
from harness.text import clean, listed, one_line

LAST = "last"
_CHANGES = 12
_LOG_LINES = 12
_VALUE = 40
_WIDEST = 400


def find_run(name: str, runs: Path) -> Path:
    """Return the folder of a run.

    Args:
        name: a folder, the name of a folder below ``runs``, or ``last``.
        runs: folder of all runs.

    Raises:
        ReportError: there is no such run.
    """
    if name == LAST:
        records = list(runs.glob(f"*/*/{RECORD_FILE}"))
        if not records:
            raise ReportError("there is no run yet", place=str(runs), remedy="pytest cases")
        return max(records, key=lambda path: path.stat().st_mtime_ns).parent.parent
    for path in (Path(name), runs / name):
        if path.is_dir():
            return path
    names = ", ".join(sorted((path.name for path in runs.glob("*") if path.is_dir()), reverse=True)[:5])
    raise ReportError(f"there is no run {name!r}", place=str(runs), remedy=f"name one of {names or 'none'}, or `last`")


def find_case(run: Run, case: str) -> Entry:
    """Return the entry of a case, named ``case`` or ``runner/case``.

    Raises:
        ReportError: there is no such case, or several runners have it.
    """
    matching = [
        entry for entry in run.entries if case in (entry.record.case, f"{entry.record.runner}/{entry.record.case}")
    ]
    if len(matching) == 1:
        return matching[0]
    if matching:
        names = ", ".join(f"{entry.record.runner}/{entry.record.case}" for entry in matching)
        raise ReportError(f"several runners have a case {case!r}", place=str(run.folder), remedy=f"name one of {names}")
    ids = sorted({entry.record.case for entry in run.entries})
    remedy = f"quantgate show {quote(str(run.folder))} CASE, with a case of this run: {listed(ids, 20)}"
    raise ReportError(f"there is no case {case!r} in this run", place=str(run.folder), remedy=remedy)


def show_case(entry: Entry) -> str:
    """Return the text of one case: verdict, findings, limits, what changed, receipts, files, next command."""
    record = entry.record
    verdict = record.verdict
    took = seconds(record.timing.total)
    head = f"{LABELS[verdict.outcome].word}  {record.case} on {record.runner}  ({record.run}, {took})"
    lines = [head, f"  {one_line(verdict.summary)}"]
    if is_control(record) and verdict.observed:
        lines.append(f"  negative control: it must fail, and did ({LABELS[verdict.observed].word})")
    lines += _findings(record)
    lines += _limits(bars(record))
    lines += _section("what changed against the golden", _changes(record.changes))
    lines += _section("receipts", _receipts(record))
    if verdict.outcome in SEVERITY[:-2] and record.log_tail:
        lines += _section("last lines of the engine's log", record.log_tail[-_LOG_LINES:])
    files = [f"{name}  {entry.folder / file}" for name, file in sorted(record.artifacts.items())]
    lines += _section("files", [*files, f"record  {entry.folder / RECORD_FILE}"])
    step = next_step(record)
    if step:
        lines += ["", f"next: {step}"]
    return "\n".join(clean(line) for line in lines)


def _section(title: str, rows: Iterable[str]) -> list[str]:
    shown = [f"  {_line(row)}".rstrip() for row in rows]
    return ["", title, *shown] if shown else []


def _line(text: str) -> str:
    """Return text on one line, with its columns kept, of at most ``_WIDEST`` characters."""
    return clean(text).replace("\n", " ")[:_WIDEST]


def _findings(record: CaseRecord) -> list[str]:
    rows = [
        f"{finding.stage:<10} {finding.code}: {finding.message}{'' if finding.gating else ' (does not gate)'}"
        for finding in record.verdict.findings
    ]
    return _section("findings", rows)


def _limits(rows: Sequence[Bar]) -> list[str]:
    table = [("metric", "worst", "limit", "used", "frame")] if rows else []
    table += [
        (
            row.metric,
            row.value,
            f"{row.sign} {row.limit}".strip(),
            row.consumed,
            str("" if row.frame is None else row.frame),
        )
        for row in rows
    ]
    if not table:
        return []
    return _section("limits", (f"{line}{_mark(row)}" for line, row in zip(_columns(table), [None, *rows], strict=True)))


def _mark(row: Bar | None) -> str:
    if row is None:
        return ""
    return {"failed": "  FAILED", "missing": "  NOT COMPUTED", "shown": "  does not gate"}.get(row.state, "")


def _columns(rows: Sequence[Sequence[str]]) -> Iterator[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        yield "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))


def _changes(changes: Sequence[FieldChange]) -> list[str]:
    rows = [
        f"{change.identity_class:<8} {change.field}: {_value(change.golden)} -> {_value(change.run)}"
        for change in changes[:_CHANGES]
    ]
    return rows + ([f"and {len(changes) - _CHANGES} more"] if len(changes) > _CHANGES else [])


def _value(value: object) -> str:
    text = plain(value)  # type: ignore[arg-type]
    return text if len(text) <= _VALUE else f"{text[:_VALUE]}…"


def _receipts(record: CaseRecord) -> list[str]:
    rows = [f"{row.expert}: {row.modules} Linears {row.format} on {row.kernel}" for row in receipt_rows(record)]
    generation = record.generation
    if generation is not None and generation.unproven:
        rows.append(generation.unproven)
    if generation is not None and generation.delivery is not None and generation.delivery.costs:
        rows.append(generation.delivery.costs)
    return rows


def diff_runs(before: Run, after: Run) -> str:
    """Return the differences between two runs: verdicts, measurements, and fields of the identities.

    Cases with a changed verdict come first, then cases with changed measurements only. Equal cases are counted.
    """
    first, second = _by_name(before), _by_name(after)
    lines = [f"{before.name} -> {after.name}"]
    changed, moved, same = [], [], 0
    for name in sorted(first.keys() & second.keys()):
        earlier, other = first[name].record, second[name].record
        rows = list(_measurements(earlier, other))
        if earlier.verdict.outcome != other.verdict.outcome or earlier.verdict.cause != other.verdict.cause:
            changed += [
                f"{name}: {_outcome_text(earlier)} -> {_outcome_text(other)}",
                f"  {one_line(other.verdict.summary)}",
                *rows,
            ]
        elif rows:
            moved += [f"{name}: {_outcome_text(other)}", *rows]
        else:
            same += 1
    lines += _plain("verdicts that changed", changed)
    lines += _plain("measurements that changed", moved)
    for run, names, others in ((before, first, second), (after, second, first)):
        rows = [f"{name}: {_outcome_text(names[name].record)}" for name in sorted(names.keys() - others.keys())]
        lines += _plain(f"only in {run.name}", rows)
    lines += _plain("the runs are made of", _made_of(first, second))
    lines += ["", f"{same} case{'' if same == 1 else 's'} the same"]
    return "\n".join(clean(line) for line in lines)


def _plain(title: str, rows: Sequence[str]) -> list[str]:
    return ["", title, *(f"  {row}" for row in rows)] if rows else []


def _by_name(run: Run) -> dict[str, Entry]:
    return {_name(entry.record): entry for entry in run.entries}


def _name(record: CaseRecord) -> str:
    return f"{record.runner}/{record.case}"


def _outcome_text(record: CaseRecord) -> str:
    verdict = record.verdict
    cause = "" if verdict.cause in ("none", verdict.outcome.value) else f" ({verdict.cause})"
    return f"{LABELS[verdict.outcome].word}{cause}"


def _measurements(before: CaseRecord, after: CaseRecord) -> Iterator[str]:
    """Yield a line for every metric that both runs measured with different worst values."""
    values = [
        {metric.name: metric.worst for metric in (record.comparison.metrics if record.comparison else ())}
        for record in (before, after)
    ]
    limits = {bar.metric: bar for bar in bars(after)}
    for name in values[0]:
        if name in values[1] and values[0][name] != values[1][name]:
            bar = limits.get(name)
            limit = f" (limit {bar.sign} {bar.limit}, {bar.consumed} used)" if bar is not None and bar.sign else ""
            yield f"  {name} {number(values[0][name])} -> {number(values[1][name])}{limit}"


def _made_of(first: dict[str, Entry], second: dict[str, Entry]) -> list[str]:
    """Return each field of the identities that differs, with the number of cases, most cases first."""
    counts: dict[str, int] = {}
    for name in sorted(first.keys() & second.keys()):
        before, other = first[name].record.identity, second[name].record.identity
        if before is None or other is None:
            continue
        for row in _changes(differences(before, other)):
            counts[row] = counts.get(row, 0) + 1
    ranked = sorted(counts.items(), key=lambda item: -item[1])
    return [f"{row}  ({count} case{'' if count == 1 else 's'})" for row, count in ranked]
