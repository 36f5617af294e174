"""Where this run leaves the golden's way: distance of the latents' sketches, step by step.

A sketch is a seeded random projection with unit variance, so that the distance of two sketches estimates the distance
of the latents themselves (Johnson-Lindenstrauss): relative distance = |a - b| / |b|.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from harness.records.generation import Step, Trace
from harness.report.curves import polyline

WIDTH, HEIGHT = 600.0, 180.0
LEFT, RIGHT, TOP, BOTTOM = 56.0, 10.0, 24.0, 26.0
DECADES = (-6, 1)
"""Powers of ten that the axis spans."""
ONSET = 0.01
"""Relative distance from which on a step is called diverged: above a kernel's rounding noise, below what is seen."""


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
    """The chart, and the sentence that it says."""

    dots: tuple[Dot, ...]
    points: str
    bands: tuple[Band, ...]
    ticks: tuple[tuple[float, str], ...]
    onset_y: float
    first: Dot | None
    sentence: str


def divergence(golden: Trace | None, run: Trace | None) -> Divergence | None:
    """Compare two traces; ``None`` where one is absent or holds no sketches."""
    if golden is None or run is None:
        return None
    pairs = [(mine, theirs) for mine, theirs in zip(run.steps, golden.steps, strict=False) if _sketched(mine, theirs)]
    if not pairs:
        return None
    spread = (WIDTH - LEFT - RIGHT) / len(pairs)
    dots = tuple(
        Dot(
            index=mine.index,
            x=round(LEFT + spread * (place + 0.5), 1),
            y=_y(distance := relative_distance(mine.latent_sketch, theirs.latent_sketch)),
            distance=distance,
            expert=mine.expert,
            timestep=mine.timestep,
        )
        for place, (mine, theirs) in enumerate(pairs)
    )
    first = next((dot for dot in dots if dot.distance > ONSET), None)
    return Divergence(
        dots=dots,
        points=polyline([dot.x for dot in dots], [dot.y for dot in dots]),
        bands=_bands(dots, spread),
        ticks=tuple((_y(10.0**power), f"1e{power}" if power else "1") for power in range(DECADES[0], DECADES[1], 2)),
        onset_y=_y(ONSET),
        first=first,
        sentence=_sentence(dots, first),
    )


def relative_distance(mine: tuple[float, ...], theirs: tuple[float, ...]) -> float:
    """|mine - theirs| / |theirs|, L2; infinite where only ``theirs`` is zero."""
    norm = math.hypot(*theirs)
    gap = math.dist(mine, theirs)
    return gap / norm if norm > 0 else (0.0 if gap == 0 else math.inf)


def _sketched(mine: Step, theirs: Step) -> bool:
    return bool(mine.latent_sketch) and len(mine.latent_sketch) == len(theirs.latent_sketch)


def _y(distance: float) -> float:
    low, high = DECADES
    power = low if distance <= 0 else min(max(math.log10(distance), low), high) if math.isfinite(distance) else high
    return round(HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * (power - low) / (high - low), 1)


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
