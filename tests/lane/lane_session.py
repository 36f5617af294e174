"""``-p lane_session``: a session without checkpoints and goldens, over the real pool, real processes, real leases.

The prompt of a case says how it ends: ``pass``, ``fail`` (a quality miss), ``command`` (one whose text commands GitHub
Actions), ``die`` (its engine dies, always), ``die_once``, ``kill_once`` and ``kill`` (its xdist worker dies while the
engine works), ``crash`` (and the controller).
GPUs that ``QUANTGATE_FAKE_UNFIT`` names have memory errors.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from builders import evidence_of_a_pass

import harness.machine.doctor
import harness.session.conductor
from harness.definitions.case import Case, Located
from harness.definitions.runner import RunnerProfile
from harness.engine.environment import engine_key
from harness.engine.owner import EnginePool
from harness.errors import InfraError
from harness.machine.preflight import Check, Preflight, State
from harness.outcomes import Outcome
from harness.records.case_record import CaseRecord, Timing
from harness.records.identity import Fingerprint
from harness.records.verdict import Verdict
from harness.session.context import CaseFinished, SessionContext

BACKEND = f"{Path(__file__).with_name('lane_backend.py')}:LaneBackend"


class LaneSession:
    """What the conductor is to the plugin."""

    def __init__(self, context: SessionContext) -> None:
        self.context = context
        self.pool = EnginePool(
            context.folder / "engines",
            context.device_env,
            _nowhere(context.root),
            device=context.device.kind,
            allow_python_backend=True,
        )

    def close(self) -> None:
        self.pool.close_all()

    def run_case(self, located: Located, node: str, watch: Any, attempt: int = 1) -> CaseFinished:
        folder = self.context.case_folder(located.case.id)
        folder.mkdir(parents=True, exist_ok=True)
        began = time.monotonic()
        record = self._record(located, node, attempt, folder)
        record = record.model_copy(update={"timing": Timing(load=record.timing.load, total=time.monotonic() - began)})
        record.write(folder / "record.json")
        return CaseFinished(record, folder)

    def _record(self, located: Located, node: str, attempt: int, folder: Path) -> CaseRecord:
        case, prompt = located.case, located.case.sampling.prompt
        printed = _told(case, attempt)
        loads, started = self.pool.loads, time.monotonic()
        engine = self.pool.get(printed)
        load = time.monotonic() - started if self.pool.loads > loads else 0.0
        seen = engine.call("device", {}, 10)
        if seen != self.context.device.uuid and self.context.device.kind == "cuda":
            raise AssertionError(f"the engine sees {seen!r}, and the lease is {self.context.device.uuid}")
        (folder / f"engine-{attempt}").write_text(str(engine.pid))
        verdict, generation = Verdict(outcome=Outcome.PASS, cause="none", summary="as it was"), None
        if prompt == "fail":
            verdict = Verdict(outcome=Outcome.REGRESSION, cause="ssim_below_limit", summary="it looks | @other <b>")
        if prompt == "command":
            verdict = Verdict(outcome=Outcome.REGRESSION, cause="x", summary="it said\n  ::error::no\n##[group]x")
        if printed.sampling.prompt == "hang":
            victims = [os.getpid()] if prompt != "crash" else [os.getppid(), os.getpid()]
            threading.Thread(target=_kill_when_busy, args=(folder, victims), daemon=True).start()
        try:
            generation = engine.generate(printed, folder)
        except InfraError as error:
            verdict = Verdict(outcome=Outcome.INFRA, cause=error.kind, summary=error.message)
        assert engine.start_record is not None
        proof = evidence_of_a_pass() if verdict.outcome is Outcome.PASS else {}
        return CaseRecord(
            run=self.context.run,
            plan=self.context.plan,
            case=case.id,
            node=node,
            source=located.place,
            runner=self.context.runner.name,
            started=datetime.now(UTC).isoformat(timespec="microseconds"),
            attempt=attempt,
            request=case.model_dump(mode="json"),
            verdict=verdict,
            fingerprint=Fingerprint(runner=self.context.runner.name, device=self.context.device),
            engine=engine.start_record.model_copy(update={"engine": engine_key(case)}),
            generation=generation,
            timing=Timing(load=load),
            **proof,
            log_tail=(os.environ.get("PYTEST_XDIST_WORKER", "main"), str(os.getpid())),
        )


def _told(case: Case, attempt: int) -> Case:
    prompt = case.sampling.prompt
    hang = prompt in ("kill", "crash") or (prompt == "kill_once" and attempt == 1)
    die = prompt == "die" or (prompt == "die_once" and attempt == 1)
    asked = "hang" if hang else "die" if die else prompt
    sampling = case.sampling.model_copy(update={"prompt": asked})
    return case.model_copy(update={"backend": BACKEND, "sampling": sampling, "env": dict(case.env)})


def _kill_when_busy(folder: Path, victims: list[int]) -> None:
    while not (folder / "pids").exists() or not (folder / "pids").read_text().endswith("\n"):
        time.sleep(0.02)
    for pid in victims:
        os.kill(pid, signal.SIGKILL)


def _nowhere(root: Path) -> Any:
    def resolve(case: Case) -> Mapping[str, Path]:
        return {"model": root / case.model.path}

    return resolve


def _examined(profile: RunnerProfile, _root: Path, *, uuid: str | None = None) -> Preflight:
    """What the doctor says of a GPU that is not there: fit, unless the environment names it."""
    sick = uuid in os.environ.get("QUANTGATE_FAKE_UNFIT", "").split(",")
    state: State = "unfit" if sick else "fit"
    message = f"{uuid}: 3 uncorrected memory errors" if sick else ""
    return Preflight(runner=profile.name, checks=(Check(name="ecc", state=state, message=message, remedy="reset it"),))


harness.session.conductor.Session = LaneSession  # type: ignore[assignment,misc]
harness.machine.doctor.examine = _examined  # type: ignore[assignment]
