"""Check that the run followed the schedule of the case. Needs no golden: the schedule is computed from the case."""

from __future__ import annotations

from collections.abc import Iterator

from harness.definitions.schedule import (
    RULES,
    SIGMA_TOLERANCE,
    TIMESTEP_TOLERANCE,
    Schedule,
    explain,
    schedule,
    switch_of,
    unmodelled,
)
from harness.judge.evidence import Evidence
from harness.records.base import Json
from harness.records.generation import Trace
from harness.records.verdict import Finding

SHOWN = 4
"""Number of values of each list in a message."""


def judge_schedule(evidence: Evidence) -> Iterator[Finding]:
    """Yield a finding if noise levels, timesteps or the switch of experts differ from those of the case.

    A backend that records no schedule (a foreign program, a server) is not judged by this rule.
    """
    if evidence.generation is None:
        return
    trace, case = evidence.generation.trace, evidence.case
    rule = RULES.get(str(trace.scheduler.get("class", "")))
    if not trace.steps or not trace.timesteps or not trace.sigmas or rule is None:
        return
    if setting := unmodelled(trace.scheduler):
        message = f"the scheduler's {setting} is not modelled: the schedule was compared with the golden's only"
        yield Finding(stage="trace", code="schedule_unmodelled", gating=False, message=message)
        return
    two = trace.boundary_ratio is not None
    boundary = case.scheduler.boundary_ratio if two else None
    planned = schedule(rule, case.sampling.num_inference_steps, case.scheduler.flow_shift, boundary)
    yield from _levels(trace, planned, evidence)
    yield from _switch(trace, planned, boundary)


def _levels(trace: Trace, planned: Schedule, evidence: Evidence) -> Iterator[Finding]:
    case = evidence.case
    steps, shift = case.sampling.num_inference_steps, case.scheduler.flow_shift
    same = len(trace.timesteps) == len(planned.timesteps) and len(trace.sigmas) == len(planned.sigmas)
    moved = not same or any(
        abs(value - other) > tolerance
        for actual_levels, levels, tolerance in (
            (trace.sigmas, planned.sigmas, SIGMA_TOLERANCE),
            (trace.timesteps, planned.timesteps, TIMESTEP_TOLERANCE),
        )
        for value, other in zip(actual_levels, levels, strict=True)
    )
    if not moved:
        return
    rule = RULES[str(trace.scheduler["class"])]
    likeness = explain(rule, steps, shift, trace.sigmas)
    message = (
        f"timesteps {_some(trace.timesteps)} were run; {steps} steps with a flow shift of {shift:g} are "
        f"{_some(planned.timesteps)}" + (f". What was run is {likeness}" if likeness else "")
    )
    data: dict[str, Json] = {
        "expected_timesteps": list(planned.timesteps),
        "timesteps": list(trace.timesteps),
        "expected_sigmas": list(planned.sigmas),
        "sigmas": list(trace.sigmas),
        "likeness": likeness,
    }
    yield Finding(stage="trace", code="schedule_differs", gating=True, message=message, data=data)


def _switch(trace: Trace, planned: Schedule, boundary: float | None) -> Iterator[Finding]:
    if boundary is None:
        return
    # If the timesteps differ, `_levels` reports them; compute the switch from those that ran, to not report it twice.
    expected = switch_of([step.timestep for step in trace.steps], boundary)
    low = (step.index for step in trace.steps if step.expert == "transformer_2")
    actual = next(low, len(trace.steps))
    if actual == expected:
        return
    first = trace.steps[min(actual, len(trace.steps) - 1)].timestep
    at_boundary = expected is not None and actual < expected and abs(first - boundary * 1000) < TIMESTEP_TOLERANCE
    why = "; the boundary itself went to the low-noise expert (<= in place of <)" if at_boundary else ""
    message = (
        f"the low-noise expert took over at step {actual} (timestep {first:g}); with a boundary of {boundary:g} it "
        f"takes over at step {expected}{why}"
    )
    data: dict[str, Json] = {"expected_switch": expected, "switch": actual, "planned_switch": planned.switch}
    yield Finding(stage="trace", code="schedule_differs", gating=True, message=message, data=data)


def _some(values: tuple[float, ...]) -> str:
    shown = ", ".join(f"{value:g}" for value in values[:SHOWN])
    return f"{shown}, ..." if len(values) > SHOWN else shown
