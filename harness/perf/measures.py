"""The measures of a run: their names, their units, and their values in the records of a generation and its load."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, Literal

from harness.definitions.case import Case
from harness.records.base import Json
from harness.records.generation import EngineStart, Expert, Generation
from harness.records.perf import Conditions, Usage

EXPERTS: Final[tuple[Expert, ...]] = ("transformer", "transformer_2")
PERF_CAUSES: Final = frozenset({"slower", "faster", "more_memory", "leak"})
"""Causes of a verdict that is red for time or memory alone."""
STEP: Final = "step"
"""The warm denoising steps, which are compared one by one."""
EXPERT_STEPS: Final[Mapping[Expert, str]] = {"transformer": "high_noise_step", "transformer_2": "low_noise_step"}
"""The warm steps of one expert. If it runs in few steps, its slowness does not move the median over all steps."""
TIMES: Final = (
    "step", "high_noise_step", "low_noise_step", "first_step", "text_encoder", "vae", "read", "place", "total",
)  # fmt: skip
MEMORY: Final = ("load_memory", "encode_memory", "denoise_memory", "decode_memory", "host_memory")
GROWTH: Final = ("growth", "host_growth")
FRESH: Final = frozenset(
    {"first_step", "read", "place", "total", "load_memory", "growth", "host_growth", "host_memory"}
)
"""Measures that differ between the first and a later generation of an engine."""
ONCE: Final = frozenset({"first_step", "read", "place", "load_memory"})
"""Measures that a further generation of the same engine does not repeat, so that they cannot be confirmed."""
WORDS: Final[Mapping[str, str]] = {
    "step": "per step",
    "high_noise_step": "per step of transformer",
    "low_noise_step": "per step of transformer_2",
    "first_step": "first step",
    "text_encoder": "text encoder",
    "vae": "VAE",
    "read": "reading the weights",
    "place": "placing the weights",
    "total": "whole generation",
    "load_memory": "GPU memory of the load",
    "encode_memory": "GPU memory of the text encoder",
    "denoise_memory": "GPU memory of the steps",
    "decode_memory": "GPU memory of the VAE",
    "host_memory": "host memory",
    "growth": "GPU memory that stays allocated",
    "host_growth": "host memory that stays allocated",
}


def unit_of(measure: str) -> Literal["s", "bytes"]:
    """Return the unit of a measure."""
    return "s" if measure in TIMES else "bytes"


def usage_of(generation: Generation) -> Usage | None:
    """Return times and memory of a generation: its backend's measurement, else the seconds of the steps in its trace.

    A runtime that is driven step by step has a trace; its seconds include the recorder's work between two steps.
    """
    if generation.usage is not None:
        return generation.usage
    steps = generation.trace.steps
    if not steps or not all(step.seconds > 0 for step in steps):
        return None
    return Usage(
        clock="host",
        steps=tuple(step.seconds for step in steps),
        experts=tuple(step.expert for step in steps),
        total=generation.generate_seconds,
    )


def values_of(generation: Generation, engine: EngineStart | None, conditions: Conditions | None) -> dict[str, float]:
    """Return every measure of a run but its steps, as far as it was measured.

    A backend that measures nothing itself still has its whole duration, on the host's clock.
    """
    usage = usage_of(generation)
    values: dict[str, float | None] = {"total": generation.generate_seconds or None}
    if usage is not None:
        values |= {"total": usage.total, "text_encoder": usage.text_encoder, "vae": usage.vae}
        values["first_step"] = usage.steps[0] if usage.steps else None
        values |= {f"{stage.stage}_memory": float(stage.allocated) for stage in usage.memory}
        if usage.allocated_before is not None and usage.allocated_after is not None:
            values["growth"] = float(usage.allocated_after - usage.allocated_before)
    if is_fresh(generation) and engine is not None and engine.load is not None and engine.loads == 1:
        values |= {"read": engine.load.read_seconds, "place": engine.load.place_seconds}
        values["load_memory"] = float(engine.load.memory.allocated) if engine.load.memory else None
    if conditions is not None and conditions.host_peak:
        values["host_memory"] = float(conditions.host_peak)
        if conditions.host_before is not None and conditions.host_after is not None:
            values["host_growth"] = float(conditions.host_after - conditions.host_before)
    return {name: value for name, value in values.items() if value is not None}


def is_fresh(generation: Generation) -> bool:
    """Return whether this was the first generation of its engine."""
    return generation.usage is None or generation.usage.ordinal == 1


def work_of(case: Case) -> dict[str, Json]:
    """Return the fields that decide the amount of work of a case. A run of another size has no baseline in these times.

    Attention backend, offload and precision are no part of it: they are possible causes of a slower run.
    """
    sampling = case.sampling
    return {
        "backend": case.backend,
        "width": sampling.width,
        "height": sampling.height,
        "num_frames": sampling.num_frames,
        "num_inference_steps": sampling.num_inference_steps,
        "guided": sampling.guidance_scale > 1,
        "max_sequence_length": sampling.max_sequence_length,
        "scheduler": case.scheduler.name,
        "boundary_ratio": case.scheduler.boundary_ratio,
        "threads": case.execution.threads,
    }
