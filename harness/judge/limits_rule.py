"""Compare measured values with the limits of the case."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from harness.judge.evidence import Evidence
from harness.limits.distance import distance
from harness.limits.probes import MEASURES
from harness.records.frames import MetricResult
from harness.records.limits import Limit, LimitCheck, LimitFile
from harness.records.verdict import Finding

# Compare two limit files: failures that only one of them lets through, and files that let every frame through.


_MEASURES = frozenset(measure.name for measure in MEASURES)


def of_frames(file: LimitFile) -> tuple[Limit, ...]:
    """Return the limits of frame metrics, without those of probes and traces."""
    return tuple(limit for limit in file.limits if limit.metric not in _MEASURES)


def gates_nothing(frames: Sequence[Limit]) -> str:
    """Return a sentence on why no frame can fail under these limits; empty if a metric gates."""
    if any(limit.gates for limit in frames):
        return ""
    whys = dict.fromkeys(limit.why for limit in frames)
    return f"no metric gates, so that any frames would pass ({'; '.join(whys) or 'none has a limit'})"


def loosened(old: LimitFile | None, new: LimitFile) -> tuple[str, ...]:
    """Return one sentence per limit that lets more through than before, and one on the faults no longer detected."""
    if old is None:
        return ()
    sentences = []
    for limit in new.limits:
        before = old.get(limit.metric)
        # a metric that did not gate let everything through, so no limit of it is looser
        if before is None or before.limit is None:
            continue
        if limit.limit is None:
            sentences.append(f"{limit.metric}: {before.limit:.4g} -> does not gate")
        elif limit.direction != before.direction or not before.admits(limit.limit):
            sentences.append(f"{limit.metric}: {before.limit:.4g} -> {limit.limit:.4g}")
    gone = {limit.metric for limit in old.limits} - {limit.metric for limit in new.limits}
    sentences += [f"{name}: no longer measured" for name in sorted(gone)]
    lost = undetectable(old.limits, new.limits) if sentences else ()
    if lost:
        sentences.append(f"no longer found by frames: {', '.join(lost)}")
    return tuple(sentences)


def check_limits(evidence: Evidence) -> tuple[LimitCheck, ...]:
    """Return one check per measured metric that has a limit: the value compared with the limit."""
    golden, comparison = evidence.golden, evidence.comparison
    if golden is None or golden.limits is None or comparison is None:
        return ()
    limits = {limit.metric: limit for limit in golden.limits.limits}
    return tuple(_check(limits[metric.name], metric) for metric in comparison.metrics if metric.name in limits)


def _check(limit: Limit, metric: MetricResult) -> LimitCheck:
    value = metric.gating_value
    return LimitCheck(
        metric=metric.name,
        value=value,
        limit=limit.limit,
        direction=limit.direction,
        gates=limit.gates,
        passed=value is not None and limit.admits(value),
        frame=metric.worst_frame,
        margin_consumed=_consumed(limit, metric),
    )


def _consumed(limit: Limit, metric: MetricResult) -> float | None:
    """Return the share of the distance from the ideal value to the limit that the worst frame uses up.

    Linear in the error for every metric: decibels are compared as root mean square levels, so that 45 dB against a
    limit of 29 dB uses 16 % of the margin.
    """
    value = metric.gating_value
    if limit.limit is None or value is None:
        return None
    room, used = distance(metric, limit.limit), distance(metric, value)
    # a limit at the ideal value has no room: the ideal uses none of it, and any other value has no share
    return used / room if room > 0 else (0.0 if used <= 0 else None)


def judge_limits(evidence: Evidence, checks: tuple[LimitCheck, ...]) -> Iterator[Finding]:
    """Yield a finding per gating metric outside its limit, and per metric that could not be computed."""
    comparison, golden = evidence.comparison, evidence.golden
    if comparison is None or golden is None:
        return
    for metric in comparison.not_computed():
        message = f"{metric.name} was asked for and could not be computed: {metric.why}"
        yield Finding(stage="frames", code="metric_not_computed", gating=True, message=message)
    for check in checks:
        if check.value is None or check.passed or not check.gates or check.limit is None:
            continue
        side = "below" if check.direction == "higher_is_better" else "above"
        at = f" at frame {check.frame}" if check.frame is not None else ""
        yield Finding(
            stage="frames",
            code=f"{check.metric}_{side}_limit",
            gating=True,
            message=f"{check.metric} is {check.value:.4g}{at}, {side} its limit of {check.limit:.4g}",
            data={"metric": check.metric, "value": check.value, "limit": check.limit, "frame": check.frame},
        )


def limits_problem(evidence: Evidence) -> Finding | None:
    """Return why the limits cannot gate: absent, of another golden, incomplete, or without any gating metric.

    A bit-exact run is checked too, because missing limits would otherwise stay unnoticed until the output differs.
    """
    golden, comparison = evidence.golden, evidence.comparison
    if golden is None or comparison is None:
        return None
    if golden.limits is None:
        return _problem("limits_missing", "there is a golden and there are no limits for it on this runner")
    if golden.digest not in golden.limits.goldens:
        message = (
            f"the limits were measured against golden {golden.limits.golden_digest[:12]}, "
            f"and the golden is {golden.digest[:12]}"
        )
        return _problem("limits_of_another_golden", message)
    absent = sorted({metric.name for metric in comparison.metrics} - {limit.metric for limit in golden.limits.limits})
    if absent:
        return _problem("limits_incomplete", f"no limit was measured for {', '.join(absent)}")
    measured = {metric.name for metric in comparison.metrics}
    if nothing := gates_nothing([limit for limit in golden.limits.limits if limit.metric in measured]):
        return _problem("limits_gate_nothing", nothing)
    return None


def _problem(code: str, message: str) -> Finding:
    return Finding(stage="limits", code=code, gating=True, message=message)


def undetectable(old: Sequence[Limit], new: Sequence[Limit]) -> tuple[str, ...]:
    """Return the known faulty runs that the old limits detect and the new ones let pass: the cost of loosening.

    The runs come from the samples of both files. A name is ``gain at 0.25`` (fault and strength), or the run's label.
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
