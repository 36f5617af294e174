"""Regeneration's part in probes and traces: record the base, and collect samples over the healthy runs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from harness.definitions.case import Case, Located
from harness.goldens.golden import Golden
from harness.judge.observation import hold_against_nearest, read_observation
from harness.judge.probe_limits import STEP, Values, probe_values, trace_values
from harness.pipeline.owner import EngineOwner
from harness.records.base import Json
from harness.records.case_record import CaseRecord
from harness.records.generation import Trace
from harness.records.limits import Sample
from harness.records.probe import PROBES
from harness.session.conductor import Session
from harness.session.context import SessionContext
from harness.session.identity import identity_of
from harness.session.origin import Origins
from harness.session.probing import PROBES_FILE, SKETCHES_FILE, record_inputs, sketches_of
from harness.session.stages import TRACE

Run = tuple[str, CaseRecord, Path]
"""Label, record and folder of a healthy run."""


def record_all(context: SessionContext, cases: Iterable[Located], origins: Origins) -> dict[str, Path]:
    """The recording of every case that has a base: that of an accepted golden of the same request, one of this run of
    the same base, request and code, or a fresh one.

    Raises:
        QuantgateError: a base cannot be resolved or does not run, or a golden is damaged.
    """
    session = Session(context)

    def engine(case: Case) -> EngineOwner:
        return session.pool.get(case)

    try:
        found: dict[str, Path] = {}
        for located in cases:
            case = located.case
            kept = _recorded(context, case)
            path = kept or record_inputs(engine, case, context.folder / "probes" / case.id, origins)
            if path is not None:
                found[case.id] = path
        return found
    finally:
        session.close()


def _recorded(context: SessionContext, case: Case) -> Path | None:
    request = identity_of(case, context.device, {}).request
    for golden in reversed(context.store.find(context.runner.name, case.id)):
        if PROBES in golden.manifest.parts and golden.manifest.identity.request == request:
            return golden.open_part(PROBES)
    return None


def samples_of(goldens: Sequence[Golden], reference: Run, runs: Iterable[Run]) -> dict[str, tuple[Sample, ...]]:
    """Samples by measure: every healthy run against the golden to be.

    Args:
        goldens: those that stay, of a bistable case several; none: the reference run becomes it.
        reference: the run as it is.
        runs: the perturbed runs. The reference is a sample too: base errors count even where it is alone.
    """
    label, record, folder = reference
    traces = [record.generation.trace] if record.generation is not None else []
    sketches: list[Path] = [folder / SKETCHES_FILE]
    if goldens:
        traces = [Trace.read(one.open_part(TRACE)) for one in goldens if TRACE in one.manifest.parts]
        sketches = sketches_of(goldens)
    table: dict[str, list[Sample]] = {}
    for name, ran, place in ((label, record, folder), *runs):
        for measure, value in _values(ran, place, traces, sketches).items():
            sample = Sample(value=value, run=name, side="benign", fingerprint=_fingerprint(ran))
            table.setdefault(measure, []).append(sample)
    return {measure: tuple(rows) for measure, rows in table.items()}


def _values(record: CaseRecord, folder: Path, traces: Sequence[Trace], sketches: Sequence[Path]) -> Values:
    values: Values = {}
    if record.generation is not None and traces:
        mine = record.generation.trace
        found = [trace_values(mine, trace) for trace in traces]
        nearest = min(found, key=lambda one: one.get(STEP.name, 0.0))
        values |= nearest
    inputs, seen = folder / PROBES_FILE, folder / SKETCHES_FILE
    anchors = [read_observation(path) for path in sketches if path.exists()]
    if anchors and inputs.exists() and seen.exists():
        values |= probe_values(hold_against_nearest(read_observation(seen), read_observation(inputs), anchors))
    return values


def _fingerprint(record: CaseRecord) -> dict[str, Json]:
    print_ = record.fingerprint
    return {} if print_ is None else print_.model_dump(mode="json", exclude={"packages", "code"})
