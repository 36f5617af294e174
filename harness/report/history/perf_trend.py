"""Times and memory over past runs: one series per measure and pool, and the commits between which its level changed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rich.table import Table
from rich.text import Text

from harness.perf.comparing import amount
from harness.perf.measures import WORDS
from harness.perf.trend import change_points
from harness.records.case_record import CaseRecord
from harness.records.perf import PerfComparison
from harness.report.history.store import History
from harness.text import one_line

SHOWN = ("step", "high_noise_step", "low_noise_step", "text_encoder", "vae", "place", "total", "denoise_memory",
         "decode_memory", "host_memory")  # fmt: skip
"""Measures with a trend: every run has them, and a change of code can move them."""
_BLOCKS = "▁▂▃▄▅▆▇█"
_POINTS = 30


@dataclass(frozen=True)
class PerfPoint:
    """One measure of one run, compared with its baseline."""

    run: str
    started: str
    code: str
    comparison: PerfComparison


@dataclass(frozen=True)
class PerfSeries:
    """One measure in one pool, oldest run first."""

    case: str
    runner: str
    pool: str
    measure: str
    points: tuple[PerfPoint, ...]

    def changes(self) -> tuple[tuple[PerfPoint, str], ...]:
        """Return the first run after each change of level, with a sentence that names the commits around it."""
        changes = []
        for change in change_points([point.comparison.value for point in self.points]):
            before, after = self.points[change.index - 1], self.points[change.index]
            between = f"{before.code[:12] or '?'}..{after.code[:12] or '?'}"
            sentence = f"{change.ratio - 1:+.1%} {WORDS[self.measure]} since {after.run} (commits {between})"
            changes.append((after, f"{sentence}, pool {self.pool}" if self.pool else sentence))
        return tuple(changes)


def perf_series(records: Sequence[CaseRecord], measure: str | None = None) -> tuple[PerfSeries, ...]:
    """Group the times and memory of records by measure and pool.

    Args:
        records: records of one case on one runner, oldest first.
        measure: restrict to this measure; ``None``: all of `SHOWN`.
    """
    groups: dict[tuple[str, str], list[PerfPoint]] = {}
    for record in records:
        if record.perf is None:
            continue
        machine = record.conditions.machine if record.conditions else ""
        for row in record.perf.comparisons:
            if row.measure not in SHOWN or measure not in (None, row.measure) or row.state == "inconclusive":
                continue
            code = record.fingerprint.code if record.fingerprint else ""
            point = PerfPoint(record.run, record.started, code, row)
            # without a stated pool every machine counts as its own pool
            groups.setdefault((row.measure, record.perf.pool or machine), []).append(point)
    first = records[0] if records else None
    return tuple(
        PerfSeries(first.case, first.runner, pool, name, tuple(points))
        for (name, pool), points in sorted(groups.items(), key=lambda group: (SHOWN.index(group[0][0]), group[0][1]))
        if first is not None
    )


def perf_table(history: History, case: str | None, runner: str | None, measure: str | None = None) -> Table:
    """Return a table with a row per case, measure and pool: course, latest value, baseline, changes of level."""
    table = Table(title="time and memory")
    for name in ("case", "runner", "measure", "pool", "runs", "", "latest", "baseline", "state", "changes"):
        table.add_column(name, justify="right" if name in ("runs", "latest", "baseline") else "left", overflow="fold")
    for case_id, runner_name in history.cases(runner):
        if case not in (None, case_id):
            continue
        for series in perf_series(history.records(case_id, runner_name), measure):
            last = series.points[-1].comparison
            cells = (
                case_id,
                runner_name,
                WORDS[series.measure],
                series.pool or "–",
                str(len(series.points)),
                _spark([point.comparison.value for point in series.points]),
                amount(last.value, last.unit),
                "–" if last.baseline is None else amount(last.baseline, last.unit),
                last.state.replace("_", " "),
                "; ".join(sentence for _, sentence in series.changes()),
            )
            table.add_row(*(Text(one_line(cell)) for cell in cells))
    return table


def _spark(values: Sequence[float]) -> str:
    """Draw values as blocks between the lowest and the highest; a level line if they differ by at most 2 %."""
    shown = values[-_POINTS:]
    low, high = min(shown), max(shown)
    if high <= low * 1.02:
        return _BLOCKS[0] * len(shown)
    return "".join(_BLOCKS[round((value - low) / (high - low) * (len(_BLOCKS) - 1))] for value in shown)
