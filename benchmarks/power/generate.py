"""Generate, hold against the golden, keep the numbers. One process loads one engine after another, all in itself."""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import chdir, contextmanager, nullcontext
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from benchmarks.faults.conditioning import CONDITIONING
from benchmarks.power.design import GOLDEN, PROMPTS, SAMPLING, Design, Engine, Task
from benchmarks.power.models import MODELS, Model, image_of, picture
from benchmarks.power.result import Result
from harness.definitions.case import Case
from harness.engine.pictures import hand_over
from harness.records.base import write_bytes_atomic
from harness.session.perturbation import by_name

ROOT = Path(__file__).resolve().parents[2]
RESERVE_SECONDS = 5.0
"""No run is begun this near to the end of the budget."""


@dataclass(frozen=True)
class Settings:
    """Fixed for one call."""

    out: Path
    device: str
    weights: str
    """Digest of the weights, part of every result's name."""
    deadline: float
    """``time.time()`` at which to stop."""
    model: Model = MODELS["t2v"]

    @property
    def export(self) -> Path:
        """The healthy NVFP4 export."""
        return self.out / f"export-{self.weights[:12]}"

    @property
    def base(self) -> Path:
        """The unquantized repository."""
        return self.out / f"base-{self.weights[:12]}" if self.model.takes_picture else ROOT / "tiny" / "weights"

    def golden(self, case: tuple[int, int]) -> Path:
        """Folder of one golden."""
        return self.out / "goldens" / f"{self.weights[:12]}-{self.device}" / f"prompt-{case[0]}-seed-{case[1]}"

    def result(self, task: Task, case: tuple[int, int]) -> Path:
        """Where a task's results lie: one file, written whole when all of them are known."""
        return self.out / "results" / f"{task.key(*case, self.weights, self.device)}.json"


@dataclass(frozen=True)
class Unit:
    """What one process does in one go, with one engine."""

    engine: Engine
    tasks: tuple[Task, ...]
    cases: tuple[tuple[int, int], ...]


@dataclass
class _Loaded:
    """The engine that stands in this process."""

    engine: Engine
    backend: Any
    case: Case
    report: Any
    refused: str = ""
    inspected: tuple[str, ...] = ()
    probes: dict[tuple[int, int], Any] = field(default_factory=dict)


_standing: list[_Loaded] = []


def run_units(units: list[Unit], settings: Settings, workers: int) -> int:
    """Run what is not there yet, in ``workers`` processes (0: in this one). Returns how many results were added."""
    done = 0
    for isa in sorted({unit.engine.isa for unit in units}):
        units_of_isa = [unit for unit in units if unit.engine.isa == isa]
        if workers == 0:
            done += sum(execute(settings, unit) for unit in units_of_isa)
            continue
        env = dict(by_name(isa).env) if isa else {}
        before = {name: os.environ.get(name) for name in env}
        os.environ.update(env)
        try:
            with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
                jobs = [pool.submit(execute, settings, unit) for unit in units_of_isa]
                for number, job in enumerate(as_completed(jobs), start=1):
                    done += job.result()
                    print(f"\r{isa or 'native'}: {number} of {len(jobs)} units, {done} results", end="", flush=True)
            print()
        finally:
            for name, value in before.items():
                os.environ.pop(name, None) if value is None else os.environ.update({name: value})
    return done


def plan(design: Design, settings: Settings, chunk: int = 1) -> list[Unit]:
    """Units of everything that has no result yet. Tasks of the healthy engine are cut by cases, others are not."""
    units: list[Unit] = []
    tasks = design.tasks()
    for engine in dict.fromkeys(task.engine for task in tasks):
        tasks_of_engine = tuple(task for task in tasks if task.engine == engine)
        cases = design.cases()
        step = chunk if len(tasks_of_engine) > 4 else len(cases)
        for start in range(0, len(cases), step):
            part = tuple(cases[start : start + step])
            todo = tuple(
                task for task in tasks_of_engine if any(not settings.result(task, case).exists() for case in part)
            )
            if todo:
                units.append(Unit(engine, todo, part))
    return units


def execute(settings: Settings, unit: Unit) -> int:
    """Run one unit as far as time allows. Returns how many result files were written."""
    written = 0
    for case in unit.cases:
        for task in unit.tasks:
            path = settings.result(task, case)
            if path.exists():
                continue
            if time.time() > settings.deadline - RESERVE_SECONDS:
                return written
            rows = list(_run(settings, _load(settings, unit.engine), task, case))
            _write(path, rows)
            written += 1
    return written


def make_goldens(settings: Settings, cases: tuple[tuple[int, int], ...]) -> int:
    """Recording of the base, golden clip, trace and sketches of every case that has none."""
    import torch

    todo = [case for case in cases if not (settings.golden(case) / "generation.json").exists()]
    if not todo:
        return 0
    base = _backend(requested(0, 0, settings, base=True), settings.base, settings)
    for prompt, seed in todo:
        folder = settings.golden((prompt, seed))
        folder.mkdir(parents=True, exist_ok=True)
        case = requested(prompt, seed, settings, base=True)
        params = {"case": case.model_dump(mode="json"), "out": str(folder / "probes.safetensors")}
        with _pictures(settings, case):
            base.methods()["record_probes"](params, _ignore)
    base.close()
    loaded = _load(settings, GOLDEN.engine)
    for case_key in todo:
        folder = settings.golden(case_key)
        params = {"inputs": str(folder / "probes.safetensors"), "out": str(folder / "sketches.safetensors")}
        loaded.backend.methods()["probe"](params, _ignore)
        case = requested(*case_key, settings)
        with _pictures(settings, case):
            generation = loaded.backend.generate(case, folder, _ignore)
        generation.write(folder / "generation.json")
    if settings.device == "cuda":
        torch.cuda.empty_cache()
    return len(todo)


def requested(prompt: int, seed: int, settings: Settings, *, base: bool = False) -> Case:
    """The case as a person wrote it: what the golden answers, and what every run is judged by."""
    model = settings.model
    given = {"image": image_of(prompt)} if model.takes_picture else {}
    return Case.model_validate(
        {
            "id": f"prompt-{prompt}-seed-{seed}",
            "runners": ["cpu"],
            "model": {"path": str((settings.base if base else settings.export).resolve())},
            "base": {"path": str(settings.base.resolve())},
            "sampling": {"prompt": PROMPTS[prompt], "seed": seed, **SAMPLING, **given},
            "scheduler": dict(model.scheduler),
            "quantization": model.quantization("bf16" if base else "nvfp4"),
        }
    )


@contextmanager
def _pictures(settings: Settings, case: Case) -> Iterator[None]:
    """Put the case's picture to where an engine in this process reads it: below its working folder."""
    image = case.sampling.image
    if image is None:
        yield
        return
    file = settings.out / image.path
    if not file.exists():
        write_bytes_atomic(file, picture(int(file.stem.removeprefix("prompt-"))))
    hand_over(case, {"image": file}, settings.out)
    with chdir(settings.out):
        yield


def changed(case: Case, sections: dict[str, dict[str, Any]]) -> Case:
    """The case with other values in some sections."""
    data = case.model_dump(mode="json")
    for name, values in sections.items():
        data[name] = {**data[name], **values}
    return Case.model_validate(data)


def _ignore(_: dict[str, Any]) -> None:
    """Progress is not shown."""


def _backend(case: Case, model: Path, settings: Settings) -> Any:
    from harness.engine.backends.diffusers_backend import DiffusersBackend

    backend = DiffusersBackend()
    with _pictures(settings, case):
        backend.load(case, {"model": model}, settings.device, _ignore)
    return backend


def _load(settings: Settings, engine: Engine) -> _Loaded:
    """The engine, loaded; the one that stands, where it is the same."""
    from benchmarks.power.checkpoints import prepare
    from harness.errors import QuantgateError
    from harness.session.inspecting import inspect

    if _standing and _standing[0].engine == engine:
        return _standing[0]
    while _standing:
        old = _standing.pop()
        if old.backend is not None:
            old.backend.close()
    case = changed(requested(0, 0, settings), engine.sections())
    with tempfile.TemporaryDirectory(prefix="quantgate-power-") as scratch:
        folder = prepare(engine, settings.export.resolve(), Path(scratch) / "copy", settings.base.resolve())
        report = inspect(case, ROOT, {"model": folder})
        inspected = tuple(sorted({item.code for item in report.findings if item.severity == "fault"}))
        loaded = _Loaded(engine, None, case, report, inspected=inspected)
        try:
            loaded.backend = _backend(case, folder, settings)
        except QuantgateError as error:
            loaded.refused = f"{type(error).__name__}: {error.message}"
        shutil.rmtree(scratch, ignore_errors=True)
        Path(scratch).mkdir()
    _standing.append(loaded)
    return loaded


def _run(settings: Settings, loaded: _Loaded, task: Task, key: tuple[int, int]) -> Iterator[Result]:
    from benchmarks.power.judging import Judge
    from harness.engine.noise import Noise
    from harness.errors import QuantgateError
    from harness.frames.clip import read_clip
    from harness.frames.errors import FramesError

    began = time.perf_counter()
    judge = Judge(settings, requested(*key, settings), key)
    facts: dict[str, Any] = {"side": task.side, "name": task.name, "kind": task.kind}
    if task.engine.checkpoint != "healthy":
        facts["strength"] = task.engine.strength
    if loaded.backend is None:
        yield judge.refused(facts, loaded.inspected, loaded.refused)
        return
    asked = changed(requested(*key, settings), {**task.engine.sections(), **{n: dict(v) for n, v in task.request}})
    noise = Noise.model_validate(dict(task.noise)) if task.noise else None
    with tempfile.TemporaryDirectory(prefix="quantgate-power-") as scratch:
        broken = CONDITIONING[task.condition].patch(loaded.backend.pipe) if task.condition else nullcontext()
        try:
            with _pictures(settings, asked), broken:
                generation = loaded.backend.generate_with(asked, Path(scratch), _ignore, noise)
            clip = read_clip(Path(scratch) / generation.clip)
        except (QuantgateError, FramesError) as error:
            yield judge.refused(facts, loaded.inspected, f"{type(error).__name__}: {error}")
            return
        if key not in loaded.probes:
            loaded.probes[key] = judge.probe(loaded.backend, Path(scratch))
    modules = {name: frozenset(names) for name, names in loaded.backend.quantized_modules().items()}
    evidence = {"inspection": loaded.report, "generation": generation, "promised": modules}
    seconds = time.perf_counter() - began
    yield judge.judge(facts, clip, evidence, loaded.probes[key]).model_copy(update={"seconds": seconds})
    if task.carries:
        yield from judge.spoiled(clip, evidence, loaded.probes[key])
        yield from judge.controls(evidence)


def _write(path: Path, rows: list[Result]) -> None:
    from pydantic import TypeAdapter

    write_bytes_atomic(path, TypeAdapter(list[Result]).dump_json(rows, indent=1))
