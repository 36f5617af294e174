"""Injected slowdowns, fallbacks, leaks and neighbours: ``python -m benchmarks.perf_gpu --out DIR [--device cpu]``.

The embedded model in FP8 (``tiny/exports/fp8`` and ``fp8-override``, made by ``python -m tiny.export``), through real
sessions: every run has an engine of its own. First a baseline of 12 runs, then the faults, then 30 healthy repeats.
Everything is kept in ``--out``: a run that is there is not made again, so that the command goes on where it stopped
(exit code 2: the budget ended first). On a CPU (``--device cpu``) it is the same with a smaller picture.
A GPU computes the embedded model faster than its host launches the kernels, so that the host is measured.
``--width 3072 --layers 8`` takes the same model tiled to that size (``tiny.tile``, written below ``--out``).

Prints a line a run: what it was, the verdict's time and memory, the cause that was named, and whether that is right.
A slowdown of 3 % lies below the smallest effect (5 %) and must not be red. Exit code 1: an answer is wrong.
``recorded.json`` holds the steps of all healthy runs, for ``python -m benchmarks.perf_power --recorded``.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from harness.calibrate.perf import write_baseline
from harness.definitions.case import Case, Located
from harness.definitions.runner import RunnerProfile
from harness.goldens.store import open_store
from harness.goldens.workspace import Workspace
from harness.machine.devices import cpu_device, gpu_devices
from harness.perf.baseline import build, load_baseline
from harness.perf.speed import usage_at_usual_speed
from harness.records.case_record import CaseRecord
from harness.records.perf import Usage
from harness.records.run_folder import RECORD_FILE
from harness.session.conductor import Session
from harness.session.context import SessionContext
from harness.session.inspecting import Inspector
from tiny.tile import is_made, tile

ROOT = Path(__file__).parents[1]
BACKEND = f"{Path(__file__).with_name('perf_faulty.py')}:FaultyBackend"
BASELINE, HEALTHY = 12, 30
FAULT = "QUANTGATE_PERF_FAULT"
NEIGHBOUR = """
import sys, time
if sys.argv[1] == "cuda":
    import torch
    a = torch.randn(8192, 8192, device="cuda", dtype=torch.bfloat16)
    print("there", flush=True)
    while True:
        for _ in range(20): a @ a
        torch.cuda.synchronize()
print("there", flush=True)
while True: pass
"""


@dataclass(frozen=True)
class Trial:
    """One run and what must be said of it.

    Attributes:
        name: folder of the run.
        states: right states of its report.
        causes: right causes; empty: any.
        fault: value of the backend's variable; ``{x}`` is replaced by seconds a call of that share of a step.
        changes: fields of the case that differ.
        neighbour: whether another process computes on the same device meanwhile.
    """

    name: str
    states: tuple[str, ...]
    causes: tuple[str, ...] = ()
    fault: str = ""
    changes: Mapping[str, object] = field(default_factory=dict)
    neighbour: bool = False


@dataclass(frozen=True)
class Models:
    """Paths of the checkpoints, as a case writes them.

    Attributes:
        base: the unquantized repository.
        fp8: the repository in FP8.
        override: a folder with the primary expert in FP8.
    """

    base: str = "./tiny/weights"
    fp8: str = "./tiny/exports/fp8"
    override: str = "./tiny/exports/fp8-override"


def models_of(out: Path, width: int | None, layers: int) -> Models:
    """The embedded model, or the same model at another size, which is written below ``out`` if it is not there."""
    if width is None:
        return Models()
    folder = out.resolve() / "models"
    for form in ("base", "fp8"):
        if not is_made(folder / form, form, width, layers):
            tile(folder, form, width, layers)
    return Models(str(folder / "base"), str(folder / "fp8"), str(folder / "fp8" / "transformer"))


def faults(models: Models) -> tuple[Trial, ...]:
    """The injected faults."""
    bf16 = {
        "model": {"path": models.base},
        "transformer": {"path": models.override},
        "quantization": {"transformer": "fp8", "transformer_2": "bf16"},
    }
    return (
        Trial("block-3", ("within",), fault="block:0.03"),
        Trial("block-5", ("within", "slower"), ("some_blocks",), "block:0.05"),
        Trial("block-10", ("slower",), ("some_blocks",), "block:0.10"),
        Trial("block-25", ("slower",), ("some_blocks",), "block:0.25"),
        # in this small model the fallback may be faster and larger: what counts is that another kernel is named
        Trial("bf16-expert", ("slower", "more_memory", "faster", "within"), ("other_kernel",), changes=bf16),
        Trial("sync-per-linear", ("slower",), ("synchronizing",), "sync"),
        Trial("leak-50-mb", ("leak",), ("leaking",), "leak:50"),
        Trial("neighbour", ("inconclusive", "within"), ("foreign_process", "cpu_shared", "clocks"), neighbour=True),
    )


def case_of(device: str, models: Models, trial: Trial, seconds: float) -> Case:
    """The case of a trial. Attention is over many tokens on a GPU, so that it is not bound by launches."""
    large = device == "cuda"
    env = {}
    if trial.fault:
        kind, _, amount = trial.fault.partition(":")
        # each step calls the block twice, with and without the prompt
        env[FAULT] = f"block:{float(amount) * seconds / 2:.9f}" if kind == "block" else trial.fault
    data: dict[str, object] = {
        "id": "perf_fp8",
        "runners": ["lent"],
        "backend": BACKEND,
        "model": {"path": models.fp8},
        "base": {"path": models.base},
        "quantization": {"transformer": "fp8", "transformer_2": "fp8"},
        "env": env,
        "inspection": "report",
        "sampling": {
            "prompt": "a red circle moving right on a blue background",
            "width": 832 if large else 96,
            "height": 480 if large else 64,
            "num_frames": 17,
            "num_inference_steps": 13,
            "guidance_scale": 3.0,
            "max_sequence_length": 64,
        },
        "execution": {"deterministic": False},
    }
    return Case.model_validate({**data, **trial.changes})


class Bench:
    """Runs trials one after the other.

    Args:
        out: everything that is made.
        device: ``cpu`` or ``cuda``.
        models: the checkpoints.
        deadline: when no further trial begins, as `time.time` gives it.
    """

    def __init__(self, out: Path, device: str, models: Models, deadline: float) -> None:
        self._out, self._device, self._models, self._deadline = out.resolve(), device, models, deadline
        found = gpu_devices()[0] if device == "cuda" else cpu_device()
        gpu = {"device_names": [found.name], "compute_capability": found.compute_capability}
        profile = RunnerProfile.model_validate(
            {"name": "lent", "marker": "lent", "labels": ["lent"], "device_kind": device}
            | (gpu if device == "cuda" else {"architectures": [found.name]})
        )
        (self._out / "cases").mkdir(parents=True, exist_ok=True)
        self._context = SessionContext(
            root=ROOT,
            run="",
            runs_dir=self._out / "runs",
            runner=profile,
            device=found,
            store=open_store(self._out / "goldens"),
            thresholds=self._out / "thresholds",
            allow_python_backend=True,
            leave_candidates=False,
            attribution_seconds=0,
        )
        # one session: its starter has imported all that an engine needs, which takes longer than a run
        self._session = Session(self._context, Inspector(ROOT))

    def close(self) -> None:
        """End the starter and what it started."""
        self._session.close()

    def run(self, trial: Trial, seconds: float = 0.0) -> CaseRecord | None:
        """The record of a trial, run if it was not yet; ``None`` if the budget ended."""
        context = replace(self._context, run=trial.name)
        path = context.case_folder("perf_fp8") / RECORD_FILE
        if not path.exists():
            if time.time() > self._deadline:
                return None
            case = case_of(self._device, self._models, trial, seconds)
            self._session.context = context
            try:
                with _neighbour(self._device, trial.neighbour):
                    self._session.run_case(
                        Located(case=case, path=Path("cases/perf.yaml"), line=1), trial.name, lambda _: None
                    )
            finally:
                self._session.pool.discard(case)  # the next run gets an engine of its own
            for clip in path.parent.glob("*.safetensors"):
                clip.unlink()  # twenty megabytes a run, and nobody looks at them
        return CaseRecord.read(path)

    def baseline(self, runs: int) -> float | None:
        """Make the baseline. Returns the usual seconds of a step, or ``None`` if the budget ended."""
        records = []
        for number in range(runs):
            record = self.run(Trial(f"baseline-{number:02}", ()))
            if record is None:
                return None
            _show(record, f"baseline-{number:02}", "")
            records.append(record)
        case = case_of(self._device, self._models, Trial("", ()), 0.0)
        old = load_baseline(self._context.thresholds, "lent", case.id)
        if old is None:
            file, refused = build(case, "lent", records, author="benchmark", reason="first")
            for one in refused:
                print(f"  left out of the baseline: {one.run}: {one.why}")
            write_baseline(Workspace(self._out), file, None, reason="first")
            old = file
        print(f"baseline: {old.covers}", flush=True)
        return statistics.median(step for pool in old.pools for run in pool.runs for step in run.steps[1:])


@contextmanager
def _neighbour(device: str, wanted: bool) -> Iterator[None]:
    """Another process that computes on the same device; on a CPU two for each of its cores."""
    count = 0 if not wanted else 1 if device == "cuda" else 2 * (os.cpu_count() or 1)
    command = [sys.executable, "-c", NEIGHBOUR, device]
    running: list[subprocess.Popen[bytes]] = []
    try:
        running += [subprocess.Popen(command, stdout=subprocess.PIPE) for _ in range(count)]
        for process in running:
            if process.stdout is not None:
                process.stdout.readline()
        yield
    finally:
        for process in running:
            process.kill()
            process.wait()


def _show(record: CaseRecord, name: str, answer: str) -> None:
    report, usage = record.perf, record.generation.usage if record.generation else None
    step = f"{1000 * statistics.median(usage.warm):8.2f} ms a step" if usage and usage.warm else "no steps"
    said = f"{report.state}: {report.message} [{report.cause or '-'}]" if report else record.verdict.summary
    print(
        f"{name:<18} {step}  {record.timing.total:5.1f} s  {record.verdict.outcome.value:<14} {said}  {answer}",
        flush=True,
    )


def main() -> int:
    """Run everything that is not there yet, and print it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda")
    parser.add_argument("--budget", type=float, default=540, help="seconds after which no further run begins")
    parser.add_argument("--baseline", type=int, default=BASELINE)
    parser.add_argument("--healthy", type=int, default=HEALTHY)
    parser.add_argument("--only", default="", help="faults whose name contains this")
    parser.add_argument("--width", type=int, help="tile the model to this width: 192 times a power of two")
    parser.add_argument("--layers", type=int, default=8, help="of the tiled model")
    options = parser.parse_args()
    deadline = time.time() + options.budget
    models = models_of(options.out, options.width, options.layers)
    with closing(Bench(options.out, options.device, models, deadline)) as bench:
        return measure(bench, models, options)


def scatter(healthy: Sequence[Usage]) -> Iterator[str]:
    """Yield how far the median steps of healthy runs scatter, as measured and at the usual speed of the CPU."""
    speeds = [statistics.median(usage.cpu.steps) for usage in healthy if usage.cpu is not None]
    if len(healthy) < 3 or len(speeds) < len(healthy):
        return
    usual = statistics.median(speeds)
    corrected = [usage_at_usual_speed(usage, usual) for usage in healthy]
    for label, usages in (("as measured", healthy), ("at the usual speed of the CPU", corrected)):
        logs = [math.log(statistics.median(usage.warm)) for usage in usages]
        span = math.exp(max(logs) - min(logs)) - 1
        yield f"healthy steps {label}: scatter of runs {statistics.stdev(logs):.1%}, slowest over fastest {span:+.0%}"


def measure(bench: Bench, models: Models, options: argparse.Namespace) -> int:
    """Baseline, faults and healthy repeats, a line each. Returns the exit code."""
    step = bench.baseline(options.baseline)
    wrong, recorded = 0, {}
    wanted = [trial for trial in faults(models) if options.only in trial.name]
    trials = (*wanted, *(Trial(f"healthy-{number:02}", ("within",)) for number in range(options.healthy)))
    steps, pairs = [], []
    for trial in trials if step is not None else ():
        record = bench.run(trial, step or 0.0)
        if record is None:
            step = None
            break
        report = record.perf
        right = report is not None and report.state in trial.states
        if right and report is not None and trial.causes and report.state not in ("within", "faster"):
            right = report.cause in trial.causes
        wrong += not right
        _show(record, trial.name, "right" if right else f"WRONG: must be {' or '.join(trial.states)} {trial.causes}")
        if trial.name.startswith("healthy") and record.generation and record.generation.usage:
            steps.append(list(record.generation.usage.warm))
            pairs.append(record.generation.usage)
    size = f" at width {options.width}" if options.width else ""
    recorded = {f"embedded model in FP8{size}, {options.device}": steps}
    (options.out / "recorded.json").write_text(json.dumps(recorded), encoding="utf-8")
    if step is None:
        print("the budget ended: run the same command again to go on")
        return 2
    for line in scatter(pairs):
        print(line)
    print(f"{len(trials)} runs, {wrong} wrong answers")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
