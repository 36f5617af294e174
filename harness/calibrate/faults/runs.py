"""Make additional runs of a case: healthy disturbed runs, and runs from broken copies of its checkpoint.

Each run has its own folder. The engine's result ``generation.json`` is written last and marks the run as complete: an
interrupted regeneration reads complete runs and makes the rest.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from harness.calibrate.faults.weights import EXPERTS, STRENGTHS, WeightFault, inject, weight_faults
from harness.definitions.case import Case
from harness.engine.owner import EngineOwner
from harness.engine.resolve import resolve_case
from harness.errors import CheckpointFaultError, InfraError, InvalidCaseError
from harness.frames.clip import Clip, read_clip
from harness.frames.errors import FramesError
from harness.records.base import Json
from harness.records.generation import Generation
from harness.records.run_folder import RunFolder
from harness.records.temporary import scratch_folder
from harness.session.context import SessionContext

DONE = "generation.json"
ORIGIN_DIGITS = 16
_SAME_ENOUGH = 4
"""Repeats with the same pixels after which no more are made. A runtime that picks one of two results by chance shows
both within the ordinary runs and four repeats in all but one of 100 regenerations."""
ReportLine = Callable[[str], None]

NOISES: tuple[tuple[str, dict[str, Json]], ...] = (
    ("ulp-initial", {"initial": True, "between": False}),
    ("ulp-between", {"initial": False, "between": True}),
    ("ulp-both", {"initial": True, "between": True}),
)
"""Disturbances by one unit in the last place of bf16, the dtype that the experts read, per place in the generation."""


@dataclass(frozen=True)
class Run:
    """One run and its frames."""

    label: str
    clip: Clip
    fault: str = ""
    strength: float | None = None
    repeat: Path | None = None
    """Folder of an undisturbed repeat, which may become a golden; ``None`` for disturbed and broken runs."""


def noisy_runs(
    context: SessionContext,
    case: Case,
    origin: str,
    count: int,
    report_line: ReportLine,
    begin: ReportLine = lambda _label: None,
) -> tuple[Run, ...]:
    """Make ``count`` disturbed runs of a case in one process, with each of ``NOISES`` in turn.

    If the backend, or the case's program, cannot disturb a generation, the unchanged case is repeated instead, and
    ``report_line`` gets a line about it. Complete runs on disk with the same ``origin`` (digest of all inputs of the
    case's run) are read.

    Raises:
        QuantgateError: the engine failed.
    """
    if count <= 0:
        return ()
    root, runs = context.folder / "noise" / case.id / origin[:ORIGIN_DIGITS], []
    with _engine(context, case, resolve_case(case, context.root)) as engine:
        for index in range(count):
            name, places = NOISES[index % len(NOISES)]
            seed = 1 + index
            begin(f"{case.id}, {name}-{seed}")
            noise: dict[str, Json] = {"seed": seed, "dtype": "bf16", **places}
            try:
                run = _disturbed(engine, case, root / f"{name}-{seed}", noise)
            except InvalidCaseError as error:
                report_line(f"{case.id}: no disturbed runs, repeats instead: {error.message}")
                return _repeats(engine, case, root, count, report_line)
            runs.append(Run(f"{name}-{seed}", run))
            report_line(f"{case.id}: {name}-{seed}")
    return tuple(runs)


def _repeats(engine: _Engine, case: Case, root: Path, count: int, report_line: ReportLine) -> tuple[Run, ...]:
    """Repeat the unchanged case, to measure the distance between healthy runs of one request.

    Stops after `_SAME_ENOUGH` repeats with the same pixels: further repeats would be bit-exact and measure no noise.
    """
    runs: list[Run] = []
    for index in range(1, count + 1):
        folder = root / f"repeat-{index}"
        clip = _read(folder)
        if clip is None:
            try:
                clip = _keep(folder, engine.get().generate(case, folder))
            except InvalidCaseError:  # The engine itself is refused; the ordinary runs report it.
                return tuple(runs)
        runs.append(Run(f"repeat-{index}", clip, repeat=folder))
        report_line(f"{case.id}: repeat-{index}")
        if index == _SAME_ENOUGH and len({run.clip.digest for run in runs}) == 1:
            report_line(f"{case.id}: {index} repeats are bit-exact, so no more are made; they measure no noise")
            break
    return tuple(runs)


def _disturbed(engine: _Engine, case: Case, folder: Path, noise: dict[str, Json]) -> Clip:
    clip = _read(folder)
    if clip is not None:
        return clip
    params: dict[str, Json] = {"case": case.model_dump(mode="json"), "out_dir": str(folder.resolve()), "noise": noise}
    answer = engine.get().call("generate_perturbed", params, case.timeouts.generate)
    return _keep(folder, Generation.model_validate(answer))


def broken_runs(
    context: SessionContext,
    case: Case,
    origin: str,
    report_line: ReportLine,
    faults: tuple[WeightFault, ...] | None = None,
    strengths: tuple[float, ...] = STRENGTHS,
    begin: ReportLine = lambda _label: None,
) -> tuple[Run, ...]:
    """Generate with every fault that the case's checkpoint can have, at every strength, from broken copies.

    Faults that do not apply to its formats are skipped. If the engine refuses to load a copy, the fault needs no limit
    to be detected; if the engine fails, the run gives no sample. ``report_line`` gets a line about both. The copies are
    deleted. Complete runs on disk with the same ``origin`` are read.

    Raises:
        QuantgateError: the checkpoint does not exist.
    """
    paths = resolve_case(case, context.root)
    root, runs = context.folder / "controls" / case.id / origin[:ORIGIN_DIGITS], []
    with scratch_folder("quantgate-controls-") as scratch, _engine(context, case, paths) as engine:
        for fault in weight_faults() if faults is None else faults:
            for strength in strengths:
                label = f"{fault.name}@{strength:g}"
                begin(f"{case.id}, {label}")
                clip = _read(root / label)
                if clip is None:
                    copy = scratch / label
                    try:
                        engine.load(_broken(paths, fault, strength, copy))
                        clip = _keep(root / label, engine.get().generate(case, root / label))
                    except (CheckpointFaultError, InfraError) as error:
                        # The formats of the checkpoint cannot have this fault: nothing to report.
                        if getattr(error, "code", "") != "nothing_to_break":
                            refused = isinstance(error, CheckpointFaultError)
                            why = "needs no limit, it does not load" if refused else "could not be run and is left out"
                            report_line(f"{case.id}: {label} {why}: {error.message}")
                        continue
                    finally:
                        shutil.rmtree(copy, ignore_errors=True)
                    report_line(f"{case.id}: {label}")
                runs.append(Run(label, clip, fault.name, strength))
    return tuple(runs)


def _broken(paths: dict[str, Path], fault: WeightFault, strength: float, copy: Path) -> dict[str, Path]:
    """Return the folders per role, with broken copies of the expert overrides if there are any, else of the model."""
    overrides = [role for role in EXPERTS if role in paths]
    if not overrides:
        inject(fault, strength, paths["model"], copy)
        return {**paths, "model": copy}
    for role in overrides:
        inject(fault, strength, paths[role], copy / role)
    return {**paths, **{role: copy / role for role in overrides}}


class _Engine:
    """Owner of one engine at a time, started on first use."""

    def __init__(self, context: SessionContext, case: Case, paths: dict[str, Path]) -> None:
        self._context, self._case, self._paths = context, case, paths
        self._owner: EngineOwner | None = None

    def get(self) -> EngineOwner:
        """Return the running engine; start it if there is none or it died."""
        if self._owner is None or not self._owner.alive:
            self.close()
            context = self._context
            self._owner = EngineOwner(
                self._case,
                RunFolder(context.folder).engines,
                {**context.device_env, **context.runtime_env(self._case)},
                self._paths,
                device=context.device.kind,
                runner=context.runner.name,
                allow_python_backend=context.allow_python_backend,
                root=context.root,
            )
            self._owner.start()
        return self._owner

    def load(self, paths: dict[str, Path]) -> None:
        """Load from other folders. On a GPU the engine is restarted: its memory may not hold two models at once."""
        self._paths, owner = paths, self._owner
        if owner is None or not owner.alive or self._context.device.kind != "cpu":
            self.close()
            return
        owner.reload(paths)

    def close(self) -> None:
        """Stop the engine."""
        if self._owner is not None:
            self._owner.close()
            self._owner = None


@contextmanager
def _engine(context: SessionContext, case: Case, paths: dict[str, Path]) -> Iterator[_Engine]:
    engine = _Engine(context, case, paths)
    try:
        yield engine
    finally:
        engine.close()


def _read(folder: Path) -> Clip | None:
    """Return the frames of a complete run whose digest matches ``generation.json``; ``None``: it must be repeated."""
    try:
        generation = Generation.read(folder / DONE)
        clip = read_clip(folder / generation.clip)
    except (OSError, ValueError, FramesError):
        return None
    return clip if clip.digest == generation.clip_sha256 else None


def _keep(folder: Path, generation: Generation) -> Clip:
    generation.write(folder / DONE)
    return read_clip(folder / generation.clip)
