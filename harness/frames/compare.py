"""A candidate clip held against its golden, metric by metric."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from harness.frames.clip import Clip
from harness.frames.errors import MetricUnavailableError
from harness.frames.metric import Measurement, Metric, Pair
from harness.frames.registry import GATING, find_metric
from harness.frames.statistics import Implementation
from harness.records.frames import ComparisonEvidence, MetricResult


def compare(
    golden: Clip,
    candidate: Clip,
    metrics: Sequence[str | Metric] | None = None,
    device: str = "cpu",
    *,
    implementation: Implementation | None = None,
    threads: int | None = None,
) -> ComparisonEvidence:
    """Compare every frame of ``candidate`` with the same frame of ``golden``.

    Clips whose decoded pixels have one digest are bit-exact: every metric has its ideal value, and nothing else runs.

    Args:
        golden: uint8 [T, H, W, 3].
        candidate: the same shape.
        metrics: names, or metrics with settings of their own; the gating set by default.
        device: a torch device for the pass over the pixels.
        implementation: see `harness.frames.statistics.pair_statistics`.
        threads: CPU threads, by default the usable cores shared among the xdist workers.

    Raises:
        ClipMismatchError: the shapes differ: clips are never cut or resized to fit.
        UnknownMetricError: a name that no package provides.
    """
    pair = Pair(golden, candidate, device, implementation, threads)
    if golden.digest == candidate.digest:
        ideal = [_identical(metric, candidate.shape[0]) for metric in _chosen(metrics)]
        return _evidence(golden.digest, candidate, device, ideal)
    return _evidence(golden.digest, candidate, device, [_measure(metric, pair) for metric in _chosen(metrics)])


def _evidence(golden: str, candidate: Clip, device: str, results: Sequence[MetricResult]) -> ComparisonEvidence:
    """The record of these results against the golden of digest ``golden``, which has the candidate's shape."""
    return ComparisonEvidence(
        bit_exact=golden == candidate.digest,
        golden_sha256=golden,
        candidate_sha256=candidate.digest,
        shape=candidate.shape,
        device=device,
        metrics=tuple(results),
    )


def _chosen(metrics: Sequence[str | Metric] | None) -> list[Metric]:
    return [find_metric(metric) if isinstance(metric, str) else metric for metric in metrics or GATING]


def describe(metric: str | Metric) -> MetricResult:
    """What is known of a metric before anything was measured.

    Raises:
        UnknownMetricError: a name that no package provides.
    """
    metric = find_metric(metric) if isinstance(metric, str) else metric
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


def _identical(metric: Metric, count: int) -> MetricResult:
    values = (metric.ideal,) * count if metric.scope == "frame" else ()
    done = {"status": "computed", "why": "", "implementation": "digest", "worst": metric.ideal, "mean": metric.ideal}
    return MetricResult.model_validate(describe(metric).model_dump() | done | {"per_frame": values})


def _measure(metric: Metric, pair: Pair) -> MetricResult:
    base = describe(metric)
    try:
        found = metric.measure(pair)
        return _result(base, metric, found, pair)
    except MetricUnavailableError as error:
        return base.model_copy(update={"why": str(error)})
    except Exception as error:  # a plugin's mistake fails its case, with the reason, and not the session
        return base.model_copy(update={"why": f"{metric.name} raised {error!r}"})


def _result(base: MetricResult, metric: Metric, found: Measurement, pair: Pair) -> MetricResult:
    count = pair.golden.shape[0]
    values = found.per_frame if metric.scope == "frame" else np.array([found.value], dtype=np.float64)
    if values is None or np.shape(values) != ((count,) if metric.scope == "frame" else (1,)):
        raise MetricUnavailableError(
            f"{metric.name} did not give one value a {metric.scope}; this is a fault in the metric"
        )
    low, high = metric.valid_range
    slack = 1e-6 * max(1.0, abs(low), abs(high)) if np.isfinite([low, high]).all() else 0.0
    outside = np.flatnonzero(~((values >= low - slack) & (values <= high + slack)))
    if len(outside):
        raise MetricUnavailableError(
            f"{metric.name} gave {values[outside[0]]} at {outside[0]}, outside its valid range {low:g} to {high:g}"
        )
    values = np.clip(values, low, high)
    badness = {"higher_is_better": -values, "lower_is_better": values, "two_sided": np.abs(values - metric.ideal)}
    index = int(np.argmax(badness[metric.direction]))
    update = {
        "status": "computed",
        "why": "",
        "implementation": found.implementation or pair.implementation_used,
        "worst": float(values[index]),
        "mean": float(values.mean()),
        "worst_frame": index if metric.scope == "frame" else found.frame,
        "worst_tile": found.tiles[index] if found.tiles is not None else None,
        "per_frame": tuple(float(value) for value in values) if metric.scope == "frame" else (),
    }
    return MetricResult.model_validate(base.model_dump() | update)
