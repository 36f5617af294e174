"""All limits of one case, and what a gate with them can and cannot see."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from harness.judge.calibration.placing import (
    LEAST_RUNS,
    Rule,
    distinct,
    keeps_promise,
    place_together,
    promise,
)
from harness.judge.calibration.strength import detection
from harness.judge.placement import place
from harness.records.frames import MetricResult
from harness.records.limits import ControlResult, Limit, Sample

Samples = Mapping[str, Sequence[Sample]]
"""Samples by metric. One run gives every metric a sample, under the same label."""


def place_limits(metrics: Sequence[MetricResult], samples: Samples, rule: Rule | None = None) -> tuple[Limit, ...]:
    """A limit for every metric: by ``tolerance_bound`` where enough distinct healthy runs are known, else ``repeats``.

    Args:
        metrics: any result of each.
        samples: by metric name.
        rule: constants of ``tolerance_bound``.
    """
    enough = [metric for metric in metrics if len(distinct(samples[metric.name])) >= LEAST_RUNS]
    together = place_together([(metric, samples[metric.name]) for metric in enough], rule)
    placed = {limit.metric: limit for limit in together}
    return tuple(placed.get(metric.name) or place(metric, samples[metric.name]) for metric in metrics)


def control_results(limits: Sequence[Limit]) -> tuple[ControlResult, ...]:
    """What the gating limits make of every injected fault: a run is found where any of them finds it."""
    runs: dict[tuple[str, float], dict[str, set[str]]] = {}
    for limit in limits:
        for sample in limit.samples:
            if sample.side == "faulty" and sample.fault and sample.strength is not None:
                seen = runs.setdefault((sample.fault, sample.strength), {}).setdefault(sample.run, set())
                if not limit.admits(sample.value):
                    seen.add(limit.metric)
    return tuple(_control(fault, runs) for fault in sorted({fault for fault, _ in runs}))


def _control(fault: str, runs: Mapping[tuple[str, float], Mapping[str, set[str]]]) -> ControlResult:
    mine = {strength: by_run for (name, strength), by_run in runs.items() if name == fault}
    found = detection(fault, [(strength, bool(seen)) for strength, by_run in mine.items() for seen in by_run.values()])
    strongest = mine[max(mine)].values()
    return ControlResult(
        fault=fault,
        found={f"{strength:g}": share for strength, share, _ in found.shares},
        runs=sum(count for _, _, count in found.shares),
        strength_50=found.strength_for(0.5),
        strength_95=found.strength_for(0.95),
        metrics=tuple(sorted(set.intersection(*map(set, strongest)))),
    )


def notes(limits: Sequence[Limit], controls: Sequence[ControlResult]) -> tuple[str, ...]:
    """What the limits do not promise, and what the gate cannot see, a sentence each."""
    said: list[str] = []
    few = [limit.metric for limit in limits if limit.method == "repeats"]
    if few:
        runs = max(len(distinct(limit.samples)) for limit in limits if limit.method == "repeats")
        said.append(
            f"only {runs} distinct healthy runs are known, and a tolerance bound takes {LEAST_RUNS}: these limits "
            f"state no confidence ({', '.join(few)})"
        )
    weak: dict[str, list[str]] = {}
    for limit in limits:
        if not keeps_promise(limit):
            weak.setdefault(promise(limit), []).append(limit.metric)
    said += [f"{', '.join(metrics)}: {why}" for why, metrics in weak.items()]
    for limit in limits:
        modes = limit.parameters.get("modes")
        if isinstance(modes, list):
            where = ", ".join(f"{_number(mode, 'value'):.4g} ({_number(mode, 'runs'):.0f} runs)" for mode in modes)
            said.append(
                f"{limit.metric} has {len(modes)} modes: {where}; accept a golden of each with "
                "`quantgate accept CASE --also --reason '...'`, so that a run is held against the nearest"
            )
    said += [f"{limit.metric} does not gate: {limit.why}" for limit in limits if not limit.gates]
    blind = [control.fault for control in controls if control.strength_95 is None]
    if blind:
        said.append(f"frames alone cannot see, even at full strength: {', '.join(blind)}")
    return tuple(said)


def _number(mode: object, name: str) -> float:
    return float(mode[name]) if isinstance(mode, dict) else 0.0


def undetectable(old: Sequence[Limit], new: Sequence[Limit]) -> tuple[str, ...]:
    """Known faulty runs that the old limits find and the new ones let pass: what loosening costs.

    The samples of both files are asked; a run is named as ``fault at strength`` or by its label.
    """
    runs: dict[str, dict[str, float]] = {}
    for limit in (*old, *new):
        for sample in limit.samples:
            if sample.side == "faulty":
                name = sample.run if sample.strength is None else f"{sample.fault} at {sample.strength:g}"
                runs.setdefault(name, {}).setdefault(limit.metric, sample.value)
    lost = [name for name, values in runs.items() if _finds(old, values) and not _finds(new, values)]
    return tuple(sorted(lost))


def _finds(limits: Sequence[Limit], values: Mapping[str, float]) -> bool:
    return any(limit.metric in values and not limit.admits(values[limit.metric]) for limit in limits)
