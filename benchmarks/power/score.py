"""From results to numbers: false alarms and detection, with what the number of prompts and seeds allows to say."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from pydantic import TypeAdapter

from benchmarks.power.result import Result
from benchmarks.power.rules import severity
from harness.frames.compare import describe
from harness.limits.distance import distance
from harness.limits.file import place_limits
from harness.limits.placing import Rule
from harness.limits.probes import place_all
from harness.records.limits import Limit, Sample

OURS, FRAMES = "quantgate, all stages", "quantgate, frames alone"
Scorer = Callable[[Result], float]
"""Above 1 exactly where the rule fails the output; infinite where it is no matter of degree."""
RESAMPLES = 2000


@dataclass(frozen=True)
class Gate:
    """The harness's gate for one case: limits from its calibration runs alone."""

    limits: tuple[Limit, ...]
    probes: tuple[Limit, ...]

    def frames(self, result: Result) -> float:
        """Severity of the frames."""
        if result.error:
            return float("inf")
        return max((_ratio(limit, result.values.get(limit.metric)) for limit in self.limits), default=0.0)

    def all_stages(self, result: Result) -> float:
        """Severity of everything: that of the frames, and infinite where anything before them fails.

        So it is the limits of the frames that are scaled where rules are compared at equal false alarms; what the
        stages before them alarm about stays an alarm.
        """
        probes = [_ratio(limit, result.probes[limit.metric]) for limit in self.probes if limit.metric in result.probes]
        if result.said or max(probes, default=0.0) > 1:
            return float("inf")
        return self.frames(result)

    def named(self, result: Result) -> tuple[str, ...]:
        """Codes of everything that the gate says."""
        broken = [
            f"{limit.metric}_limit" for limit in self.limits if _ratio(limit, result.values.get(limit.metric)) > 1
        ]
        off = [limit.metric for limit in self.probes if _ratio(limit, result.probes.get(limit.metric, 0.0)) > 1]
        return (*result.said, *off, *broken)


def read_some(paths: Iterable[Path]) -> list[Result]:
    """The results of these files, as far as they are there."""
    rows: list[Result] = []
    for path in paths:
        if path.exists():
            rows += TypeAdapter(list[Result]).validate_json(path.read_bytes())
    return rows


def gate_of(rows: Iterable[Result], rule: Rule | None = None) -> Gate:
    """Place the limits of one case from its calibration runs, controls and drawn samples."""
    limited = [row for row in rows if row.side in ("calibration", "control", "drawn")]
    metrics = [describe(name) for name in next(row for row in limited if row.side == "calibration").values]
    samples = {metric.name: [_sample(row, metric.name) for row in limited] for metric in metrics}
    healthy = [row for row in limited if row.side == "calibration"]
    probes: dict[str, list[Sample]] = defaultdict(list)
    for row in healthy:
        for name, value in row.probes.items():
            probes[name].append(Sample(value=value, run=row.name, side="benign"))
    return Gate(place_limits(metrics, samples, rule), place_all(probes))


def _sample(row: Result, metric: str) -> Sample:
    control = row.side == "control"
    return Sample(
        value=row.values[metric],
        run=f"{row.name}@{row.strength}" if control else row.name,
        side="faulty" if control else "benign",
        clip=row.clip,
        drawn=row.side == "drawn",
        fault=row.name if control else "",
        strength=row.strength if control else None,
    )


def _ratio(limit: Limit, value: float | None) -> float:
    """Distance of a value in distances of its limit."""
    if limit.limit is None:
        return 0.0
    if value is None:
        return float("inf")
    least = 0.0 if limit.admits(value) else 1.0 + 1e-9
    relative = limit.unit == "relative"
    far, near = (
        (value, limit.limit) if relative else (distance(describe(limit.metric), x) for x in (value, limit.limit))
    )
    if near <= 0:
        return float("inf") if least else 0.0
    return max(far / near, least) if least else min(far / near, 1.0)


def scorers(rows: Sequence[Result], rule: Rule | None = None) -> tuple[dict[str, Scorer], dict[tuple[int, int], Gate]]:
    """Every rule as a score of results, ours first; and our gates by case."""
    cases = sorted({row.case for row in rows if row.side == "calibration"})
    gates = {case: gate_of([row for row in rows if row.case == case], rule) for case in cases}
    by_rule: dict[str, Scorer] = {
        OURS: lambda row: gates[row.case].all_stages(row),
        FRAMES: lambda row: gates[row.case].frames(row),
    }
    names = sorted({name for row in rows for name in row.peers})
    for name in names:
        by_rule[name] = _peer(name)
    return by_rule, gates


def _peer(name: str) -> Scorer:
    def score(row: Result) -> float:
        if row.error:
            return float("inf")
        answer = row.peers[name]
        value = severity(name, answer)
        return min(value, 1.0) if answer.passed else max(value, 1.0 + 1e-9)

    return score


def distinct_benign(rows: Iterable[Result]) -> list[Result]:
    """Scored healthy runs; those of one case with the same frames are one run."""
    kept: dict[tuple[tuple[int, int], str], Result] = {}
    for row in rows:
        if row.side == "benign":
            before = kept.get((row.case, row.clip))
            if before is None or len(row.said) > len(before.said):
                kept[row.case, row.clip] = row
    return list(kept.values())


def upper_bound(alarms: int, runs: int, confidence: float = 0.95) -> float:
    """Exact (Clopper-Pearson) one-sided upper bound of a share."""
    from scipy.stats import beta

    return 1.0 if alarms >= runs else float(beta.ppf(confidence, alarms + 1, runs - alarms))


def clustered(rows: Sequence[Result], hit: Callable[[Result], bool], seed: int = 0) -> tuple[float, float, float]:
    """Share of hits and its 95 % interval: prompts are drawn with replacement, and within them seeds.

    Runs of one prompt and seed share golden and limits, so they are not independent: they stay together.
    """
    table: dict[int, dict[int, list[bool]]] = defaultdict(lambda: defaultdict(list))
    for row in rows:
        table[row.prompt][row.seed].append(hit(row))
    share = sum(sum(heap) for by_seed in table.values() for heap in by_seed.values()) / max(1, len(rows))
    sums = [[(sum(heap), len(heap)) for heap in by_seed.values()] for by_seed in table.values()]
    random, draws = np.random.default_rng(seed), []
    for _ in range(RESAMPLES):
        hits = total = 0
        for prompt in random.integers(0, len(sums), len(sums)):
            for index in random.integers(0, len(sums[prompt]), len(sums[prompt])):
                hits, total = hits + sums[prompt][index][0], total + sums[prompt][index][1]
        draws.append(hits / total)
    return share, float(np.quantile(draws, 0.025)), float(np.quantile(draws, 0.975))


def threshold_at(scores: Sequence[float], alarms: int) -> float:
    """The severity that at most ``alarms`` of these healthy scores exceed."""
    ordered = sorted(scores, reverse=True)
    return ordered[alarms] if alarms < len(ordered) else 0.0


def roc(benign: Sequence[float], faulty: Sequence[float]) -> list[tuple[float, float]]:
    """False-alarm rate and detection over all thresholds, from (0, ...) to (1, 1)."""
    bad = np.sort(np.asarray(faulty))
    points = []
    for alarms in range(len(benign) + 1):
        line = threshold_at(benign, alarms) if alarms < len(benign) else -1.0
        points.append((alarms / len(benign), float((bad > line).mean())))
    return points
