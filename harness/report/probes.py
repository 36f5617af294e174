"""Draw probes as a chart: the error along one forward pass, point by point in the order of execution.

The input of a probe is recorded, so no earlier step can cause its errors: the fault lies at the first point that leaves
the golden.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from harness.records.probe import ModuleEvidence, PointEvidence, ProbeEvidence, ProbeStep
from harness.report.divergence import ONSET, LogAxis, frame_x, polyline
from harness.report.text import number

AXIS = LogAxis(height=150.0, top=12.0, bottom=22.0)
WORST_MODULES = 8
_BLOCK = re.compile(r"(?:^|\.)blocks\.(\d+)(?:\.|$)")


@dataclass(frozen=True)
class ProbeChart:
    """The chart of one probe: errors of its points, and the first point that leaves the golden."""

    title: str
    points: str
    ticks: tuple[tuple[float, str], ...]
    blocks: tuple[tuple[float, str], ...]
    onset_y: float | None
    first_x: float | None
    first_y: float | None
    sentence: str


def probe_charts(evidence: ProbeEvidence | None) -> tuple[ProbeChart, ...]:
    """Return a chart for every probe with at least two observed points."""
    steps = evidence.steps if evidence else ()
    return tuple(chart for step in steps if (chart := _chart(step)) is not None)


def worst_modules(evidence: ProbeEvidence | None) -> tuple[ModuleEvidence, ...]:
    """Return the Linears that are furthest from the golden, or from the base if the golden has no sketches."""
    measured = [module for module in (evidence.modules if evidence else ()) if _error(module) is not None]
    return tuple(sorted(measured, key=lambda module: -(_error(module) or 0.0))[:WORST_MODULES])


def _error(item: PointEvidence | ModuleEvidence) -> float | None:
    return item.golden_error if item.golden_error is not None else item.base_error


def _chart(step: ProbeStep) -> ProbeChart | None:
    points = [(point, error) for point in step.points if (error := _error(point)) is not None]
    if len(points) < 2:
        return None
    against_golden = any(point.golden_error is not None for point, _ in points)
    xs = [round(frame_x(place, len(points)), 1) for place in range(len(points))]
    first = next((place for place, (_, error) in enumerate(points) if error > ONSET), None) if against_golden else None
    return ProbeChart(
        title=f"{step.expert}, timestep {step.timestep:.0f}, against the {'golden' if against_golden else 'BF16 base'}",
        points=polyline(xs, [AXIS.y(error) for _, error in points]),
        ticks=AXIS.ticks(),
        blocks=_blocks([point for point, _ in points], xs),
        onset_y=AXIS.y(ONSET) if against_golden else None,
        first_x=xs[first] if first is not None else None,
        first_y=AXIS.y(points[first][1]) if first is not None else None,
        sentence=_sentence(step, points, first, against_golden),
    )


def _sentence(
    step: ProbeStep, points: list[tuple[PointEvidence, float]], first: int | None, against_golden: bool
) -> str:
    if first is not None:
        point, error = points[first]
        return f"First diverging point of {step.expert} at timestep {step.timestep:.0f}: {point.name}, {error:.1%} off."
    most, error = max(points, key=lambda item: item[1])
    anchor = "the golden" if against_golden else "the BF16 base, as far as quantization leaves it"
    return (
        f"{step.expert} at timestep {step.timestep:.0f} stays with {anchor}: at most {number(error)}, at {most.name}."
    )


def _blocks(points: list[PointEvidence], xs: list[float]) -> tuple[tuple[float, str], ...]:
    """Return x and number of each block's first point; with many blocks only every n-th, at most 23."""
    starts: dict[str, float] = {}
    for point, x in zip(points, xs, strict=True):
        if match := _BLOCK.search(point.name):
            starts.setdefault(match[1], x)
    step = max(1, len(starts) // 12)
    return tuple((x, name) for place, (name, x) in enumerate(starts.items()) if place % step == 0)
