"""Place all limits of one case, and report the faults that a gate with them detects and misses."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from harness.limits.placing import LEAST_RUNS, Rule, distinct, keeps_promise, place_together, promise
from harness.records.frames import MetricResult
from harness.records.limits import ControlResult, Limit, Sample

# Detection: the least strength from which a fault is found.


@dataclass(frozen=True)
class Detection:
    """Detection of one fault, per strength."""

    fault: str
    shares: tuple[tuple[float, float, int], ...]
    """Rows of strength, share of runs found in [0, 1] and number of runs, sorted by rising strength."""

    def strength_for(self, share: float) -> float | None:
        """Return the least tried strength from which at least ``share`` of the runs are found at every tried strength.

        ``None`` if the strongest does not reach it. If a strength is found less often than a weaker one, the weaker
        one does not count: no curve is fitted. Example: shares 1.0 at 0.1, 0.5 at 0.5 and 1.0 at 1.0 return 1.0 for
        ``share`` 0.95.
        """
        answer = None
        for strength, found_share, _ in reversed(self.shares):
            if found_share < share:
                break
            answer = strength
        return answer


def detection(fault: str, runs: Iterable[tuple[float, bool]]) -> Detection:
    """Compute the shares per strength from pairs (strength, found) of single runs."""
    heaps: defaultdict[float, list[bool]] = defaultdict(list)
    for strength, detected in runs:
        heaps[strength].append(detected)
    rows = tuple((strength, sum(heap) / len(heap), len(heap)) for strength, heap in sorted(heaps.items()))
    return Detection(fault, rows)


# The rule ``repeats``: place a limit twice as far from the ideal value as the worst healthy run.


METHOD = "repeats"
FACTOR = 2.0
"""Room beyond the worst healthy run, as a multiple of its distance from the ideal value."""
LEAST_ROOM = 0.01
"""Least distance of a limit from the ideal value, for a metric without unit (SSIM, the ratios): 1 % of its scale.
If every healthy run is bit-exact, their spread is zero and predicts nothing for the next machine."""
DECIBEL = "dB"


def place(metric: MetricResult, samples: Sequence[Sample]) -> Limit:
    """Place the limit of one metric by the rule ``repeats``.

    Args:
        metric: any result of the metric; name, direction, ideal and unit are read.
        samples: gating values of runs, at least one of them healthy. Faulty ones set ``margin_faulty`` only.

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
        # A factor on the amplitude of the error is a difference in decibels: FACTOR 2 is 20 * log10(2), about 6 dB.
        return worst - 6.0 if higher else worst + 6.0
    ideal = 0.0 if metric.direction == "two_sided" else metric.ideal
    room = FACTOR * abs(worst - ideal)
    if not metric.unit:
        room = max(room, LEAST_ROOM)
    return ideal - room if higher else ideal + room


Samples = Mapping[str, Sequence[Sample]]
"""Samples by metric. One run gives every metric a sample, under the same label."""


def place_limits(metrics: Sequence[MetricResult], samples: Samples, rule: Rule | None = None) -> tuple[Limit, ...]:
    """Place a limit per metric: by ``tolerance_bound`` if enough distinct healthy runs are known, else ``repeats``.

    Args:
        metrics: any result of each metric.
        samples: samples per metric name.
        rule: constants of ``tolerance_bound``.
    """
    enough = [metric for metric in metrics if len(distinct(samples[metric.name])) >= LEAST_RUNS]
    together = place_together([(metric, samples[metric.name]) for metric in enough], rule)
    placed = {limit.metric: limit for limit in together}
    return tuple(placed.get(metric.name) or place(metric, samples[metric.name]) for metric in metrics)


def control_results(limits: Sequence[Limit]) -> tuple[ControlResult, ...]:
    """Compute the detection per injected fault. A run counts as found if any limit does not admit its value."""
    runs: dict[tuple[str, float], dict[str, set[str]]] = {}
    for limit in limits:
        for sample in limit.samples:
            if sample.side == "faulty" and sample.fault and sample.strength is not None:
                metrics = runs.setdefault((sample.fault, sample.strength), {}).setdefault(sample.run, set())
                if not limit.admits(sample.value):
                    metrics.add(limit.metric)
    return tuple(_control(fault, runs) for fault in sorted({fault for fault, _ in runs}))


def _control(fault: str, runs: Mapping[tuple[str, float], Mapping[str, set[str]]]) -> ControlResult:
    values_by_strength = {strength: by_run for (name, strength), by_run in runs.items() if name == fault}
    detection_shares = detection(
        fault,
        [
            (strength, bool(detecting_metrics))
            for strength, by_run in values_by_strength.items()
            for detecting_metrics in by_run.values()
        ],
    )
    strongest = values_by_strength[max(values_by_strength)].values()
    return ControlResult(
        fault=fault,
        detected={f"{strength:g}": share for strength, share, _ in detection_shares.shares},
        runs=sum(count for _, _, count in detection_shares.shares),
        strength_50=detection_shares.strength_for(0.5),
        strength_95=detection_shares.strength_for(0.95),
        metrics=tuple(sorted(set.intersection(*map(set, strongest)))),
    )


def notes(limits: Sequence[Limit], controls: Sequence[ControlResult]) -> tuple[str, ...]:
    """Return one sentence per promise that the limits do not keep and per weakness of the gate."""
    sentences: list[str] = []
    few = [limit.metric for limit in limits if limit.method == "repeats"]
    if few:
        runs = max(len(distinct(limit.samples)) for limit in limits if limit.method == "repeats")
        sentences.append(
            f"only {runs} distinct healthy runs are known, and a tolerance bound takes {LEAST_RUNS}: these limits "
            f"state no confidence ({', '.join(few)})"
        )
    weak: dict[str, list[str]] = {}
    for limit in limits:
        if not keeps_promise(limit):
            weak.setdefault(promise(limit), []).append(limit.metric)
    sentences += [f"{', '.join(metrics)}: {why}" for why, metrics in weak.items()]
    for limit in limits:
        modes = limit.parameters.get("modes")
        if isinstance(modes, list):
            places = ", ".join(f"{_number(mode, 'value'):.4g} ({_number(mode, 'runs'):.0f} runs)" for mode in modes)
            sentences.append(
                f"{limit.metric} has {len(modes)} modes: {places}; accept a golden of each with "
                "`quantgate accept CASE --also --reason '...'`, so that a run is held against the nearest"
            )
    sentences += [f"{limit.metric} does not gate: {limit.why}" for limit in limits if not limit.gates]
    blind = [control.fault for control in controls if control.strength_95 is None]
    if blind:
        sentences.append(f"frames alone cannot see, even at full strength: {', '.join(blind)}")
    return tuple(sentences)


def _number(mode: object, name: str) -> float:
    return float(mode[name]) if isinstance(mode, dict) else 0.0
