"""Where a limit goes, by the rule ``repeats``: twice as far from the ideal value as the worst healthy run.

A first rule, for cases of which only healthy runs are known. It states no confidence; the samples are in the file, so
that a better rule can place the limit anew from the same measurements.
"""

from __future__ import annotations

from collections.abc import Sequence

from harness.records.frames import MetricResult
from harness.records.limits import Limit, Sample

METHOD = "repeats"
FACTOR = 2.0
"""Room beyond the worst healthy run, as a multiple of its distance from the ideal value."""
LEAST_ROOM = 0.01
"""Least distance of a limit from the ideal value of a metric without unit (SSIM, the ratios): a percent of its scale.
Where every healthy run is bit-exact, their spread is zero and says nothing of the next machine."""
DECIBEL = "dB"


def place(metric: MetricResult, samples: Sequence[Sample]) -> Limit:
    """The limit of one metric.

    Args:
        metric: any result of it: name, direction, ideal and unit are read.
        samples: gating values of healthy runs, at least one.

    Raises:
        ValueError: no healthy sample.
    """
    benign = [sample.value for sample in samples if sample.side == "benign"]
    if not benign:
        raise ValueError(f"{metric.name}: a limit needs at least one healthy sample")
    higher = metric.gating_direction == "higher_is_better"
    worst = min(benign) if higher else max(benign)
    limit = _limit(metric, worst, higher)
    faulty = [sample.value for sample in samples if sample.side == "faulty"]
    nearest = (max(faulty) if higher else min(faulty)) if faulty else None
    sign = 1.0 if higher else -1.0
    return Limit(
        metric=metric.name,
        direction=metric.gating_direction,
        gates=True,
        limit=limit,
        unit=metric.unit,
        samples=tuple(samples),
        method=METHOD,
        parameters={"factor": FACTOR, "least_room": LEAST_ROOM if not metric.unit else 0.0},
        margin_benign=sign * (worst - limit),
        margin_faulty=None if nearest is None else sign * (limit - nearest),
    )


def _limit(metric: MetricResult, worst: float, higher: bool) -> float:
    if metric.unit == DECIBEL:
        # a factor on the error's amplitude is a difference in decibel
        return worst - 6.0 if higher else worst + 6.0
    ideal = 0.0 if metric.direction == "two_sided" else metric.ideal
    room = FACTOR * abs(worst - ideal)
    if not metric.unit:
        room = max(room, LEAST_ROOM)
    return ideal - room if higher else ideal + room
