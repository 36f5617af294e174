"""Regeneration's part in probes and traces: record the base, and collect samples over the healthy runs."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from harness.definitions.case import Case, Located
from harness.goldens.golden import Golden
from harness.judge.observation import hold_against, read_observation
from harness.judge.probe_limits import Values, probe_values, trace_values
from harness.pipeline.owner import EngineOwner
from harness.records.base import Json
from harness.records.case_record import CaseRecord
from harness.records.generation import Trace
from harness.records.limits import Sample
from harness.records.probe import PROBES, SKETCHES
from harness.session.conductor import Session
from harness.session.context import SessionContext
from harness.session.identity import identity_of
from harness.session.origin import Origins
from harness.session.probing import PROBES_FILE, SKETCHES_FILE, record_inputs
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


def samples_of(golden: Golden | None, reference: Run, runs: Iterable[Run]) -> dict[str, tuple[Sample, ...]]:
    """Samples by measure: every healthy run against the golden to be.

    Args:
        golden: the golden that stays; ``None``: the reference run becomes it.
        reference: the run as it is.
        runs: the perturbed runs. The reference is a sample too: base errors count even where it is alone.
    """
    label, record, folder = reference
    trace = record.generation.trace if record.generation is not None else None
    sketches: Path | None = folder / SKETCHES_FILE
    probing = True
    if golden is not None:
        parts = golden.manifest.parts
        trace = Trace.read(golden.open_part(TRACE)) if TRACE in parts else None
        probing = PROBES in parts
        sketches = golden.open_part(SKETCHES) if SKETCHES in parts else None
    table: dict[str, list[Sample]] = {}
    for name, ran, place in ((label, record, folder), *runs):
        values = _values(ran, place, trace, sketches if probing else None)
        for measure, value in values.items():
            sample = Sample(value=value, run=name, side="benign", fingerprint=_fingerprint(ran))
            table.setdefault(measure, []).append(sample)
    return {measure: tuple(rows) for measure, rows in table.items()}


def _values(record: CaseRecord, folder: Path, trace: Trace | None, sketches: Path | None) -> Values:
    values: Values = {}
    if record.generation is not None and trace is not None:
        values |= trace_values(record.generation.trace, trace)
    inputs, mine = folder / PROBES_FILE, folder / SKETCHES_FILE
    if sketches is not None and sketches.exists() and inputs.exists() and mine.exists():
        anchor = read_observation(sketches)
        values |= probe_values(hold_against(read_observation(mine), read_observation(inputs), anchor))
    return values


def _fingerprint(record: CaseRecord) -> dict[str, Json]:
    print_ = record.fingerprint
    return {} if print_ is None else print_.model_dump(mode="json", exclude={"packages", "code"})
