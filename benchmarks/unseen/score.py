"""The tables of ``python -m benchmarks.unseen``."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median

from benchmarks.unseen.design import Entry
from benchmarks.unseen.result import STOPPED, Result

VOID = 0.0


def share(count: int, total: int) -> str:
    """``12 of 40 (30.0 %)``."""
    return f"{count} of {total} ({100 * count / total:.1f} %)" if total else "0 of 0"


def tables(rows: Sequence[tuple[Entry, Result]]) -> str:
    """Everything that is printed, from runs with their entries."""
    broken = [(entry, row) for entry, row in rows if row.outcome in {outcome.value for outcome in STOPPED}]
    whole = [(entry, row) for entry, row in rows if row.outcome not in {outcome.value for outcome in STOPPED}]
    faults = [pair for pair in whole if not pair[0].healthy]
    healthy = [pair for pair in whole if pair[0].healthy]
    lines = [*_faults(faults), *_healthy(healthy), *_seconds(whole)]
    if broken:
        lines += ["", f"runs that broke, counted nowhere: {len(broken)}"]
        lines += [f"  {entry.id}: {row.outcome} {row.summary[:160]} {row.error[:160]}" for entry, row in broken]
    return "\n".join(lines)


def _faults(pairs: Sequence[tuple[Entry, Result]]) -> list[str]:
    red = [pair for pair in pairs if pair[1].red]
    total, alone = len(pairs), sum(row.accept_suggested for _, row in pairs)
    stale, seconds = sum(row.stale for _, row in pairs), sum(row.rank(entry) in (1, 2) for entry, row in red)
    ranks = {entry.id: row.rank(entry) for entry, row in pairs}
    void = [entry.id for entry, row in pairs if row.green and row.distance == VOID]
    lines = [
        f"faults: {total}",
        f"  red                                   {share(len(red), total)}",
        f"  golden_stale, only `accept` suggested {share(alone, total)}",
        f"  golden_stale, other                   {share(stale - alone, total)}",
        f"  green                                 {share(sum(row.green for _, row in pairs), total)}",
        f"  first cause right, of the red         {share(sum(ranks[entry.id] == 1 for entry, _ in red), len(red))}",
        f"  first or second right, of the red     {share(seconds, len(red))}",
        "",
        f"  {'kind':<34} {'n':>4} {'red':>4} {'stale':>6} {'green':>6} {'first':>6} {'1 or 2':>7}",
    ]
    for kind in dict.fromkeys(entry.kind for entry, _ in pairs):
        pairs_of_kind = [pair for pair in pairs if pair[0].kind == kind]
        places = [ranks[entry.id] for entry, row in pairs_of_kind if row.red]
        counts = (
            len(pairs_of_kind),
            sum(row.red for _, row in pairs_of_kind),
            sum(row.stale for _, row in pairs_of_kind),
            sum(row.green for _, row in pairs_of_kind),
            places.count(1),
            places.count(1) + places.count(2),
        )
        lines.append("  {:<34} {:>4} {:>4} {:>6} {:>6} {:>6} {:>7}".format(kind, *counts))
    lines += ["", "faults that are not red:"]
    lines += [
        f"  {entry.id} [{entry.kind}]: {row.outcome}, {_far(row)}{'; accept' if row.accept_suggested else ''}"
        for entry, row in pairs
        if not row.red
    ]
    lines += ["", "red, and neither the first nor the second cause is right:"]
    lines += [
        f"  {entry.id} [{entry.kind}]: {'; '.join(cause[:90] for cause in row.causes[:2]) or 'no cause'}"
        for entry, row in red
        if ranks[entry.id] not in (1, 2)
    ]
    if void:
        lines += ["", f"green with the very frames of the golden: {', '.join(void)}"]
    return lines


def _far(row: Result) -> str:
    return "no frames" if row.distance is None else f"{row.distance:.2f} levels from the golden"


def _healthy(pairs: Sequence[tuple[Entry, Result]]) -> list[str]:
    red = [(entry, row) for entry, row in pairs if row.red]
    stale = [(entry, row) for entry, row in pairs if row.stale and not entry.value_changes]
    allowed = sum(row.stale and entry.value_changes for entry, row in pairs)
    lines = [
        "",
        f"healthy changes: {len(pairs)}",
        f"  red                                   {share(len(red), len(pairs))}",
        f"  golden_stale where no value changed   {share(len(stale), len(pairs))}",
        f"  golden_stale where a value changed    {share(allowed, len(pairs))}",
    ]
    for entry, row in [*red, *stale]:
        first = row.causes[0][:110] if row.causes else row.summary[:110]
        lines.append(f"  {entry.id}: {row.outcome} ({row.verdict_cause}), {_far(row)}: {first}")
    return lines


def _seconds(pairs: Sequence[tuple[Entry, Result]]) -> list[str]:
    spent = [row.attribution_seconds for _, row in pairs if row.attribution_seconds is not None]
    whole = [row.seconds for _, row in pairs]
    if not whole:
        return []
    seconds = f"median {median(spent):.1f}, worst {max(spent):.1f} ({len(spent)} runs)" if spent else "never ran"
    return [
        "",
        f"seconds of attribution: {seconds}",
        f"seconds of a run: median {median(whole):.1f}, worst {max(whole):.1f}",
    ]
