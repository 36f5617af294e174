"""The experiments that searched for the cause of a failure, and the cause that they named."""

from __future__ import annotations

from typing import Literal

from harness.records.base import Json, Record
from harness.records.generation import Expert

ExperimentKind = Literal[
    "frames", "readings", "rerun_same", "rerun_fresh", "probe_again", "base_probe", "golden_latents"
]


class Experiment(Record):
    """An experiment that the judge requests. The session carries it out."""

    kind: ExperimentKind
    expert: Expert | None = None
    """The expert whose bytes ``readings`` reads."""
    module: str = ""
    why: str = ""


class Reading(Record):
    """One way to read a module's bytes, and the distance of its output from the engine's output."""

    name: str
    """``declared``, ``nibble_swapped``, ``scale_swizzled``, ``scale_rolled_rows_+1``, ``other_expert``, ``base`` ..."""
    error: float
    gain: float | None = None
    """Factor on the weight that explains the engine's output best under this reading."""


class ExperimentResult(Record):
    """The result of an experiment."""

    experiment: Experiment
    done: bool
    why_not: str = ""
    readings: tuple[Reading, ...] = ()
    data: dict[str, Json] = {}
    seconds: float = 0.0


class Experiments(Record):
    """``experiments.json`` beside a case's record."""

    schema_version: Literal[1] = 1
    results: tuple[ExperimentResult, ...]
    budget: float
    """Seconds that the experiments were allowed to take."""
    seconds: float


class Cause(Record):
    """One cause with its evidence."""

    code: str
    """Stable machine name, such as ``nibble_order``, ``flow_shift`` or ``noise``."""
    place: str = ""
    """``expert/module``, an expert, a setting or a step."""
    sentence: str
    evidence: dict[str, Json] = {}


class Attribution(Record):
    """Why a case failed: one proven cause, or the causes that remain possible."""

    cause: Cause | None
    also: tuple[Cause, ...] = ()
    """Further causes that the evidence proves beside the first."""
    remaining: tuple[str, ...] = ()
    """Causes that the evidence does not rule out, if no cause is proven."""
    ruled_out: tuple[str, ...] = ()
    summary: str
