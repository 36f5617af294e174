"""The steps of ``benchmarks.real_size``: each measures one thing and saves what it measured as soon as it knows it."""

from __future__ import annotations

import json
import os
import platform
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

from benchmarks.attribution_setup import FAULTS
from benchmarks.faults.engine import FAULT_FILE
from benchmarks.real_size.setup import SOURCE, Setup, Shape, drop_from_cache, fresh_cache
from harness.calibrate.apply import apply
from harness.calibrate.regenerate import Plan, measure
from harness.definitions.case import Case, Located
from harness.engine.owner import EngineOwner
from harness.engine.resolve import resolve_case
from harness.goldens.accept import accept
from harness.goldens.refusing import Allow
from harness.goldens.workspace import Workspace
from harness.machine.devices import driver_version
from harness.machine.processes import descendants
from harness.records.case_record import CaseRecord
from harness.session.conductor import Session
from harness.session.perturbation import plan as perturbations
from tiny.tile import TileFormat, tile

Facts = dict[str, Any]
SWAPPED = "transformer_2/blocks.3.attn1.to_q"
"""The Linear whose nibbles are exchanged inside the engine: its bytes on disk stay right, so only a probe sees it."""
READERS = 8
_CHUNK = 16 << 20


@dataclass(frozen=True)
class Task:
    """What a step works with."""

    setup: Setup
    known: Facts
    """What this step saved when it was interrupted."""
    save: Callable[[Facts], None]


@contextmanager
def timed(facts: Facts, name: str) -> Iterator[None]:
    """Take the wall time of a block as ``facts[name]``, in seconds."""
    began = time.perf_counter()
    yield
    facts[name] = round(time.perf_counter() - began, 3)


def machine(task: Task) -> Facts:
    """What is measured on."""
    import torch

    device = task.setup.this_device()
    pages, size = os.sysconf("SC_PHYS_PAGES"), os.sysconf("SC_PAGE_SIZE")
    return {
        "device": device.name,
        "driver": driver_version(),
        "memory_gb": round(pages * size / 1e9, 1),
        "cores": os.cpu_count(),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "free_gb": {str(place): round(_free(place) / 1e9, 1) for place in task.setup.places},
        "width": task.setup.width,
        "layers": task.setup.layers,
    }


def _free(place: Path) -> int:
    place.mkdir(parents=True, exist_ok=True)
    return shutil.disk_usage(place).free


def build(task: Task, form: TileFormat) -> Facts:
    """Write one model."""
    setup, facts = task.setup, Facts()
    place = setup.place_for(form)
    with timed(facts, "seconds"):
        folder = tile(place, form, setup.width, setup.layers, say=lambda line: print(f"  {line}", flush=True))
    setup.link(form, folder)
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    return facts | {"bytes": size, "folder": str(folder)}


def read(task: Task, form: TileFormat) -> Facts:
    """Read every byte of both experts and do nothing with them: what no loader can beat."""
    folder, facts = task.setup.model(form), Facts()
    facts["state"] = drop_from_cache(folder)
    shards = sorted(folder.glob("transformer*/*.safetensors"))
    for name in ("first", "again"):
        with timed(facts, f"{name}_seconds"), ThreadPoolExecutor(READERS) as pool:
            facts["bytes"] = sum(pool.map(_read_slice, _slices(shards)))
    return facts


def _slices(files: list[Path]) -> list[tuple[Path, int, int]]:
    return [
        (path, start, min(_CHUNK, path.stat().st_size - start))
        for path in files
        for start in range(0, path.stat().st_size, _CHUNK)
    ]


def _read_slice(part: tuple[Path, int, int]) -> int:
    path, start, length = part
    descriptor = os.open(path, os.O_RDONLY)
    try:
        return os.preadv(descriptor, [bytearray(length)], start)
    finally:
        os.close(descriptor)


def inspect(task: Task, form: TileFormat, *contracts: str) -> Facts:
    """``quantgate inspect`` of both experts with their base, as a user runs it: cold, then again."""
    setup, facts = task.setup, Facts()
    with fresh_cache():
        facts["state"] = drop_from_cache(setup.model(form))
        drop_from_cache(setup.model("base"))
        for name in ("cold", "warm"):
            out = setup.work / f"inspection-{form}-{name}.json"
            command = [sys.executable, "-m", "harness.cli", "inspect", str(setup.model(form)), "--out", str(out)]
            command += ["--base", str(setup.model("base"))]
            for contract in contracts:
                command += ["--contract", contract]
            with timed(facts, f"{name}_seconds"):
                done = subprocess.run(command, cwd=SOURCE, capture_output=True, text=True, check=False)
            if not out.is_file():
                raise RuntimeError(f"quantgate inspect ended with {done.returncode}: {done.stderr[-2000:]}")
            report = json.loads(out.read_text(encoding="utf-8"))
            states = [layer["state"] for layer in report["layers"]]
            facts |= {
                f"{name}_bytes": report["bytes_read"],
                f"{name}_reads": report["requests"],
                f"{name}_inside_seconds": report["seconds"],
                "outcome": report["outcome"],
                "cause": report["cause"],
                "summary": report["summary"],
                "proven": f"{states.count('proven')} of {len(states)}",
            }
            out.unlink()
    return facts


def case(task: Task, form: TileFormat) -> Facts:
    """A case of this format at every shape: the first run with its load, and a run against its golden."""
    setup, facts = task.setup, dict(task.known)
    session = Session(setup.context(f"case-{form}", attribution_seconds=0))
    try:
        with fresh_cache():
            drop_from_cache(setup.model(form))
            for shape in setup.shapes:
                if str(shape) in facts:
                    continue
                facts[str(shape)] = _case(setup, session, setup.located(form, shape))
                task.save(facts)
    finally:
        session.close()
    return facts


def _case(setup: Setup, session: Session, located: Located) -> Facts:
    node, case_id = f"{located.path}::bench", located.case.id
    shutil.rmtree(setup.project / "goldens" / setup.profile().name / case_id, ignore_errors=True)
    first = session.run_case(located, node, lambda _: None).record
    facts: Facts = {"first": _told(first)}
    if first.generation is None:
        return facts
    accept(
        Workspace(setup.project), case_id, reason="benchmark", author="benchmark",
        runner=setup.profile().name, allow=Allow(unseen=True),
    )  # fmt: skip
    kept, session.context = session.context, replace(session.context, leave_candidates=False)
    try:
        facts["again"] = _told(session.run_case(located, node, lambda _: None).record)
    finally:
        session.context = kept
    golden = setup.project / "goldens" / setup.profile().name / case_id
    facts["golden_bytes"] = sum(path.stat().st_size for path in golden.rglob("*") if path.is_file())
    facts["host_peak_bytes"] = _host_peak(session.pool.get(located.case))
    return facts


def _told(record: CaseRecord) -> Facts:
    facts: Facts = {name: round(value, 3) for name, value in record.timing.model_dump().items()}
    facts |= {"outcome": record.verdict.outcome.value, "cause": record.verdict.cause, "summary": record.verdict.summary}
    if record.generation is not None:
        facts["gpu_peak_bytes"] = record.generation.peak_memory_bytes
        facts["generation_seconds"] = round(record.generation.generate_seconds, 3)
    if record.engine is not None:
        facts["load_inside_seconds"] = round(record.engine.load_seconds, 3)
    return facts


def _host_peak(engine: EngineOwner) -> int:
    """Most memory that one process of the engine held (``VmHWM``; mapped files that were read count)."""
    peak = 0
    for process in descendants(engine.pid or 0):
        try:
            status = Path(f"/proc/{process.pid}/status").read_text(encoding="utf-8")
        except OSError:
            continue
        rows = dict(line.split(":", 1) for line in status.splitlines() if ":" in line)
        peak = max(peak, int(rows.get("VmHWM", "0 kB").split()[0]) * 1024)
    return peak


def bare(task: Task, form: TileFormat) -> Facts:
    """The same pipeline in this process without a gate: load, then each shape once to warm up and once for the time."""
    from benchmarks.overhead import BareLoop

    setup, facts = task.setup, dict(task.known)
    loop: BareLoop | None = None
    for shape in setup.shapes:
        if str(shape) in facts:
            continue
        wanted = setup.located(form, shape).case
        if loop is None:
            with timed(facts, "load_seconds"):
                loop = BareLoop(wanted, setup.device, setup.project)
        loop.case = wanted
        facts[str(shape)] = [round(loop.seconds(), 3) for _ in range(2)][-1]
        task.save(facts)
    facts["host_peak_bytes"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return facts


def regenerate(task: Task) -> Facts:
    """``regenerate`` of one NVFP4 case with probes; then a healthy run of it, and one with one Linear swapped."""
    setup, facts = task.setup, dict(task.known)
    FAULTS.at(setup.work / "fault.json")
    run = "regenerate"
    context = setup.context(run, allow_python_backend=True, leave_candidates=False)
    located = setup.located(
        "nvfp4", _smallest(setup), backend="benchmarks.faults.engine:FaultBackend", pass_env=[FAULT_FILE], id="probed"
    )
    if "seconds" not in facts:
        steps: list[float] = []
        changes = perturbations(context.runner, frozenset())
        wanted = Plan(
            changes, repeats=4, controls="frames", reason="benchmark", report_line=lambda line: print(f"  {line}")
        )
        with timed(facts, "seconds"):
            (proposal,) = measure(context, (located,), wanted, lambda _event: steps.append(time.monotonic()))
            apply(Workspace(setup.project), proposal, reason="benchmark", author="benchmark")
        facts["runs"] = 1 + len(proposal.runs) + wanted.repeats
        task.save(facts)
    session = Session(replace(context, run="probed"))
    try:
        for name, faults in (("healthy", []), ("swapped", [{"kind": "nibble", "where": SWAPPED}])):
            if name in facts:
                continue
            FAULTS.set(cast("list[dict[str, Any]]", faults))
            with timed(facts, f"{name}_seconds"):
                record = session.run_case(located, "bench", lambda _: None).record
            facts_of_run = _told(record)
            if record.attribution is not None:
                facts_of_run["attribution"] = record.attribution.model_dump(mode="json", exclude={"experiments"})
            facts[name] = facts_of_run
            task.save(facts)
    finally:
        session.close()
        FAULTS.set([])
    facts["named"] = SWAPPED.partition("/")[2] in facts["swapped"]["summary"]
    return facts


def _smallest(setup: Setup) -> Shape:
    return min(setup.shapes, key=lambda shape: shape.width * shape.height * shape.frames * shape.steps)


def engine_start(task: Task) -> Facts:
    """Start the embedded model's engine three times: what a further engine costs beyond loading its weights."""
    setup = task.setup
    model = {"path": str(SOURCE / "tiny" / "weights")}
    case = setup.located("base", _smallest(setup), model=model).case
    starts: list[Facts] = []
    for number in range(3):
        began = time.perf_counter()
        owner = _owner(setup, case, number)
        with owner:
            record = owner.start()
            seconds = time.perf_counter() - began
        record_json = record.model_dump(mode="json")
        starts.append(
            {
                "seconds": round(seconds, 3),
                "load_seconds": round(record.load_seconds, 3),
                "by": record_json.get("started", ""),
                "why": record_json.get("not_forked", ""),
            }
        )
    return {"starts": starts}


def _owner(setup: Setup, case: Case, number: int) -> EngineOwner:
    context = setup.context("engine-start")
    folder = context.folder / str(number)
    return EngineOwner(
        case, folder, context.device_env, resolve_case(case, setup.project), device=setup.device, runner="bench"
    )


Work = Callable[[Task], Facts]


def _of(work: Callable[..., Facts], form: TileFormat, *more: str) -> Work:
    return lambda task: work(task, form, *more)


WORK: dict[str, Work] = {
    "machine": machine,
    "build-nvfp4": _of(build, "nvfp4"),
    "build-base": _of(build, "base"),
    "engine-start": engine_start,
    "inspect-nvfp4": _of(inspect, "nvfp4"),
    "incident": _of(inspect, "nvfp4", "sglang==0.5.12"),
    "read-nvfp4": _of(read, "nvfp4"),
    "case-nvfp4": _of(case, "nvfp4"),
    "bare-nvfp4": _of(bare, "nvfp4"),
    "regenerate": regenerate,
    "build-fp8": _of(build, "fp8"),
    "inspect-fp8": _of(inspect, "fp8"),
    "read-fp8": _of(read, "fp8"),
    "case-fp8": _of(case, "fp8"),
    "bare-fp8": _of(bare, "fp8"),
}
"""What each step does."""
NEEDS: dict[str, tuple[TileFormat, ...]] = {
    "inspect-nvfp4": ("nvfp4", "base"),
    "incident": ("nvfp4", "base"),
    "read-nvfp4": ("nvfp4",),
    "case-nvfp4": ("nvfp4", "base"),
    "bare-nvfp4": ("nvfp4",),
    "inspect-fp8": ("fp8", "base"),
    "read-fp8": ("fp8",),
    "case-fp8": ("fp8", "base"),
    "bare-fp8": ("fp8",),
    "regenerate": ("nvfp4", "base"),
}
"""The models that a step needs: where the disk could not take one, the step says so and does not run."""
