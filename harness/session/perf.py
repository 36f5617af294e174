"""Times and memory of a case: load its baseline, generate again if it is slow, and find the cause."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from harness.definitions.case import Case
from harness.engine.owner import EngineOwner
from harness.errors import QuantgateError
from harness.perf.baseline import load_baseline
from harness.perf.causes import find_cause
from harness.perf.comparing import BAD, Look
from harness.perf.conditions import gpu_sampler, sampled
from harness.perf.judging import Judge
from harness.perf.quiet import SLOWING
from harness.records.identity import Fingerprint
from harness.records.perf import PROFILE_METHOD, PerfReport, Profile
from harness.session.context import SessionContext

QUIET_SECONDS = 30.0
"""Longest wait in seconds, before a disturbed run is repeated, until no other process uses the GPU and it is cool."""
AGAIN = "perf-again"


@dataclass(frozen=True)
class Timed:
    """A case's generation, with the facts that its times and memory depend on."""

    case: Case
    folder: Path
    look: Look
    fingerprint: Fingerprint | None
    red: bool
    """The case is red already: no further generation is made for its times."""


def judge_perf(context: SessionContext, timed: Timed, engine: Callable[[], EngineOwner]) -> PerfReport:
    """Compare a case's times and memory with its baseline. Generate again if it is slower or larger.

    Args:
        context: the session's context.
        timed: the case's generation.
        engine: returns the living engine that made the generation.

    Raises:
        InvalidCaseError: the baseline cannot be read.
    """
    case = timed.case
    file = load_baseline(context.thresholds, context.runner.name, case.id)
    seen = timed.look.conditions
    judge = Judge(case, file, seen.machine if seen else "", seen.pool if seen else "")
    judge.why_not = "the case is red already" if timed.red else "it could not be generated again"

    def again() -> Look | None:
        if timed.red:
            return None
        _wait_until_quiet(context.device.uuid)
        return _generate_again(context, timed, engine)

    report = judge.report(timed.look, again)
    if report.state not in (*BAD, "inconclusive"):
        return report
    profile = _profile(case, engine) if report.state == "slower" and not timed.red else None
    cause = find_cause(report, judge.looks, file, timed.fingerprint, profile)
    message = f"{report.message}; cause: {cause.message}" if report.state in BAD else report.message
    return report.model_copy(
        update={"cause": cause.name, "cause_message": cause.message, "profile": profile, "message": message}
    )


def _generate_again(context: SessionContext, timed: Timed, engine: Callable[[], EngineOwner]) -> Look | None:
    folder = timed.folder / AGAIN
    try:
        owner = engine()
        with sampled(owner.pid, context.device.uuid) as seen:
            generation = owner.generate(timed.case, folder)
        return Look(generation, owner.start_record, seen())
    except QuantgateError:  # the first generation is valid: the report says that no repeat was possible
        return None
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _profile(case: Case, engine: Callable[[], EngineOwner]) -> Profile | None:
    """Return the profile of an instrumented generation; ``None`` if the backend offers none or it fails."""
    try:
        data = engine().call(PROFILE_METHOD, {"case": case.model_dump(mode="json")}, case.timeouts.generate)
        return Profile.model_validate(data)
    except (QuantgateError, ValueError):
        return None


def _wait_until_quiet(uuid: str | None) -> None:
    with gpu_sampler(uuid) as gpu:
        deadline = time.monotonic() + QUIET_SECONDS
        while gpu is not None and time.monotonic() < deadline:
            sample = gpu()
            # one process is our own engine
            if len(sample.processes) <= 1 and not SLOWING & set(sample.throttle):
                return
            time.sleep(1.0)
