"""Define the limited probe and trace measures. A limit is factor x worst healthy sample, at least a floor."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harness.records.generation import Trace
from harness.records.limits import Limit, Sample
from harness.records.probe import BROKEN, ProbeEvidence

METHOD = "repeats_with_floor"
Values = dict[str, float]


@dataclass(frozen=True)
class Measure:
    """One calibrated measure. All are relative errors: 0 is ideal, less is better."""

    name: str
    factor: float
    """Limit as a multiple of the worst healthy run."""
    floor: float
    """Least limit, for a machine whose healthy runs are all bit-exact: covers rounding in the compute dtype."""
    gates: bool = True
    why: str = ""


MODULE = Measure("probe_module_error", 2.0, 0.006)
"""Worst Linear fed alone, compared with the golden's. Between bf16 and fp32 compute the worst of 132 was .0039."""
MODULE_BASE = Measure("probe_module_base_error", 1.25, 0.01)
"""The same compared with the base: the error of the number format."""
VELOCITY = Measure("probe_golden_error", 2.0, 0.025)
"""Predicted velocity of the worst probe, compared with the golden's. Between bf16 and fp32 compute it was .0113."""
VELOCITY_BASE = Measure("probe_base_error", 1.25, 0.025)
POINT = Measure("probe_point_error", 2.0, 0.035)
"""Worst sketched point inside the experts, compared with the golden's; a sketch gives an error to within 9 %."""
TEXT = Measure("trace_text_error", 2.0, 0.02)
STEP = Measure(
    "trace_velocity_error",
    2.0,
    0.02,
    gates=False,
    why="a trajectory is chaotic: this names the first diverging step and fails nothing",
)
MEASURES = (MODULE, MODULE_BASE, VELOCITY, VELOCITY_BASE, POINT, TEXT, STEP)


def probe_values(probe: ProbeEvidence) -> Values:
    """Return the calibrated measures of one run's probes. Those against the golden only if there is that anchor."""
    values: Values = {}
    rows: tuple[tuple[Measure, list[float | None]], ...] = (
        (MODULE, [module.golden_error for module in probe.modules]),
        (MODULE_BASE, [module.base_error for module in probe.modules]),
        (VELOCITY, [step.golden_error for step in probe.steps]),
        (VELOCITY_BASE, [step.base_error for step in probe.steps]),
        (POINT, [point.golden_error for step in probe.steps for point in step.points]),
    )
    for measure, errors in rows:
        numbers = [value for value in errors if value is not None]
        if numbers:
            values[measure.name] = max(numbers)
    return values


def step_errors(trace: Trace, reference: Trace) -> tuple[float, ...]:
    """Return the relative error of the velocity sketch per denoising step; empty if any pair of sketches is unusable.

    A pair is unusable if a sketch is absent or the lengths differ.
    """
    pairs = list(zip(trace.steps, reference.steps, strict=False))
    if any(
        not step.velocity_sketch or len(step.velocity_sketch) != len(reference_step.velocity_sketch)
        for step, reference_step in pairs
    ):
        return ()
    return tuple(_error(step.velocity_sketch, reference_step.velocity_sketch) for step, reference_step in pairs)


def text_error(trace: Trace, reference: Trace) -> float | None:
    """Return the relative error of the text embedding's sketch; ``None`` if one is absent or the lengths differ."""
    sketch, reference_sketch = trace.text_embedding_sketch, reference.text_embedding_sketch
    return _error(sketch, reference_sketch) if sketch and len(sketch) == len(reference_sketch) else None


def trace_values(trace: Trace, reference: Trace) -> Values:
    """Return the calibrated measures of one run's trace; of the steps the worst."""
    values: Values = {}
    if (text := text_error(trace, reference)) is not None:
        values[TEXT.name] = text
    if steps := step_errors(trace, reference):
        values[STEP.name] = max(steps)
    return values


def place_all(samples: Mapping[str, Sequence[Sample]]) -> tuple[Limit, ...]:
    """Place the limit of every measure that has samples of healthy runs."""
    return tuple(_place(measure, samples[measure.name]) for measure in MEASURES if samples.get(measure.name))


def _place(measure: Measure, samples: Sequence[Sample]) -> Limit:
    worst = max(sample.value for sample in samples)
    limit = max(measure.factor * worst, measure.floor)
    return Limit(
        metric=measure.name,
        direction="lower_is_better",
        gates=measure.gates,
        limit=limit if measure.gates else None,
        unit="relative",
        samples=tuple(samples),
        method=METHOD,
        parameters={"factor": measure.factor, "floor": measure.floor},
        margin_benign=limit - worst if measure.gates else None,
        why=measure.why,
    )


def tolerance(limit: Limit, measure: Measure) -> float:
    """Compute the bound of a measure that does not gate, from the samples of its limit."""
    return max(measure.factor * max(sample.value for sample in limit.samples), measure.floor)


def _error(sketch: Sequence[float], reference: Sequence[float]) -> float:
    import numpy as np

    return relative_error(np.asarray(sketch), np.asarray(reference))


def relative_error(run: NDArray[Any], anchor: NDArray[Any]) -> float:
    """Return ``|run - anchor| / |anchor|`` in L2.

    ``BROKEN`` if the shapes differ, a value is not finite, or only the anchor is zero; 0 if both are zero.
    """
    a, b = run.astype(np.float64), anchor.astype(np.float64)
    if a.shape != b.shape or not (np.isfinite(a).all() and np.isfinite(b).all()):
        return BROKEN
    size, off = float(np.linalg.norm(b)), float(np.linalg.norm(a - b))
    if size == 0.0:
        return 0.0 if off == 0.0 else BROKEN
    return min(off / size, BROKEN)
