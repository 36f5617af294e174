"""Values of metrics as distances from the ideal, and back."""

from __future__ import annotations

import math

from harness.records.frames import MetricResult

DECIBEL = "dB"
FULL_SCALE = 255.0
"""A difference in decibel is a factor; its amplitude is additive. 0 dB is this amplitude, in levels."""


def distance(metric: MetricResult, value: float) -> float:
    """How far a gating value lies from the ideal: in the metric's unit, or, for decibels, root mean squared levels.

    Args:
        metric: any result of the metric: direction, ideal and unit are read.
        value: a ``gating_value``, finite.
    """
    if metric.unit == DECIBEL:
        return max(0.0, _amplitude(value) - _amplitude(metric.ideal))
    if metric.direction == "higher_is_better":
        return max(0.0, metric.ideal - value)
    return max(0.0, value - _ideal(metric))


def value_at(metric: MetricResult, dist: float) -> float:
    """The gating value that lies at a distance: the inverse of :func:`distance`."""
    if metric.unit == DECIBEL:
        return -20.0 * math.log10((dist + _amplitude(metric.ideal)) / FULL_SCALE)
    if metric.direction == "higher_is_better":
        return metric.ideal - dist
    return _ideal(metric) + dist


def _ideal(metric: MetricResult) -> float:
    """The gating value of a two-sided metric is its distance already."""
    return 0.0 if metric.direction == "two_sided" else metric.ideal


def _amplitude(decibel: float) -> float:
    return float(FULL_SCALE * 10.0 ** (-decibel / 20.0))
