"""Render the history as pages: a chart per metric with all runners, and marks at changes of versions."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from harness.records.base import write_text_atomic
from harness.report.divergence import polyline
from harness.report.history.perf_trend import perf_series
from harness.report.history.store import History, Point, drift, sentence
from harness.report.history.terminal import by_metric
from harness.report.render import HERE, renderer, replace_folder
from harness.report.text import number, percent, short_digest

WIDTH, HEIGHT = 760.0, 150.0
LEFT, RIGHT, TOP, BOTTOM = 56.0, 12.0, 22.0, 18.0
LevelChanges = dict[str, list[tuple[str, str]]]
_CEILING = 1.5
"""Margin consumed at the top of a chart; a larger value is drawn there, and its title shows the value."""


@dataclass(frozen=True)
class Mark:
    """A measurement, or a change of versions."""

    x: float
    y: float
    title: str


@dataclass(frozen=True)
class Line:
    """One runner's series."""

    runner: str
    shape: int
    """Index of the runner's sign, which distinguishes runners without colour."""
    points: str
    marks: tuple[Mark, ...]
    drift: str
    latest: str


@dataclass(frozen=True)
class Chart:
    """One metric of one case."""

    metric: str
    limited: bool
    """Whether the axis shows margin consumed; otherwise it shows the value, since there is no limit."""
    lines: tuple[Line, ...]
    changes: tuple[Mark, ...]
    limit_y: float | None
    top: str
    bottom: str
    caption: str


def render_history(history: History, out: Path, case: str | None = None, runner: str | None = None) -> Path:
    """Write the trend pages of one case or of all cases. Return the first page.

    Raises:
        ReportError: ``out`` holds something else.
    """
    names = list(dict.fromkeys(name for name, _ in history.cases(runner) if case in (None, name)))
    slugs = {name: f"{place:04d}-{re.sub(r'[^A-Za-z0-9_-]', '_', name)[:80]}.html" for place, name in enumerate(names)}

    def write(folder: Path) -> None:
        shutil.copytree(HERE / "static", folder / "static")
        page = renderer()
        rows = []
        for name in names:
            charts = charts_of(history.points(name, None, runner), level_changes(history, name, runner))
            write_text_atomic(
                folder / slugs[name], page("trend.html.j2", root="", title=name, case=name, charts=charts)
            )
            rows.append((name, slugs[name], charts))
        write_text_atomic(
            folder / "index.html", page("trends.html.j2", root="", title="history · quantgate", rows=rows)
        )

    return replace_folder(out, write) / "index.html"


def level_changes(history: History, case: str, runner: str | None) -> LevelChanges:
    """Return the runs at which the level of a time or a peak of memory changed: metric to run and sentence."""
    levels: LevelChanges = {}
    for name, runner_name in history.cases(runner):
        for series in perf_series(history.records(name, runner_name)) if name == case else ():
            rows = levels.setdefault(f"perf.{series.measure}", [])
            rows += [(point.run, sentence) for point, sentence in series.changes()]
    return levels


def charts_of(points: Sequence[Point], levels: LevelChanges | None = None) -> tuple[Chart, ...]:
    """Return a chart for every metric: metrics with a limit first, the least room first.

    Args:
        points: measurements, oldest first.
        levels: changes of level by metric, which are marked like changes of versions.
    """
    charts = [_chart(metric, series, (levels or {}).get(metric, [])) for metric, series in by_metric(points).items()]
    latest = {metric: series[-1].margin_consumed or 0.0 for metric, series in by_metric(points).items()}
    return tuple(sorted(charts, key=lambda chart: (not chart.limited, -latest[chart.metric], chart.metric)))


def _chart(metric: str, series: list[Point], levels: list[tuple[str, str]]) -> Chart:
    limited = any(point.margin_consumed is not None for point in series)
    runs = list(dict.fromkeys(point.run for point in series))
    shown = [value for point in series if (value := point.margin_consumed if limited else point.value) is not None]
    low, high = (0.0, _CEILING) if limited else (0.0, max(shown, default=1.0) * 1.1 or 1.0)

    def x(run: str) -> float:
        return round(LEFT + (WIDTH - LEFT - RIGHT) * (runs.index(run) + 0.5) / len(runs), 1)

    def y(value: float) -> float:
        share = (min(max(value, low), high) - low) / (high - low)
        return round(HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * share, 1)

    lines = []
    for shape, runner in enumerate(dict.fromkeys(point.runner for point in series)):
        points = [point for point in series if point.runner == runner]
        marks = [
            Mark(x(point.run), y(value), _title(point))
            for point in points
            if (value := point.margin_consumed if limited else point.value) is not None
        ]
        last = points[-1]
        lines.append(
            Line(
                runner=runner,
                shape=shape % 4,
                points=polyline([mark.x for mark in marks], [mark.y for mark in marks]),
                marks=tuple(marks),
                drift=sentence(drift(points)),
                latest=percent(last.margin_consumed) if limited else number(last.value),
            )
        )
    quantity = "margin used" if limited else "value"
    lines_text = "; ".join(f"{line.runner} {line.latest}{', ' + line.drift if line.drift else ''}" for line in lines)
    return Chart(
        metric=metric,
        limited=limited,
        lines=tuple(lines),
        changes=(*_changes(series, x), *(Mark(x(run), TOP, sentence) for run, sentence in levels if run in runs)),
        limit_y=y(1.0) if limited else None,
        top=percent(high) if limited else number(high),
        bottom=percent(low) if limited else number(low),
        caption=f"{metric}, {quantity} over {len(runs)} runs; latest: {lines_text}",
    )


def _title(point: Point) -> str:
    limit = f", limit {number(point.limit)}" if point.limit is not None else ""
    return (
        f"{point.run} on {point.runner}: {number(point.value)}{limit}, {percent(point.margin_consumed)} of the margin"
    )


def _changes(series: list[Point], x: Callable[[str], float]) -> tuple[Mark, ...]:
    """Return a mark per run whose versions, driver or golden differ from the same runner's run before."""
    marks: list[Mark] = []
    before: dict[str, dict[str, str]] = {}
    for point in series:
        now = {**point.versions, "driver": point.driver or "–", "golden": short_digest(point.golden)}
        old = before.get(point.runner)
        if old is not None and old != now:
            moved = [name for name in now | old if old.get(name) != now.get(name)]
            changes_text = ", ".join(f"{name} {old.get(name, '–')} → {now.get(name, '–')}" for name in moved)
            marks.append(Mark(x(point.run), TOP, f"{point.runner}: {changes_text}"))
        before[point.runner] = now
    return tuple(marks)
