"""Run one case through its stages, cheapest evidence first, and emit events and a judged record."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from harness.definitions.case import Case, Located
from harness.definitions.resolving import require_resolved
from harness.engine.owner import EngineOwner, EnginePool
from harness.engine.resolve import resolve_case
from harness.engine.stamps import Stamps, require_unchanged
from harness.errors import QuantgateError
from harness.frames.clip import Clip, read_clip
from harness.git import checkout_of
from harness.goldens.golden import Golden
from harness.goldens.matching import MatchKind
from harness.judge.evidence import Evidence
from harness.judge.verdict import judge, observe, stop_before_generation
from harness.outcomes import SEVERITY, Outcome
from harness.perf.comparing import Look
from harness.perf.conditions import sampled
from harness.perf.measures import PERF_CAUSES
from harness.records import generation as gen
from harness.records.case_record import CaseRecord, Checkout, Timing
from harness.records.golden import CLIP
from harness.records.identity import Fingerprint, Identity
from harness.records.limits import LimitCheck
from harness.records.perf import Conditions, PerfReport
from harness.records.run_folder import CLIP_FILE, GOLDEN_CLIP_FILE, RECORD_FILE, RunFolder
from harness.records.verdict import Verdict
from harness.session.attempts import lost_record
from harness.session.clock import newest_time
from harness.session.contents import Contents
from harness.session.context import CaseFinished, Event, Progress, SessionContext, Stage, StageStarted
from harness.session.experiments import Laboratory, investigate, is_explainable
from harness.session.identity import identity_of
from harness.session.inspecting import Inspector
from harness.session.perf import Timed, judge_perf
from harness.session.probing import base_on_disk, probe_source, run_probes
from harness.session.programs import program_digests
from harness.session.similarity import require_near
from harness.session.stages import (
    MatchedGoldens,
    accepted_goldens,
    clear,
    compare_with,
    find_golden,
    keep_pictures,
    known_identities,
    last_lines,
    leave_candidate,
    look_at_frames,
    place_golden,
    to_quantgate_error,
)

Watch = Callable[[Event], None]
LOG_TAIL_LINES = 40
ARTIFACTS = {"candidate": CLIP_FILE, "golden": GOLDEN_CLIP_FILE}


@dataclass
class _Run:
    """State of the running case: the evidence collected so far and the data of its record."""

    located: Located
    node: str
    folder: Path
    watch: Watch
    evidence: Evidence
    began: float = field(default_factory=time.monotonic)
    seconds: dict[str, float] = field(default_factory=dict)
    stamps: Stamps = field(default_factory=dict)
    """Stamps of the checkpoint files that ``identity`` was computed from."""
    contents: Contents | None = None
    """Contents of the same files, read on demand."""
    accepted: tuple[Golden, ...] = ()
    """All goldens that the case accepts, also those that do not match the run's identity."""
    identity: Identity | None = None
    engine: gen.EngineStart | None = None
    conditions: Conditions | None = None
    fingerprint: Fingerprint | None = None
    log_tail: tuple[str, ...] = ()

    @property
    def case(self) -> Case:
        return self.located.case

    def know(self, **more: Any) -> None:
        """Add fields to the evidence. ``Evidence`` is immutable, so this replaces it."""
        self.evidence = self.evidence.plus(**more)

    def fail(self, error: Exception) -> None:
        """Record the first error for the verdict. An unexpected exception also adds its traceback to ``log_tail``."""
        # later errors are often consequences of the first, so the first one stays the cause
        if self.evidence.error is None:
            self.know(error=to_quantgate_error(error, self.case))
        if not isinstance(error, QuantgateError):
            self.log_tail = (*self.log_tail, *last_lines(error, self.case))

    def show(self, progress: gen.Progress) -> None:
        """Forward the engine's progress of denoising and loading to the watcher."""
        if progress.stage in ("denoise", "load"):
            self.watch(Progress(self.case.id, progress.step, progress.steps, progress.stage))

    @contextmanager
    def stage(self, name: Stage) -> Iterator[None]:
        """Announce a stage and add its seconds. A stage that runs twice (``inspect``, ``load``) adds up."""
        self.watch(StageStarted(self.case.id, name))
        begin = time.monotonic()
        try:
            yield
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + time.monotonic() - begin


class Session:
    """Runs cases on one device. An engine lives as long as consecutive cases share it.

    Args:
        context: folders, runner, device and options of the session.
        inspector: a shared inspector, so that sessions of one process inspect a checkpoint once; default: a new one.
    """

    def __init__(self, context: SessionContext, inspector: Inspector | None = None) -> None:
        self.context = context
        self._inspector = inspector or Inspector(context.root)
        self.pool = EnginePool(
            RunFolder(context.folder).engines,
            {**context.device_env, **context.perturbation.env},
            lambda case: resolve_case(case, context.root),
            device=context.device.kind,
            allow_python_backend=context.allow_python_backend,
            runner=context.runner.name,
            root=context.root,
            runtime_env=context.runtime_env,
        )

    @cached_property
    def _checkout(self) -> Checkout:
        return checkout_of(self.context.root, os.environ)

    def close(self) -> None:
        """Stop every engine."""
        self.pool.close_all()

    def run_case(self, located: Located, node: str, watch: Watch, attempt: int = 1) -> CaseFinished:
        """Run and judge one case. Always write a record; a record of an older run is removed first.

        An unexpected exception becomes an infra verdict, with the traceback in ``log_tail``. Only an interrupt leaves
        no record. If the disk takes no record at all, the returned event still holds it.

        Args:
            located: the case and its place.
            node: pytest id.
            watch: called with every event.
            attempt: 1, or 2 for the one retry of an infra failure.
        """
        folder = self.context.case_folder(located.case.id)
        started = datetime.now(UTC)
        native = frozenset(self.context.runner.native_formats)
        evidence = Evidence(located.case, node, run_dir=str(self.context.folder), native_formats=native)
        run = _Run(located, node, folder, watch, evidence)
        try:
            # first, so that a failure below cannot leave the record of an older run as this run's
            clear(folder)
            located = located.model_copy(update={"case": self.context.perturbation.apply(located.case)})
            run.located = located
            run.know(case=located.case)
            self._gather(run)
        except Exception as error:
            run.fail(error)
        record = self._written(run, started, attempt)
        finished = CaseFinished(record, folder)
        watch(finished)
        return finished

    def _written(self, run: _Run, started: datetime, attempt: int) -> CaseRecord:
        """Judge the case and write its record. An error on the way becomes the verdict of the second try."""
        last: Exception | None = None
        # two passes: the second judges again with the error of the first (a failed write, a broken limit file)
        for _ in range(2):
            try:
                golden = run.evidence.golden
                stated = [golden.limits.created] if golden is not None and golden.limits is not None else []
                # a clock that was set back must not revive an expired waiver
                newest = newest_time(started, self.context.root, stated)
                verdict, checks = judge(run.evidence, self.context.runner.name, newest.date())
                record = self._attributed(run, self._record(run, verdict, checks, started, attempt))
                record = record.model_copy(update={"newest": newest.isoformat(timespec="seconds")})
                record = record.redacted()  # before the candidate is made: its seal covers the redacted record
                record.write(run.folder / RECORD_FILE)
                return self._with_candidate(run, record)
            except Exception as error:
                run.fail(error)
                last = error
        return self._unwritten(run, started, attempt, last)

    def _with_candidate(self, run: _Run, record: CaseRecord) -> CaseRecord:
        """Leave the candidate. Only ``golden_missing`` promises a candidate; other verdicts are kept without it."""
        try:
            if self.context.leave_candidates:
                leave_candidate(self.context, record, run.folder, run.contents, run.accepted)
            elif record.verdict.outcome is Outcome.GOLDEN_MISSING and run.contents is not None:
                run.contents.write(run.folder)  # regeneration turns this run into a golden, which needs its contents
            return record
        except Exception as error:
            if record.verdict.outcome is Outcome.GOLDEN_MISSING:
                raise
            why = to_quantgate_error(error, run.case).message
            summary = f"{record.verdict.summary.rstrip('.')}. No candidate could be kept of it: {why}"
            verdict = record.verdict.model_copy(update={"summary": summary})
            record = record.model_copy(update={"verdict": verdict})
            with contextlib.suppress(OSError):  # the record on disk is the same without this sentence
                record.write(run.folder / RECORD_FILE)
            return record

    def _unwritten(self, run: _Run, started: datetime, attempt: int, last: Exception | None) -> CaseRecord:
        """Return a minimal record with the error, and write it if the disk allows.

        Args:
            run: the run, whose first error is the cause of the verdict.
            started: start of the case.
            attempt: from 1.
            last: the error that kept the whole record from being written; often the reason of the first one too.
        """
        error = run.evidence.error
        record = lost_record(
            run.located,
            run.node,
            run=self.context.run,
            runner=self.context.runner.name,
            attempt=attempt,
            error=error or "no record could be written",
            next_command=f"quantgate doctor --runner {self.context.runner.name}",
        ).model_copy(update={"log_tail": run.log_tail, "started": started.isoformat(timespec="seconds")})
        why = "" if last is None else to_quantgate_error(last, run.case).message
        if why and why not in record.verdict.summary:
            summary = f"{record.verdict.summary.rstrip('.')}. The whole record could not be written: {why}"
            verdict = record.verdict.model_copy(update={"summary": summary})
            record = record.model_copy(update={"verdict": verdict})
        with contextlib.suppress(OSError):
            record.write(run.folder / RECORD_FILE)
        return record

    def _attributed(self, run: _Run, record: CaseRecord) -> CaseRecord:
        """Look for the cause of a failure that concerns checkpoint or code, within the time budget."""
        outcome = record.verdict.observed or record.verdict.outcome
        if record.verdict.cause in PERF_CAUSES:  # the performance stage has named the cause already
            return record
        # after an error there is nothing complete to explain, and the engine of the experiments may be gone
        if (
            not is_explainable(outcome, record.verdict.cause)
            or run.evidence.error is not None
            or self.context.attribution_seconds <= 0
        ):
            return record
        try:
            return self._investigated(run, record, outcome)
        except Exception as error:  # a failed search must not change the verdict
            why = to_quantgate_error(error, run.case).message
            summary = f"{record.verdict.summary.rstrip('.')}. Its cause could not be looked for: {why}"
            verdict = record.verdict.model_copy(update={"summary": summary})
            tail = (*record.log_tail, *last_lines(error, run.case))
            return record.model_copy(update={"verdict": verdict, "log_tail": tail})

    def _investigated(self, run: _Run, record: CaseRecord, outcome: Outcome) -> CaseRecord:
        root = self.context.root
        anchor = base_on_disk(run.case, root)
        budget, paths = self.context.attribution_seconds, resolve_case(run.case, root)
        passes = partial(self._repeat_passes, run)
        laboratory = Laboratory(run.case, run.folder, self.pool, paths, anchor, budget, passes)
        attribution = investigate(laboratory, record)
        summary = record.verdict.summary
        if outcome is not Outcome.CHECKPOINT_FAULT:  # a fault in the bytes is its own cause
            told_already = attribution.summary.startswith(summary.rstrip("."))  # avoid the same sentence twice
            summary = attribution.summary if told_already else f"{summary.rstrip('.')}. Cause: {attribution.summary}"
        verdict = record.verdict.model_copy(update={"summary": summary})
        return record.model_copy(update={"attribution": attribution, "verdict": verdict})

    def _repeat_passes(self, run: _Run, generation: gen.Generation, clip: Clip) -> bool | None:
        """Judge a repeat by the limits of the first run. Return ``None`` if no frames were compared."""
        golden = run.folder / ARTIFACTS["golden"]
        if run.evidence.comparison is None or not golden.exists():
            return None
        again = run.evidence.plus(
            generation=generation,
            sanity=look_at_frames(run.case, generation, clip),
            comparison=compare_with(golden, run.case, clip),
        )
        verdict, _ = observe(again, self.context.runner.name)
        return not any(finding.gating and finding.stage in ("sanity", "frames") for finding in verdict.findings)

    def _gather(self, run: _Run) -> None:
        case, context = run.case, self.context
        # a reference without a commit may name other weights tomorrow
        require_resolved(case)
        paths = resolve_case(case, context.root)
        keep_pictures(case, paths, run.folder)
        # before the inspection, so that the backend's imports run in a warm process at the same time
        self.pool.prepare(case)
        with run.stage("inspect"):
            inspected = self._inspector.look(case, paths)
        run.stamps, run.contents = inspected.stamps, inspected.contents
        run.know(inspection=inspected.report)
        accepted = run.accepted = accepted_goldens(context, case)
        with run.stage("inspect"):
            weights = inspected.contents.weights(known_identities(context, case, accepted))
        identify = partial(
            identity_of,
            case,
            context.device,
            weights,
            files=inspected.digests,
            harmless_env=context.runner.harmless_env,
            perturbation=context.perturbation,
            programs=program_digests(case, context.root),
        )
        run.identity = identify()
        match = find_golden(context, case, run.identity, accepted)
        with run.stage("inspect"):
            # reads tensors only of components whose digests differ; equal weights cost nothing here
            match = match.with_contents(inspected.contents, run.identity)
        run.know(golden=match.first)
        if stop_before_generation(run.evidence):
            return
        self._probe(run, match)
        # a negative control always runs to the end: the frames are needed to show that the fault is detected
        wanted = context.stop_on_probe and case.expect == "pass"
        if wanted and stop_before_generation(run.evidence):
            return
        generation = self._generate(run)
        # packages and receipts are known only now; they are part of the subject, which decides nothing
        run.identity = identify(fingerprint=run.fingerprint, receipts=generation.receipts)
        with run.stage("compare"):
            clip = read_clip(run.folder / generation.clip)
            run.know(sanity=look_at_frames(case, generation, clip))
            # matched again, so that the table of changes also shows the packages; the goldens stay the same
            self._compare(run, match.again(run.identity), clip)
        self._time(run, generation)

    def _time(self, run: _Run, generation: gen.Generation) -> None:
        """Compare times and memory with the baseline. Skip controls and perturbed runs: they differ on purpose."""
        if run.case.expect != "pass" or self.context.perturbation.name != "none":
            return
        observed, _ = observe(run.evidence, self.context.runner.name)
        red = observed.outcome in (Outcome.REGRESSION, Outcome.CHECKPOINT_FAULT)
        look = Look(generation, run.engine, run.conditions)
        with run.stage("time"):
            timed = Timed(run.case, run.folder, look, run.fingerprint, red)
            try:
                report = judge_perf(self.context, timed, lambda: self.pool.get(run.case))
            # a fault of the engine or of the case is a verdict of its own
            except QuantgateError:
                raise
            except Exception as error:  # an unexpected fault of the timing code must not turn a case red
                report = PerfReport(state="inconclusive", message=f"could not be compared: {error!r}")
                run.log_tail = (*run.log_tail, *last_lines(error, run.case))
            run.know(perf=report)

    def _probe(self, run: _Run, match: MatchedGoldens) -> None:
        """Feed the recorded inputs into the engine, if there are any: seconds, before the minutes of a generation."""
        # a recording of another request may have other shapes, and its outputs belong to other inputs
        goldens = () if match.match.kind is MatchKind.REQUEST else match.match.goldens
        source = probe_source(self.context, run.case, goldens)
        if source is None:
            return
        engine = self._engine(run)
        with run.stage("probe"):
            run.know(probe=run_probes(engine, run.case, source, run.folder))

    def _engine(self, run: _Run) -> EngineOwner:
        with run.stage("load"):
            engine = self.pool.get(run.case, run.show)
            require_unchanged(run.stamps, engine.stamps, run.case.id)
            run.engine, run.fingerprint = engine.start_record, engine.fingerprint()
        return engine

    def _generate(self, run: _Run) -> gen.Generation:
        engine = self._engine(run)
        try:
            with run.stage("generate"), sampled(engine.pid, self.context.device.uuid) as seen:
                generation = engine.generate(run.case, run.folder, run.show)
            run.conditions = seen()
        finally:
            # after a crash too: the last lines often name what no exception can
            run.log_tail = engine.log_tail(LOG_TAIL_LINES)
        promised = run.engine.quantized_modules if run.engine else {}
        run.know(generation=generation, promised={expert: frozenset(names) for expert, names in promised.items()})
        return generation

    def _compare(self, run: _Run, match: MatchedGoldens, clip: Clip) -> None:
        """Compare the clip with every golden that the case accepts, and keep the comparison with the best outcome.

        If the golden is of another request, there is nothing to compare: the run leaves a candidate, as a first run
        does.
        """
        if match.match.kind is MatchKind.REQUEST:
            run.know(golden=match.first)
            return
        rows = [
            (golden, path, {"golden": evidence, "comparison": compare_with(path, run.case, clip)})
            for golden, evidence in zip(match.match.goldens, match.evidence, strict=True)
            for path in (golden.open_part(CLIP),)
        ]
        if not rows:
            return
        require_near({golden.digest: path for golden, path, _ in rows}, run.located.place)

        def how_good(row: tuple[Golden, Path, dict[str, Any]]) -> int:
            observed, _ = observe(run.evidence.plus(**row[2]), self.context.runner.name)
            # `SEVERITY` begins with the worst outcome, so the highest index is the best
            return SEVERITY.index(observed.outcome)

        # a bistable case counts by the golden that gives it the better verdict
        golden, path, evidence = max(rows, key=how_good)
        place_golden(golden, path, run.folder)
        run.know(**evidence)

    def _record(
        self, run: _Run, verdict: Verdict, checks: tuple[LimitCheck, ...], started: datetime, attempt: int
    ) -> CaseRecord:
        evidence = run.evidence
        timing = {
            name: run.seconds.get(name, 0.0) for name in ("inspect", "load", "probe", "generate", "compare", "time")
        }
        return CaseRecord(
            run=self.context.run,
            plan=self.context.plan,
            case=run.case.id,
            node=run.node,
            source=run.located.place,
            runner=self.context.runner.name,
            started=started.isoformat(timespec="seconds"),
            checkout=self._checkout,
            attempt=attempt,
            request=run.case.model_dump(mode="json"),
            verdict=verdict,
            fingerprint=run.fingerprint,
            identity=run.identity,
            golden=evidence.golden.digest if evidence.golden else None,
            changes=evidence.golden.changes if evidence.golden else (),
            inspection=evidence.inspection,
            engine=run.engine,
            probe=evidence.probe,
            generation=evidence.generation,
            sanity=evidence.sanity,
            comparison=evidence.comparison,
            limits=checks,
            conditions=run.conditions,
            perf=evidence.perf,
            timing=Timing(total=time.monotonic() - run.began, **timing),
            artifacts={name: file for name, file in ARTIFACTS.items() if (run.folder / file).exists()},
            log_tail=run.log_tail,
        )
