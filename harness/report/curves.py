"""Per-frame curves as plain SVG geometry: the page draws them without a line of JavaScript."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from harness.records.case_record import CaseRecord
from harness.records.frames import MetricResult
from harness.records.limits import LimitCheck
from harness.report.text import number

WIDTH, HEIGHT = 600.0, 96.0
LEFT, RIGHT, TOP, BOTTOM = 56.0, 10.0, 10.0, 14.0


@dataclass(frozen=True)
class Curve:
    """One metric over the frames, in the coordinates of a ``WIDTH`` x ``HEIGHT`` view box."""

    metric: str
    points: str
    """Of a polyline: ``x,y x,y``."""
    limit_y: float | None
    worst_x: float
    worst_y: float
    worst_frame: int
    low: str
    high: str
    failed: bool
    caption: str
    """What the curve shows, for a reader who does not see it."""
    values: tuple[float, ...]


def curves(record: CaseRecord) -> tuple[Curve, ...]:
    """A curve for every metric with a value a frame; those whose limit is broken come first."""
    if record.comparison is None:
        return ()
    checks = {check.metric: check for check in record.limits}
    found = [
        _curve(metric, checks.get(metric.name))
        for metric in record.comparison.metrics
        if len(metric.per_frame) > 1 and all(math.isfinite(value) for value in metric.per_frame)
    ]
    return tuple(sorted(found, key=lambda curve: not curve.failed))


def frame_x(frame: float, count: int) -> float:
    """Where frame ``frame`` of ``count`` stands."""
    return LEFT + (WIDTH - LEFT - RIGHT) * frame / max(1, count - 1)


def _curve(metric: MetricResult, check: LimitCheck | None) -> Curve:
    values = metric.per_frame
    limit = check.limit if check and check.gates else None
    marks = [*values, *([limit] if limit is not None and metric.direction != "two_sided" else [])]
    low, high = min(marks), max(marks)
    if low == high:
        low, high = low - 0.5 * (abs(low) or 1.0), high + 0.5 * (abs(high) or 1.0)
    y = _Scale(low, high)
    worst = metric.worst_frame if metric.worst_frame is not None else 0
    worst = min(max(worst, 0), len(values) - 1)
    failed = check is not None and check.gates and not check.passed
    caption = f"{metric.name}, {len(values)} frames, worst {number(values[worst])} at frame {worst}"
    if limit is not None:
        caption += f", limit {number(limit)}, {'broken' if failed else 'kept'}"
    return Curve(
        metric=metric.name,
        points=polyline([frame_x(i, len(values)) for i in range(len(values))], [y(value) for value in values]),
        limit_y=y(limit) if limit is not None and metric.direction != "two_sided" else None,
        worst_x=round(frame_x(worst, len(values)), 1),
        worst_y=y(values[worst]),
        worst_frame=worst,
        low=number(low),
        high=number(high),
        failed=failed,
        caption=caption,
        values=values,
    )


@dataclass(frozen=True)
class _Scale:
    low: float
    high: float

    def __call__(self, value: float) -> float:
        share = (value - self.low) / (self.high - self.low)
        return round(HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * share, 1)


def polyline(xs: Sequence[float], ys: Sequence[float]) -> str:
    """Coordinates as the ``points`` attribute wants them, a tenth of a unit exact."""
    return " ".join(f"{x:.1f},{y:.1f}" for x, y in zip(xs, ys, strict=True))
