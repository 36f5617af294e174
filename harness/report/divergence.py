"""Find the step at which a run leaves the golden: distance of the latents' sketches, step by step.

A sketch is a seeded random projection with unit variance, so that the distance of two sketches estimates the distance
of the latents themselves (Johnson-Lindenstrauss): relative distance = |a - b| / |b|.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from harness.records.case_record import CaseRecord
from harness.records.frames import MetricResult
from harness.records.generation import Step, Trace
from harness.records.limits import LimitCheck
from harness.report.text import is_control, number

# Per-frame curves as plain SVG geometry: the page draws them without a line of JavaScript.


WIDTH, HEIGHT = 600.0, 96.0
LEFT, RIGHT, TOP, BOTTOM = 56.0, 10.0, 10.0, 14.0


@dataclass(frozen=True)
class Curve:
    """The curve of one metric over the frames, in the coordinates of a ``WIDTH`` x ``HEIGHT`` view box."""

    metric: str
    points: str
    """Points of a polyline: ``x,y x,y``."""
    limit_y: float | None
    worst_x: float
    worst_y: float
    worst_frame: int
    low: str
    high: str
    failed: bool
    caption: str
    """Text alternative of the curve, for a screen reader."""
    values: tuple[float, ...]


def curves(record: CaseRecord) -> tuple[Curve, ...]:
    """Return a curve for every metric with a value per frame, curves with a broken limit first."""
    if record.comparison is None:
        return ()
    checks = {check.metric: check for check in record.limits}
    control = is_control(record)
    drawn_curves = [
        _curve(metric, checks.get(metric.name), control)
        for metric in record.comparison.metrics
        if len(metric.per_frame) > 1 and all(math.isfinite(value) for value in metric.per_frame)
    ]
    return tuple(sorted(drawn_curves, key=lambda curve: not curve.failed))


def frame_x(frame: float, count: int) -> float:
    """Return the x coordinate of frame (or point) ``frame`` of ``count``."""
    return LEFT + (WIDTH - LEFT - RIGHT) * frame / max(1, count - 1)


def _curve(metric: MetricResult, check: LimitCheck | None, control: bool) -> Curve:
    values = metric.per_frame
    limit = check.limit if check and check.gates else None
    marks = [*values, *([limit] if limit is not None and metric.direction != "two_sided" else [])]
    low, high = min(marks), max(marks)
    # a constant curve gets room on both sides: `_Scale` divides by the range
    if low == high:
        low, high = low - 0.5 * (abs(low) or 1.0), high + 0.5 * (abs(high) or 1.0)
    y = _Scale(low, high)
    worst = metric.worst_frame if metric.worst_frame is not None else 0
    worst = min(max(worst, 0), len(values) - 1)
    broken = check is not None and check.gates and not check.passed
    failed = broken and not control
    caption = f"{metric.name}, {len(values)} frames, worst {number(values[worst])} at frame {worst}"
    if limit is not None:
        caption += f", limit {number(limit)}, {'broken' if failed else 'broken, as it must be' if broken else 'kept'}"
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
    """Format coordinates for the ``points`` attribute, rounded to a tenth: ``56.0,10.0 66.0,12.5``."""
    return " ".join(f"{x:.1f},{y:.1f}" for x, y in zip(xs, ys, strict=True))


DECADES = (-6, 1)
"""Powers of ten that the axis spans."""
ONSET = 0.01
"""Relative distance above which a step counts as diverged: above a kernel's rounding noise, below visible changes."""


@dataclass(frozen=True)
class LogAxis:
    """Vertical axis of a chart of relative distances, over ``DECADES``. Lengths in the coordinates of its view box."""

    height: float
    top: float
    """Room above the highest power of ten."""
    bottom: float

    def y(self, distance: float) -> float:
        """Return the y coordinate of a distance; beyond an end of the axis, that end."""
        low, high = DECADES
        power = low if distance <= 0 else min(max(math.log10(distance), low), high) if math.isfinite(distance) else high
        return round(
            self.height - self.bottom - (self.height - self.top - self.bottom) * (power - low) / (high - low), 1
        )

    def ticks(self) -> tuple[tuple[float, str], ...]:
        """Return y and label of every second power of ten."""
        return tuple((self.y(10.0**power), f"1e{power}" if power else "1") for power in range(*DECADES, 2))


AXIS = LogAxis(height=180.0, top=24.0, bottom=26.0)


@dataclass(frozen=True)
class Dot:
    """One step on the chart."""

    index: int
    x: float
    y: float
    distance: float
    expert: str
    timestep: float


@dataclass(frozen=True)
class Band:
    """Consecutive steps of one expert."""

    expert: str
    x: float
    width: float


@dataclass(frozen=True)
class Divergence:
    """The chart, and its summary in one sentence."""

    dots: tuple[Dot, ...]
    points: str
    bands: tuple[Band, ...]
    ticks: tuple[tuple[float, str], ...]
    onset_y: float
    first: Dot | None
    sentence: str


def divergence(golden: Trace | None, run: Trace | None) -> Divergence | None:
    """Compare two traces step by step. Return ``None`` if a trace is absent or holds no comparable sketches."""
    if golden is None or run is None:
        return None
    # not strict: runs of different lengths are compared over their common steps
    pairs = [
        (step, reference)
        for step, reference in zip(run.steps, golden.steps, strict=False)
        if _sketched(step, reference)
    ]
    if not pairs:
        return None
    spread = (WIDTH - LEFT - RIGHT) / len(pairs)
    dots = tuple(
        Dot(
            index=step.index,
            x=round(LEFT + spread * (place + 0.5), 1),
            y=AXIS.y(distance := relative_distance(step.latent_sketch, reference.latent_sketch)),
            distance=distance,
            expert=step.expert,
            timestep=step.timestep,
        )
        for place, (step, reference) in enumerate(pairs)
    )
    first = next((dot for dot in dots if dot.distance > ONSET), None)
    return Divergence(
        dots=dots,
        points=polyline([dot.x for dot in dots], [dot.y for dot in dots]),
        bands=_bands(dots, spread),
        ticks=AXIS.ticks(),
        onset_y=AXIS.y(ONSET),
        first=first,
        sentence=_sentence(dots, first),
    )


def relative_distance(values: tuple[float, ...], reference: tuple[float, ...]) -> float:
    """Return |values - reference| / |reference|, L2; 0 if both are zero, infinite if only ``reference`` is zero."""
    norm = math.hypot(*reference)
    gap = math.dist(values, reference)
    return gap / norm if norm > 0 else (0.0 if gap == 0 else math.inf)


def _sketched(step: Step, reference: Step) -> bool:
    return bool(step.latent_sketch) and len(step.latent_sketch) == len(reference.latent_sketch)


def _bands(dots: tuple[Dot, ...], spread: float) -> tuple[Band, ...]:
    bands: list[Band] = []
    for dot in dots:
        if bands and bands[-1].expert == dot.expert:
            bands[-1] = Band(dot.expert, bands[-1].x, bands[-1].width + spread)
        else:
            bands.append(Band(dot.expert, dot.x - spread / 2, spread))
    return tuple(Band(band.expert, round(band.x, 1), round(band.width, 1)) for band in bands)


def _sentence(dots: tuple[Dot, ...], first: Dot | None) -> str:
    if all(dot.distance == 0 for dot in dots):
        return "The latents follow the golden's exactly, step by step."
    if first is None:
        most = max(dots, key=lambda dot: dot.distance)
        return (
            f"No step leaves the golden's way by more than 1 %; the most is {most.distance:.1e} at step {most.index}."
        )
    return (
        f"First diverging step: {first.index} (timestep {first.timestep:.0f}, expert {first.expert}), "
        f"{first.distance:.1%} away from the golden's latents."
    )
