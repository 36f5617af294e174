"""Place limits by the rule ``tolerance_bound``: between the healthy runs and the injected faults.

The promise holds per case, not per metric: a share of healthy runs passes all limits of the case. So the share that may
fail is divided among its metrics (Bonferroni). The healthy side of each metric ends at a tolerance bound for its part,
and never below the smallest change that eight bits can show.

The limit lies at ``ROOM`` times that distance. It is placed nearer only for a fault that no metric of the case would
find with full room: then it lies no further than the geometric mean of the healthy end and the nearest such fault that
this metric separates from healthy runs at full strength. If every metric came nearer for every fault that it barely
separates, healthy runs would fail without need.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import median

from harness.limits.distance import distance, value_at
from harness.limits.tolerance import Bound, covered_by_worst, runs_needed, tolerance_bound
from harness.records.base import Json
from harness.records.frames import MetricResult
from harness.records.limits import Limit, Sample

# Detect a bistable case: if a request has several correct results, the distances of its runs form several clusters.


SEPARATION = 4.0
LEAST = 3


@dataclass(frozen=True)
class Mode:
    """One cluster of runs."""

    runs: tuple[float, ...]
    """Distances, sorted."""

    @property
    def center(self) -> float:
        """Return the median distance."""
        return float(median(self.runs))


def find_modes(distances: Sequence[float]) -> tuple[Mode, ...]:
    """Return the clusters of these runs, nearest first; a single one if no gap separates them.

    Args:
        distances: distances of all runs. Bit-identical runs count each, because the frequency of a mode matters.
    """
    ordered = sorted(distances)
    gaps = sorted(range(1, len(ordered)), key=lambda place: ordered[place - 1] - ordered[place])
    # the fewest clusters first: more of them would explain the same runs with less evidence each
    for count in range(1, len(ordered) // LEAST):
        edges = [0, *sorted(gaps[:count]), len(ordered)]
        heaps = [ordered[start:stop] for start, stop in pairwise(edges)]
        if _apart(heaps):
            return tuple(Mode(tuple(heap)) for heap in heaps)
    return (Mode(tuple(ordered)),)


def _apart(heaps: Sequence[Sequence[float]]) -> bool:
    """Return whether the least gap between two clusters is over `SEPARATION` times the width of the widest cluster."""
    width = max(heap[-1] - heap[0] for heap in heaps)
    room = min(after[0] - before[-1] for before, after in pairwise(heaps))
    # A gap as small as rounding does not separate clusters, even if every cluster has width 0.
    return min(map(len, heaps)) >= LEAST and room > max(SEPARATION * width, 1e-9 * max(1.0, abs(heaps[-1][-1])))


METHOD = "tolerance_bound"
COVERAGE = 0.99
CONFIDENCE = 0.95
ROOM = 2.0
LEAST_RUNS = 6
"""Least number of distinct healthy runs for this rule: k of normal theory is 5.1 there and grows fast below."""


@dataclass(frozen=True)
class Rule:
    """The constants of the rule; all of them are written to the limit file."""

    coverage: float = COVERAGE
    """Share of healthy runs that pass every limit of the case."""
    confidence: float = CONFIDENCE
    room: float = ROOM

    def share(self, metrics: int) -> float:
        """Return the share of healthy runs that each of ``metrics`` metrics must cover.

        Example: a coverage of 0.99 and 5 metrics give 0.998.
        """
        return 1.0 - (1.0 - self.coverage) / metrics


@dataclass(frozen=True)
class Sides:
    """Healthy and faulty side of one metric, before its limit is placed. All values are distances."""

    bound: Bound
    modes: tuple[Mode, ...]
    floor: float
    """Smallest change that eight bits can show."""
    strongest: Mapping[str, float]
    """Per fault, the distance of the nearest run at the greatest strength that was tried."""

    @property
    def end(self) -> float:
        """Return the distance at which the healthy side ends."""
        return max(self.bound.value, self.floor)

    @property
    def separable(self) -> dict[str, float]:
        """Return the faults beyond the healthy side, with their distances."""
        return {fault: near for fault, near in self.strongest.items() if near > self.end}

    def found_with(self, room: float) -> frozenset[str]:
        """Return the faults that a limit at ``room`` times the healthy end would find."""
        return frozenset(fault for fault, near in self.strongest.items() if near > room * self.end)


def distinct(samples: Sequence[Sample]) -> tuple[Sample, ...]:
    """Return the healthy samples of real runs, each set of frames once. A sample without digest counts as distinct."""
    by_clip: dict[str, Sample] = {}
    for index, sample in enumerate(samples):
        if sample.side == "benign" and not sample.drawn:
            by_clip.setdefault(sample.clip or f"#{index}", sample)
    return tuple(by_clip.values())


def place_together(
    rows: Sequence[tuple[MetricResult, Sequence[Sample]]], rule: Rule | None = None
) -> tuple[Limit, ...]:
    """Place the limits of the metrics of one case.

    If faults were injected and a metric separates none of them from healthy runs, it does not gate, and ``why`` names
    them. If no fault was injected, it gates, and the margin to the faulty side is unknown.

    Args:
        rows: any result of each metric (name, direction, ideal and unit are read), and its gating values: healthy runs,
            drawn floors, and faulty runs with fault and strength.
        rule: constants of the rule; default `Rule`.

    Raises:
        ValueError: a metric has no healthy run.
    """
    rule = rule or Rule()
    sides_by_metric = [_sides(metric, samples, rule, len(rows)) for metric, samples in rows]
    detected = frozenset[str]().union(*(sides.found_with(rule.room) for sides in sides_by_metric))
    return tuple(
        _limit(metric, samples, sides, rule, len(rows), detected)
        for (metric, samples), sides in zip(rows, sides_by_metric, strict=True)
    )


def _sides(metric: MetricResult, samples: Sequence[Sample], rule: Rule, metrics: int) -> Sides:
    """Compute the healthy and the faulty side of one of ``metrics`` metrics."""
    runs = distinct(samples)
    if not runs:
        raise ValueError(f"{metric.name}: a limit needs at least one healthy run")
    modes = find_modes([distance(metric, run.value) for run in samples if run.side == "benign" and not run.drawn])
    # repeats of one set of frames are one observation: counting each would promise too much
    bound = _bound([distance(metric, sample.value) for sample in runs], modes, rule.share(metrics), rule.confidence)
    floor = max((distance(metric, run.value) for run in samples if run.drawn and run.side == "benign"), default=0.0)
    return Sides(bound, modes, floor, _strongest(metric, samples))


def _bound(distances: Sequence[float], modes: Sequence[Mode], coverage: float, confidence: float) -> Bound:
    """Return the tolerance bound; of several modes the farthest. No mean or deviation is taken across modes."""
    if len(modes) == 1:
        return tolerance_bound(distances, coverage, confidence)
    heaps = [[distance for distance in distances if mode.runs[0] <= distance <= mode.runs[-1]] for mode in modes]
    return max((tolerance_bound(heap, coverage, confidence) for heap in heaps if heap), key=lambda bound: bound.value)


def _strongest(metric: MetricResult, samples: Sequence[Sample]) -> dict[str, float]:
    """Return, per fault, the least distance among its runs at the greatest strength that was tried."""
    heaps: dict[str, list[Sample]] = {}
    for sample in samples:
        if sample.side == "faulty":
            heaps.setdefault(sample.fault or sample.run, []).append(sample)
    return {
        fault: min(
            distance(metric, sample.value)
            for sample in heap
            if sample.strength == max((other.strength for other in heap if other.strength is not None), default=None)
        )
        for fault, heap in heaps.items()
    }


def _between(end: float, fault: float | None, room: float) -> float:
    return room * end if fault is None else min(room * end, math.sqrt(end * fault) if end > 0 else 0.0)


def _limit(
    metric: MetricResult, samples: Sequence[Sample], sides: Sides, rule: Rule, metrics: int, detected: frozenset[str]
) -> Limit:
    """Build the limit of one metric. ``detected`` are the faults that some metric finds with full room."""
    needed = [near for fault, near in sides.separable.items() if fault not in detected]
    gates = bool(sides.separable) or not sides.strongest
    dist = _between(sides.end, min(needed, default=None), rule.room) if gates else None
    limit = None if dist is None else value_at(metric, dist)
    bound, modes = sides.bound, sides.modes
    inseparable = tuple(sorted(set(sides.strongest) - set(sides.separable)))
    parameters: dict[str, Json] = {
        "coverage": rule.coverage,
        "metrics": metrics,
        "share": round(bound.coverage, 6),
        "confidence": rule.confidence,
        "room": rule.room,
        "way": bound.way,
        "n": bound.n,
        "attained": round(bound.attained, 6),
        "bound": value_at(metric, bound.value),
        "floor": value_at(metric, sides.floor),
        "cannot_tell": list(inseparable),
    }
    if bound.k is not None:
        parameters["k"] = round(bound.k, 4)
    if len(modes) > 1:
        parameters["modes"] = [{"value": value_at(metric, mode.center), "runs": len(mode.runs)} for mode in modes]
    worst = max(distance(metric, sample.value) for sample in samples if sample.side == "benign")
    faulty = [distance(metric, run.value) for run in samples if run.side == "faulty"]
    # a fault on the healthy side of the line is missed anyway, and gives no margin
    beyond = [distance for distance in faulty if dist is not None and distance > dist]
    line = value_at(metric, worst if dist is None else dist)
    return Limit(
        metric=metric.name,
        direction=metric.gating_direction,
        gates=dist is not None,
        limit=limit,
        unit=metric.unit,
        samples=tuple(samples),
        method=METHOD,
        parameters=parameters,
        margin_benign=abs(value_at(metric, worst) - line),
        margin_faulty=abs(value_at(metric, min(beyond)) - line) if beyond else None,
        why="" if dist is not None else _why(metric, bound, inseparable),
    )


def _why(metric: MetricResult, bound: Bound, untold: tuple[str, ...]) -> str:
    return (
        f"healthy runs reach {value_at(metric, bound.value):.4g}, and no injected fault lies beyond that at full "
        f"strength: {metric.name} cannot see {', '.join(untold)} here"
    )


def keeps_promise(limit: Limit) -> bool:
    """Return whether the runs suffice for the promise of the rule; true for other rules, which promise nothing."""
    parameters = limit.parameters
    return limit.method != METHOD or float(str(parameters["attained"])) >= float(str(parameters["share"]))


def promise(limit: Limit) -> str:
    """Return a sentence on the promise of a limit, or on why it is not kept; empty for other rules.

    The name of the metric is left out.
    """
    parameters = limit.parameters
    if limit.method != METHOD:
        return ""
    share, confidence = float(str(parameters["share"])), float(str(parameters["confidence"]))
    n = int(str(parameters["n"]))
    if keeps_promise(limit):
        how = "normal theory on" if parameters["way"] == "normal" else "the worst of"
        return f"{share:.2%} of healthy runs with {confidence:.0%} confidence, by {how} {n} runs"
    same = len({sample.value for sample in distinct(limit.samples)}) == 1
    quality = "all read the same, so that they cover" if same else "are not normally distributed; the worst covers"
    return (
        f"{n} distinct healthy runs {quality} {covered_by_worst(n, confidence):.1%} with {confidence:.0%} confidence, "
        f"and not the {share:.2%} that was asked for: that takes {runs_needed(share, confidence)}"
    )
