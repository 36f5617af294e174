"""The conductor: takes one case through the stages, cheapest evidence first, and yields what happens."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from harness.definitions.case import Located
from harness.errors import InfraError, QuantgateError
from harness.judge.evidence import Evidence
from harness.judge.verdict import judge, stop_before_generation
from harness.pipeline.pool import EnginePool
from harness.records.case_record import CaseRecord, Timing
from harness.records.fingerprint import Fingerprint
from harness.records.identity import Identity
from harness.records.limits import LimitCheck
from harness.records.verdict import GREEN, Verdict
from harness.session.checkpoints import engine_paths
from harness.session.code_version import code_version
from harness.session.context import SessionContext
from harness.session.events import CaseFinished, Event, Progress, Stage, StageStarted
from harness.session.identity import identity_of
from harness.session.stages import compare_with_golden, find_golden, inspect, leave_candidate, look_at_frames

Watch = Callable[[Event], None]
LOG_TAIL_LINES = 40


@dataclass
class _Run:
    """What is known so far of the case that runs."""

    located: Located
    node: str
    folder: Path
    watch: Watch
    evidence: Evidence
    started: float = field(default_factory=time.monotonic)
    seconds: dict[str, float] = field(default_factory=dict)
    identity: Identity | None = None
    fingerprint: Fingerprint | None = None
    log_tail: tuple[str, ...] = ()

    def know(self, **more: object) -> None:
        """Add to the evidence, which itself is never changed."""
        self.evidence = Evidence(**{**vars(self.evidence), **more})  # type: ignore[arg-type]


class Session:
    """Runs cases on one device. Engines live as long as consecutive cases share them."""

    def __init__(self, context: SessionContext) -> None:
        self.context = context
        environment = {**context.device_env, **context.perturbation}
        self.pool = EnginePool(context.folder / "engines", device_env=environment, device=context.device)

    def close(self) -> None:
        """Stop every engine."""
        self.pool.close_all()

    def run_case(self, located: Located, node: str, watch: Watch, attempt: int = 1) -> CaseFinished:
        """Run and judge one case; whatever happens, its record is written.

        Args:
            located: the case and its place.
            node: pytest id.
            watch: called with every event.
            attempt: 1, or 2 for the one retry of an infra failure.
        """
        folder = self.context.case_folder(located.case.id)
        folder.mkdir(parents=True, exist_ok=True)
        run = _Run(located, node, folder, watch, Evidence(case=located.case, node=node, run_dir=str(self.context.folder)))
        started = datetime.now(UTC)
        try:
            self._gather(run)
        except QuantgateError as error:
            run.know(error=error)
        verdict, checks = judge(run.evidence, self.context.runner.name, started.date())
        record = self._record(run, verdict, checks, started, attempt)
        if self.context.leave_candidates and verdict.outcome not in GREEN and run.evidence.error is None:
            leave_candidate(self.context, record, folder)
        record.write(folder / "record.json")
        finished = CaseFinished(record, folder)
        watch(finished)
        return finished

    def _gather(self, run: _Run) -> None:
        case, context = run.located.case, self.context
        paths = engine_paths(case, context.root)
        with _timed(run, "inspect", "inspect"):
            report = inspect(case, context.root)
        run.know(inspection=report)
        digests = {name: digest for name, digest in report.digests.items() if not name.startswith("base/")}
        code = code_version(context.root)
        run.identity = identity_of(case, context.device, digests, perturbation=context.perturbation, code=code)
        match = find_golden(context, case, run.identity)
        run.know(golden=match.evidence)
        if stop_before_generation(run.evidence):
            return
        with _timed(run, "load", "load"):
            engine = self.pool.get(case, paths)
            run.fingerprint = engine.fingerprint()
        try:
            with _timed(run, "generate", "generate"):
                generation = engine.generate(
                    case, run.folder, lambda done, total: run.watch(Progress(case.id, done, total))
                )
        except InfraError:
            with suppress(OSError):
                run.log_tail = engine.log_tail(LOG_TAIL_LINES)
            raise
        run.log_tail = engine.log_tail(LOG_TAIL_LINES)
        run.identity = identity_of(
            case,
            context.device,
            digests,
            fingerprint=run.fingerprint,
            receipts=generation.receipts,
            perturbation=context.perturbation,
            code=code,
        )
        run.know(generation=generation, promised=engine.promised())
        with _timed(run, "compare", "compare"):
            run.know(sanity=look_at_frames(case, generation, run.folder))
            match = find_golden(context, case, run.identity)
            golden, comparison = compare_with_golden(case, match, generation, run.folder)
            run.know(golden=golden, comparison=comparison)

    def _record(
        self, run: _Run, verdict: Verdict, checks: tuple[LimitCheck, ...], started: datetime, attempt: int
    ) -> CaseRecord:
        evidence = run.evidence
        return CaseRecord(
            run=self.context.run,
            case=run.located.case.id,
            node=run.node,
            source=run.located.where,
            runner=self.context.runner.name,
            started=started.isoformat(timespec="seconds"),
            attempt=attempt,
            request=run.located.case.model_dump(mode="json"),
            verdict=verdict,
            fingerprint=run.fingerprint,
            identity=run.identity,
            golden=evidence.golden.digest if evidence.golden else None,
            changes=evidence.golden.changes if evidence.golden else (),
            inspection=evidence.inspection,
            generation=evidence.generation,
            sanity=evidence.sanity,
            comparison=evidence.comparison,
            limits=checks,
            timing=Timing(total=time.monotonic() - run.started, **run.seconds),
            artifacts={name: name for name in ("clip.safetensors", "golden.safetensors") if (run.folder / name).exists()},
            log_tail=run.log_tail,
        )


class _timed:  # noqa: N801 - used like a function
    """Announces a stage and adds its seconds to the run."""

    def __init__(self, run: _Run, stage: Stage, name: str) -> None:
        self._run, self._stage, self._name = run, stage, name

    def __enter__(self) -> None:
        self._run.watch(StageStarted(self._run.located.case.id, self._stage))
        self._begin = time.monotonic()

    def __exit__(self, *_: object) -> None:
        self._run.seconds[self._name] = time.monotonic() - self._begin
