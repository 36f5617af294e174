"""Compares a candidate clip with its golden, metric by metric."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from harness.frames.clip import Clip
from harness.frames.errors import MetricUnavailableError
from harness.frames.metric import Measurement, Metric, Pair
from harness.frames.registry import find_metric, gating_names
from harness.frames.statistics import IMPLEMENTATION
from harness.records.frames import ComparisonEvidence, MetricResult


def compare(
    golden: Clip, candidate: Clip, metrics: Sequence[str | Metric] | None = None, *, threads: int | None = None
) -> ComparisonEvidence:
    """Compare every frame of ``candidate`` with the same frame of ``golden``.

    Clips whose pixels have one digest are bit-exact: every metric gets its ideal value without being measured.

    Args:
        golden: uint8 [T, H, W, 3].
        candidate: the same shape.
        metrics: names, or metric objects; by default all metrics that gate (`harness.frames.registry.gating_names`).
        threads: CPU threads, by default `harness.frames.statistics.usable_threads`.

    Raises:
        ClipMismatchError: the shapes differ: clips are never cut or resized to fit.
        UnknownMetricError: no package provides a metric of that name.
    """
    pair = Pair(golden, candidate, threads)
    chosen = [_metric(metric) for metric in metrics or gating_names()]
    bit_exact = golden.digest == candidate.digest
    if bit_exact:
        results = [_ideal_result(metric, frames=candidate.shape[0]) for metric in chosen]
    else:
        results = [_measure(metric, pair) for metric in chosen]
    return ComparisonEvidence(
        bit_exact=bit_exact,
        golden_sha256=golden.digest,
        candidate_sha256=candidate.digest,
        shape=candidate.shape,
        device="cpu",
        metrics=tuple(results),
    )


def describe(metric: str | Metric) -> MetricResult:
    """Return the result of a metric before it is measured: name, direction, unit and setting, without a value.

    Raises:
        UnknownMetricError: no package provides a metric of that name.
    """
    metric = _metric(metric)
    return MetricResult(
        name=metric.name,
        direction=metric.direction,
        unit=metric.unit,
        scope=metric.scope,
        setting=metric.setting,
        ideal=metric.ideal,
        status="not_computed",
        why="not measured yet",
    )


def _metric(metric: str | Metric) -> Metric:
    return find_metric(metric) if isinstance(metric, str) else metric


def _ideal_result(metric: Metric, frames: int) -> MetricResult:
    """Return the result of a metric on two equal clips."""
    values = (metric.ideal,) * frames if metric.scope == "frame" else ()
    update = {"status": "computed", "why": "", "implementation": "digest", "worst": metric.ideal, "mean": metric.ideal}
    return MetricResult.model_validate(describe(metric).model_dump() | update | {"per_frame": values})


def _measure(metric: Metric, pair: Pair) -> MetricResult:
    """Measure one metric. An exception in it becomes a ``not_computed`` result with the reason."""
    description = describe(metric)
    try:
        return _result(description, metric, metric.measure(pair), frames=pair.golden.shape[0])
    except MetricUnavailableError as error:
        return description.model_copy(update={"why": str(error)})
    except Exception as error:  # a plugin's mistake fails its case, with the reason, and not the whole session
        return description.model_copy(update={"why": f"{metric.name} raised {error!r}"})


def _result(description: MetricResult, metric: Metric, measurement: Measurement, frames: int) -> MetricResult:
    """Check a measurement against shape and valid range of its metric, and return the result.

    Raises:
        MetricUnavailableError: the measurement is not one value per frame (or clip), or outside the valid range.
    """
    per_frame = metric.scope == "frame"
    values = measurement.per_frame if per_frame else np.array([measurement.value], dtype=np.float64)
    if values is None or np.shape(values) != ((frames,) if per_frame else (1,)):
        raise MetricUnavailableError(
            f"{metric.name} did not give one value per {metric.scope}; this is a fault in the metric"
        )
    low, high = metric.valid_range
    # Rounding may carry a value just past the end of its range (an SSIM of 1.0000000002); it is clipped below.
    slack = 1e-6 * max(1.0, abs(low), abs(high)) if np.isfinite([low, high]).all() else 0.0
    outside = np.flatnonzero(~((values >= low - slack) & (values <= high + slack)))  # negated: NaN is outside, too
    if len(outside):
        raise MetricUnavailableError(
            f"{metric.name} gave {values[outside[0]]} at {outside[0]}, outside its valid range {low:g} to {high:g}"
        )
    values = np.clip(values, low, high)
    badness = {"higher_is_better": -values, "lower_is_better": values, "two_sided": np.abs(values - metric.ideal)}
    worst = int(np.argmax(badness[metric.direction]))
    update = {
        "status": "computed",
        "why": "",
        "implementation": measurement.implementation or IMPLEMENTATION,
        "worst": float(values[worst]),
        "mean": float(values.mean()),
        "worst_frame": worst if per_frame else measurement.frame,
        "worst_tile": measurement.tiles[worst] if measurement.tiles is not None else None,
        "per_frame": tuple(float(value) for value in values) if per_frame else (),
    }
    return MetricResult.model_validate(description.model_dump() | update)
