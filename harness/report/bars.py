"""Draw limits as bars: the share of the way from the best value to the limit that a measurement uses up."""

from __future__ import annotations

from dataclasses import dataclass

from harness.records.case_record import CaseRecord
from harness.records.frames import MetricResult
from harness.records.limits import LimitCheck
from harness.report.text import is_control, number, percent

BAR_WIDTH = 120.0
LIMIT_AT = 80.0
"""Position of the limit on a bar of ``BAR_WIDTH``: a third of the bar is left for values beyond the limit."""


@dataclass(frozen=True)
class Bar:
    """One row of the limits table."""

    metric: str
    unit: str
    value: str
    limit: str
    sign: str
    """``≥`` or ``≤``: the side of the limit on which the value must lie."""
    frame: int | None
    consumed: str
    width: float
    beyond: bool
    """Whether the bar is cut, because the value lies further out than the bar can show."""
    state: str
    """``passed``, ``failed``, ``expected`` (a negative control breaks it, as it must), ``shown`` (does not gate),
    ``none`` (measured, no limit), ``missing`` (not computed)."""
    note: str


def bars(record: CaseRecord) -> tuple[Bar, ...]:
    """Return the bars of a case: failed limits first, then passed limits (least room first), then limits that do not
    gate, then metrics without a limit.
    """
    metrics = {metric.name: metric for metric in (record.comparison.metrics if record.comparison else ())}
    ranked = sorted(record.limits, key=_rank)
    rows = [_bar(check, metrics.get(check.metric), is_control(record)) for check in ranked]
    named = {check.metric for check in record.limits}
    rows.extend(_unlimited(metric) for name, metric in metrics.items() if name not in named)
    return tuple(rows)


def _rank(check: LimitCheck) -> tuple[int, float, str]:
    order = 2 if not check.gates else (1 if check.passed else 0)
    return order, -(check.margin_consumed or 0.0), check.metric


def _bar(check: LimitCheck, metric: MetricResult | None, control: bool) -> Bar:
    width = LIMIT_AT * (check.margin_consumed or 0.0)
    state = "shown" if not check.gates else ("passed" if check.passed else "failed")
    # a negative control must break its limits: that is no failure
    if control and state == "failed":
        state = "expected"
    if check.value is None:
        state = "missing"
    return Bar(
        metric=check.metric,
        unit=metric.unit if metric else "",
        value=number(check.value),
        limit=number(check.limit),
        sign="≥" if check.direction == "higher_is_better" else "≤",
        frame=check.frame,
        consumed=percent(check.margin_consumed),
        width=min(width, BAR_WIDTH),
        beyond=width > BAR_WIDTH,
        state=state,
        note={"shown": "does not gate", "expected": "broken, as it must"}.get(state, ""),
    )


def _unlimited(metric: MetricResult) -> Bar:
    return Bar(
        metric=metric.name,
        unit=metric.unit,
        value=number(metric.worst),
        limit="–",
        sign="",
        frame=metric.worst_frame,
        consumed="–",
        width=0.0,
        beyond=False,
        state="missing" if metric.status == "not_computed" else "none",
        note=metric.why or "no limit",
    )
