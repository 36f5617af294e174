"""Record the base of cases, and collect the samples of healthy runs, for a regeneration."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from harness.definitions.case import Case, Located
from harness.engine.owner import EngineOwner
from harness.errors import InvalidCaseError
from harness.frames.clip import read_clip
from harness.frames.errors import FramesError
from harness.goldens.golden import Golden
from harness.judge.observation import hold_against_nearest, read_observation
from harness.limits.probes import STEP, Values, probe_values, trace_values
from harness.outcomes import Outcome
from harness.reading import UnreadableError, reason
from harness.records.base import Json
from harness.records.case_record import CaseRecord
from harness.records.generation import Trace
from harness.records.limits import Sample
from harness.records.probe import PROBES
from harness.records.run_folder import ORIGIN_FILE, PROBES_FILE, RECORD_FILE, SKETCHES_FILE
from harness.session.conductor import Session
from harness.session.context import SessionContext
from harness.session.identity import identity_of
from harness.session.origin import Origin, Origins
from harness.session.probing import base_case, record_inputs, sketches_of
from harness.session.stages import TRACE

Run = tuple[str, CaseRecord, Path]
"""Label, record and folder of a healthy run."""


def record_all(
    context: SessionContext,
    cases: Iterable[Located],
    origins: Origins,
    begin: Callable[[str], None] = lambda _label: None,
) -> dict[str, Path]:
    """Return the path of the probe recording per case that has a base.

    Reuses the recording of an accepted golden of the same request, else one of this run with the same base, request
    and code, else makes one.

    Args:
        context: session context; new recordings are written below its folder.
        cases: the cases.
        origins: computes the origin of a recording.
        begin: called with a label before each case that has a base.

    Raises:
        QuantgateError: a base cannot be resolved or does not run, or a golden is damaged.
    """
    session = Session(context)

    def engine(case: Case) -> EngineOwner:
        return session.pool.get(case)

    try:
        recordings: dict[str, Path] = {}
        for located in cases:
            case = located.case
            if base_case(case) is not None:
                begin(f"{case.id}, recording of its base")
            recorded = _recorded(context, case)
            path = recorded or record_inputs(engine, case, context.folder / "probes" / case.id, origins)
            if path is not None:
                recordings[case.id] = path
        return recordings
    finally:
        session.close()


def _recorded(context: SessionContext, case: Case) -> Path | None:
    request = identity_of(case, context.device, {}).request
    for golden in reversed(context.store.find(context.runner.name, case.id)):
        if PROBES in golden.manifest.parts and golden.manifest.identity.request == request:
            return golden.open_part(PROBES)
    return None


def samples_of(
    goldens: Sequence[Golden], reference: Run, runs: Iterable[Run], others: Sequence[Run] = ()
) -> dict[str, tuple[Sample, ...]]:
    """Return samples per measure: every healthy run compared with the golden, or with the run that becomes it.

    Args:
        goldens: accepted goldens that stay, several for a bistable case. If empty, the reference becomes the golden.
        reference: the unperturbed run. It is a sample too, because its errors against the base count.
        runs: the perturbed runs.
        others: runs that become further goldens.
    """
    label, record, folder = reference
    traces = [record.generation.trace] if record.generation is not None else []
    sketches: list[Path] = [folder / SKETCHES_FILE]
    if goldens:
        traces = [Trace.read(golden.open_part(TRACE)) for golden in goldens if TRACE in golden.manifest.parts]
        sketches = sketches_of(goldens)
    traces += [ran.generation.trace for _, ran, _ in others if ran.generation is not None]
    sketches = [*sketches, *(place / SKETCHES_FILE for _, _, place in others)]
    table: dict[str, list[Sample]] = {}
    for name, ran, place in ((label, record, folder), *runs):
        for measure, value in _values(ran, place, traces, sketches).items():
            sample = Sample(value=value, run=name, side="benign", fingerprint=_fingerprint(ran))
            table.setdefault(measure, []).append(sample)
    return {measure: tuple(rows) for measure, rows in table.items()}


def _values(record: CaseRecord, folder: Path, traces: Sequence[Trace], sketches: Sequence[Path]) -> Values:
    values: Values = {}
    if record.generation is not None and traces:
        run_trace = record.generation.trace
        candidates = [trace_values(run_trace, trace) for trace in traces]
        nearest = min(candidates, key=lambda row: row.get(STEP.name, 0.0))
        values |= nearest
    inputs, sketches_file = folder / PROBES_FILE, folder / SKETCHES_FILE
    anchors = [read_observation(path) for path in sketches if path.exists()]
    if anchors and inputs.exists() and sketches_file.exists():
        values |= probe_values(hold_against_nearest(read_observation(sketches_file), read_observation(inputs), anchors))
    return values


def _fingerprint(record: CaseRecord) -> dict[str, Json]:
    print_ = record.fingerprint
    return {} if print_ is None else print_.model_dump(mode="json", exclude={"packages", "code"})


# The smallest changes that eight bits can show. No limit may lie nearer to its golden than these.


Frames = npt.NDArray[np.uint8]
SEED = 20260520


def rounding_samples(frames: Frames) -> dict[str, Frames]:
    """Return, per label, clips [T, H, W, 3] that differ from ``frames`` by at most one level of 255 in any value.

    ``rounding-noise`` changes every value by -1, 0 or +1, seeded. ``rounding-up`` and ``rounding-down`` change every
    value by one level, a shift of the mean that noise does not have. ``rounding-frames`` changes every other pixel by
    one level, up or down per frame, seeded: a flicker.
    """
    random = np.random.default_rng(SEED)
    noise = random.integers(-1, 2, size=frames.shape, dtype=np.int16)
    checkered = (np.indices(frames.shape[1:3]).sum(axis=0) % 2)[None, :, :, None]
    signs = random.choice(np.array([-1, 1], dtype=np.int16), size=len(frames))[:, None, None, None]
    return {
        "rounding-noise": _moved(frames, noise),
        "rounding-up": _moved(frames, 1),
        "rounding-down": _moved(frames, -1),
        "rounding-frames": _moved(frames, checkered * signs),
    }


def _moved(frames: Frames, by: npt.NDArray[np.int16] | int) -> Frames:
    # int16, because uint8 would wrap around at 0 and 255.
    moved: Frames = np.clip(frames.astype(np.int16) + by, 0, 255).astype(np.uint8)
    return moved


# Healthy runs from elsewhere: other hosts, other days, downloaded artifacts. They are read, never repeated.


HEALTHY = frozenset({Outcome.PASS, Outcome.GOLDEN_MISSING})


@dataclass(frozen=True)
class Result:
    """One run of a case, read from a folder of results."""

    label: str
    record: CaseRecord
    folder: Path


def read_results(folders: Sequence[Path], runner: str | None = None) -> tuple[Result, ...]:
    """Read every record below ``folders`` that has a generation.

    Args:
        folders: folders that contain runs at any depth.
        runner: the runner whose limits are placed; ``None`` reads the records of all runners.

    Raises:
        InvalidCaseError: a folder holds no record; or a record cannot be read, is of another runner, or its frames
            do not match the digest in it.
    """
    results: list[Result] = []
    for number, folder in enumerate(folders):
        rows = list(_read(folder, number, runner))
        if not rows:
            raise InvalidCaseError("holds no record of a run", place=str(folder), remedy="name a folder below runs/")
        results += rows
    return tuple(results)


def _read(folder: Path, number: int, runner: str | None) -> Iterator[Result]:
    for path in sorted(folder.rglob(RECORD_FILE)):
        try:
            record = CaseRecord.read(path)
        except (OSError, UnreadableError) as error:
            raise InvalidCaseError(f"cannot be read: {reason(error)}", place=str(path)) from None
        if runner is not None and record.runner != runner:
            raise InvalidCaseError(
                f"is a run on {record.runner}, and the limits are those of {runner}",
                place=str(path),
                remedy=f"name results of {runner} only, or add --runner {record.runner}",
            )
        if record.generation is None:
            continue
        _check_frames(path.parent, record)
        yield Result(f"result-{number}/{record.run}", record, path.parent)


def _check_frames(folder: Path, record: CaseRecord) -> None:
    if record.generation is None:
        return
    path = folder / record.generation.clip
    try:
        digest = read_clip(path).digest
    except (OSError, ValueError, FramesError) as error:
        raise InvalidCaseError(f"its frames cannot be read: {error}", place=str(path)) from None
    if digest != record.generation.clip_sha256:
        raise InvalidCaseError("these are not the frames that its record speaks of", place=str(path))


def healthy(results: Sequence[Result], case: str, identity: str) -> tuple[Result, ...]:
    """Return the results of a case that count as healthy samples of this identity.

    A run that failed only by its frames counts, because new limits are measured for such runs. A run that fails any
    other stage does not count, nor does a negative control or a waived case.
    """
    of_case = [result for result in results if result.record.case == case]
    return tuple(
        result
        for result in of_case
        if result.record.identity and result.record.identity.digest() == identity and _is_healthy(result)
    )


def _is_healthy(result: Result) -> bool:
    verdict = result.record.verdict
    if verdict.observed is not None or result.record.request.get("expect", "pass") != "pass":
        return False  # Negative control or waived case: the outcome is not that of the evidence.
    if verdict.outcome in HEALTHY:
        return True
    gating = {finding.stage for finding in verdict.findings if finding.gating}
    return verdict.outcome is Outcome.REGRESSION and gating == {"frames"}


# Reuse of runs on disk from an interrupted regeneration: only if their origin is the same.


def keep(folder: Path, origin: Origin) -> None:
    """Write the origin of the run in ``folder``, which marks it as complete. A run without it is repeated."""
    origin.write(folder / ORIGIN_FILE)


def read_kept(folder: Path, origin: Origin) -> CaseRecord | str:
    """Return the record of a healthy run of this origin, or why it cannot be reused; empty if there is no record."""
    if not (folder / RECORD_FILE).exists():
        return ""
    try:
        before, record = Origin.read(folder / ORIGIN_FILE), CaseRecord.read(folder / RECORD_FILE)
    except (OSError, ValueError):
        return "its record is incomplete, or does not state its origin"
    if before != origin:
        return f"it was made of something else: {origin.differs(before)}"
    if record.verdict.outcome is not Outcome.GOLDEN_MISSING:
        return f"it ended {record.verdict.outcome.value}"
    if record.identity is None or record.identity.digest() != origin.identity or record.generation is None:
        return "its record is of another identity"
    try:
        digest = read_clip(folder / record.generation.clip).digest
    except (OSError, ValueError, FramesError):
        return "its frames cannot be read"
    return record if digest == record.generation.clip_sha256 else "these are not the frames that its record speaks of"
