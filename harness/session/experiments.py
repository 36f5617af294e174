"""Run the judge's experiments within a time budget, until the judge can name the cause."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from harness.definitions.case import Case
from harness.engine.owner import EnginePool
from harness.errors import QuantgateError
from harness.frames.clip import Clip, read_clip
from harness.frames.nearest import squared_error
from harness.judge.attribution import attribute, next_experiments
from harness.judge.observation import hold_against, read_observation
from harness.limits.probes import VELOCITY
from harness.outcomes import Outcome
from harness.records.attribution import Attribution, Experiment, ExperimentResult, Experiments
from harness.records.base import Json
from harness.records.case_record import CaseRecord
from harness.records.generation import Generation
from harness.records.run_folder import (
    CLIP_FILE,
    EXPERIMENTS_FILE,
    GOLDEN_CLIP_FILE,
    GOLDEN_LATENTS_FILE,
    PROBES_FILE,
    SKETCHES_FILE,
)
from harness.session.probing import base_case
from harness.session.readings import Components, open_experts, read_as

ATTRIBUTED = frozenset({Outcome.REGRESSION, Outcome.CHECKPOINT_FAULT, Outcome.INCONCLUSIVE})
"""Outcomes that concern the checkpoint or the code, so that a search for the cause makes sense."""


def is_explainable(outcome: Outcome, cause: str) -> bool:
    """Return whether experiments could explain a failure.

    Limits that are missing or of another golden are a gap of the project and no fault of the run: every experiment
    would cost a generation and explain nothing.
    """
    return outcome in ATTRIBUTED and not (outcome is Outcome.INCONCLUSIVE and cause.startswith("limits_"))


PassesLimits = Callable[[Generation, Clip], bool | None]
"""Return whether a repeat passes sanity and the first run's limits; ``None`` if no frames were compared."""


def investigate(laboratory: Laboratory, record: CaseRecord) -> Attribution:
    """Run the experiments that the judge requests, and repeat until it names the cause or the time is up.

    All results are written to ``experiments.json`` beside the record: with both files `attribute` derives the same
    attribution anywhere.
    """
    began, results = time.monotonic(), list[ExperimentResult]()
    # the judge decides anew after each round, because its next question depends on the results
    while wanted := next_experiments(record, results):
        for experiment in wanted:
            seconds_left = laboratory.budget - (time.monotonic() - began)
            results.append(laboratory.carry_out(experiment, record, seconds_left))
    seconds = time.monotonic() - began
    Experiments(results=tuple(results), budget=laboratory.budget, seconds=seconds).write(
        laboratory.folder / EXPERIMENTS_FILE
    )
    return attribute(record, results)


def rms(first: Clip, other: Clip) -> float:
    """Return the root mean square difference of two clips of one shape, in levels of 255."""
    return float((squared_error(first, other) / first.frames.size) ** 0.5)


@dataclass
class Laboratory:
    """Engine pool, files and time budget of the experiments. Create one per case."""

    case: Case
    folder: Path
    pool: EnginePool
    paths: Mapping[str, Path]
    base_path: Path | None
    budget: float
    passes: PassesLimits | None = None
    _subject: Components | None = field(default=None, init=False)
    _base: Components = field(default_factory=dict, init=False)

    def carry_out(self, experiment: Experiment, record: CaseRecord, seconds_left: float) -> ExperimentResult:
        """Run one experiment. An error is returned as a result that was not done, with the reason."""
        # named as not done, so that the judge does not take it for a negative result
        if seconds_left <= 0.0:
            return ExperimentResult(experiment=experiment, done=False, why_not="the time budget is used up")
        began = time.monotonic()
        try:
            result = self._try(experiment, record, seconds_left)
        # an experiment that fails is one fact less, and no reason to lose the verdict
        except (QuantgateError, OSError, ValueError, KeyError) as error:
            result = ExperimentResult(experiment=experiment, done=False, why_not=f"{type(error).__name__}: {error}")
        return result.model_copy(update={"seconds": time.monotonic() - began})

    def _try(self, experiment: Experiment, record: CaseRecord, seconds_left: float) -> ExperimentResult:
        if experiment.kind == "readings":
            return self._readings(experiment)
        if experiment.kind == "frames":
            return self._frames(experiment, record)
        if experiment.kind == "golden_latents":
            return self._golden_latents(experiment, record, seconds_left)
        if experiment.kind == "probe_again":
            return self._probe_again(experiment, seconds_left)
        if experiment.kind == "base_probe":
            return self._base_probe(experiment, seconds_left)
        return self._rerun(experiment, record, seconds_left)

    def _readings(self, experiment: Experiment) -> ExperimentResult:
        # opened once: the readings of several modules come from the same files
        if self._subject is None:
            self._subject = open_experts(self.paths)
            self._base = {} if self.base_path is None else open_experts({"model": self.base_path})
        if experiment.expert is None:
            raise ValueError("readings of no expert")
        observed = read_observation(self.folder / SKETCHES_FILE)
        readings = read_as(experiment.expert, experiment.module, observed, self._subject, self._base, self.case.loader)
        return ExperimentResult(experiment=experiment, done=bool(readings), readings=readings)

    def _frames(self, experiment: Experiment, record: CaseRecord) -> ExperimentResult:
        from harness.frames.hypotheses import explain

        if record.generation is None:
            raise ValueError("there are no frames")
        golden, candidate = read_clip(self.folder / GOLDEN_CLIP_FILE), read_clip(self.folder / record.generation.clip)
        rows: list[Json] = [
            {
                "code": row.code,
                "share": round(row.share, 4),
                "parameters": row.parameters,
                "sentence": row.sentence,
                "frames": list(row.frames),
            }
            for row in explain(golden.frames, candidate.frames)
        ]
        return ExperimentResult(experiment=experiment, done=True, data={"explanations": rows})

    def _rerun(self, experiment: Experiment, record: CaseRecord, seconds_left: float) -> ExperimentResult:
        if record.generation is None:
            raise ValueError("there is no generation to repeat")
        case = self._in_time(seconds_left)
        if experiment.kind == "rerun_fresh":
            # a fresh process separates a fault of the engine's state from a fault of its code or weights
            self.pool.discard(case)
        again = self.pool.get(case).generate(case, self.folder / experiment.kind)
        equal = again.clip_sha256 == record.generation.clip_sha256
        data: dict[str, Json] = {"equal": equal, "clip": again.clip_sha256, "was": record.generation.clip_sha256}
        if not equal:
            data |= self._judged(record.generation, again, self.folder / experiment.kind)
        return ExperimentResult(experiment=experiment, done=True, data=data)

    def _judged(self, first: Generation, again: Generation, folder: Path) -> dict[str, Json]:
        """Judge a repeat that is not bit-exact: does it pass, and how far is it away (root mean square, levels)?"""
        golden = self.folder / GOLDEN_CLIP_FILE
        if not golden.exists() or self.passes is None:
            return {}
        clips = [read_clip(path) for path in (golden, self.folder / first.clip, folder / again.clip)]
        # frames of different shapes have no distance
        if len({clip.shape for clip in clips}) > 1:
            return {}
        anchor, run, repeat = clips

        return {
            "passes": self.passes(again, repeat),
            "repeat": str((folder / again.clip).relative_to(self.folder)),
            "rms_first": rms(anchor, run),
            "rms_repeat": rms(anchor, repeat),
            "rms_between": rms(run, repeat),
        }

    def _golden_latents(self, experiment: Experiment, record: CaseRecord, seconds_left: float) -> ExperimentResult:
        """Let this engine's VAE decode the golden's last latents, and measure its distance from the golden's frames."""
        latents = self.folder / GOLDEN_LATENTS_FILE
        if record.generation is None or not latents.exists():
            raise ValueError("this golden has no latents; `quantgate regenerate` records them")
        case, out = self._in_time(seconds_left), self.folder / "decoded" / CLIP_FILE
        params: dict[str, Json] = {"latents": str(latents.resolve()), "out": str(out.resolve())}
        self.pool.get(case).call("decode_latents", params, case.timeouts.generate)
        golden, decoded, run = (
            read_clip(path) for path in (self.folder / GOLDEN_CLIP_FILE, out, self.folder / record.generation.clip)
        )
        if decoded.shape != golden.shape or run.shape != golden.shape:
            raise ValueError("the decoded latents have another shape than the golden's frames")
        data: dict[str, Json] = {"rms_decoded": rms(golden, decoded), "rms_first": rms(golden, run)}
        return ExperimentResult(experiment=experiment, done=True, data=data)

    def _probe_again(self, experiment: Experiment, seconds_left: float) -> ExperimentResult:
        case, out = self._in_time(seconds_left), self.folder / "sketches-again.safetensors"
        params: dict[str, Json] = {"inputs": str((self.folder / PROBES_FILE).resolve()), "out": str(out.resolve())}
        self.pool.get(case).call("probe", params, case.timeouts.generate)
        equal = out.read_bytes() == (self.folder / SKETCHES_FILE).read_bytes()
        return ExperimentResult(experiment=experiment, done=True, data={"equal": equal})

    def _base_probe(self, experiment: Experiment, seconds_left: float) -> ExperimentResult:
        base = base_case(self._in_time(seconds_left))
        if base is None:
            raise ValueError("the case has no base")
        inputs, out = self.folder / PROBES_FILE, self.folder / "base-sketches.safetensors"
        engine = self.pool.get(base)
        engine.call("probe", {"inputs": str(inputs.resolve()), "out": str(out.resolve())}, base.timeouts.generate)
        anchor = read_observation(inputs)
        probe = hold_against(read_observation(out), anchor, anchor)
        worst = max((step.base_error for step in probe.steps), default=0.0)
        return ExperimentResult(
            experiment=experiment, done=True, data={"base_error": worst, "differs": worst > VELOCITY.floor}
        )

    def _in_time(self, seconds_left: float) -> Case:
        timeouts = self.case.timeouts
        # an experiment may not outlive the budget, whatever the case allows itself
        shorter = {"load": min(timeouts.load, seconds_left), "generate": min(timeouts.generate, seconds_left)}
        return self.case.model_copy(update={"timeouts": timeouts.model_copy(update=shorter)})
