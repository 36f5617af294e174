"""Convert values of metrics to distances from the ideal value, and back."""

from __future__ import annotations

import math

from harness.records.frames import MetricResult

DECIBEL = "dB"
FULL_SCALE = 255.0
"""Amplitude of 0 dB, in 8-bit levels. Distances use amplitudes because these add; decibels are factors."""


def distance(metric: MetricResult, value: float) -> float:
    """Return the distance of a gating value from the ideal, at least 0, in the metric's unit.

    Decibels are converted to root mean square levels: 40 dB is 2.55 levels.

    Args:
        metric: any result of the metric; direction, ideal and unit are read.
        value: a ``gating_value``, finite.
    """
    if metric.unit == DECIBEL:
        return max(0.0, _amplitude(value) - _amplitude(metric.ideal))
    if metric.direction == "higher_is_better":
        return max(0.0, metric.ideal - value)
    return max(0.0, value - _ideal(metric))


def value_at(metric: MetricResult, dist: float) -> float:
    """Return the gating value at a distance from the ideal: the inverse of :func:`distance`."""
    if metric.unit == DECIBEL:
        return -20.0 * math.log10((dist + _amplitude(metric.ideal)) / FULL_SCALE)
    if metric.direction == "higher_is_better":
        return metric.ideal - dist
    return _ideal(metric) + dist


def _ideal(metric: MetricResult) -> float:
    """Return the ideal gating value; 0 for a two-sided metric, whose gating value is a distance already."""
    return 0.0 if metric.direction == "two_sided" else metric.ideal


def _amplitude(decibel: float) -> float:
    return float(FULL_SCALE * 10.0 ** (-decibel / 20.0))
