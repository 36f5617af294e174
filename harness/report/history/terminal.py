"""Show the history as tables in the terminal."""

from __future__ import annotations

from collections.abc import Sequence

from rich.table import Table
from rich.text import Text

from harness.report.history.store import History, Point, drift, sentence
from harness.report.text import number, percent
from harness.text import one_line

_BLOCKS = "▁▂▃▄▅▆▇█"
_SHOWN = 20


def sparkline(values: Sequence[float | None]) -> str:
    """Draw margins as blocks, the highest block at the limit and beyond; a dot for a run without margin."""
    last = len(_BLOCKS) - 1
    return "".join(
        "·" if value is None else _BLOCKS[min(last, max(0, int(value * last)))] for value in values[-_SHOWN:]
    )


def cases_table(history: History, runner: str | None = None) -> Table:
    """Return a table with a row per case and runner: number of runs, last outcome, nearest limit, drifts."""
    table = Table(title="history")
    for name in ("case", "runner", "runs", "last", "nearest limit", "margin used", "drift"):
        table.add_column(name, justify="right" if name == "runs" else "left", overflow="fold")
    for case, runner_name in history.cases(runner):
        ends = history.outcomes(case, runner_name)
        points = history.points(case, None, runner_name)
        series = by_metric(points)
        limited = {metric: points for metric, points in series.items() if points[-1].margin_consumed is not None}
        nearest = max(limited, key=lambda metric: limited[metric][-1].margin_consumed or 0.0, default=None)
        margins = [point.margin_consumed for point in limited[nearest]] if nearest else []
        drifts = [f"{metric}: {text}" for metric, points in series.items() if (text := sentence(drift(points)))]
        table.add_row(
            Text(one_line(case)),
            Text(one_line(runner_name)),
            str(len(ends)),
            Text(ends[-1][2]),
            Text(one_line(nearest)) if nearest else "–",
            f"{sparkline(margins)} {percent(margins[-1])}" if nearest else "–",
            Text("; ".join(drifts)),
        )
    return table


def case_table(points: Sequence[Point], case: str, metric: str | None) -> Table:
    """Return a table with a row per run and metric, oldest first."""
    table = Table(title=one_line(case if metric is None else f"{case} · {metric}"))
    for name in ("started", "run", "runner", "metric", "value", "limit", "margin used", "verdict", "torch", "code"):
        table.add_column(name, justify="right" if name in ("value", "limit") else "left", overflow="fold")
    for point in points:
        full = "" if point.margin_consumed is None else sparkline([point.margin_consumed]) + " "
        cells = (
            point.started[:16].replace("T", " "),
            point.run,
            point.runner,
            point.metric,
            number(point.value),
            number(point.limit),
            f"{full}{percent(point.margin_consumed)}",
            point.outcome,
            point.versions.get("torch", "–"),
            point.code[:12] or "–",
        )
        table.add_row(*(Text(one_line(cell)) for cell in cells))
    return table


def by_metric(points: Sequence[Point]) -> dict[str, list[Point]]:
    """Group points by metric, in their order."""
    series: dict[str, list[Point]] = {}
    for point in points:
        series.setdefault(point.metric, []).append(point)
    return series
