"""The gate at the size of a real checkpoint: ``python -m benchmarks.real_size --out FOLDER``.

Writes two experts of 14.8 billion parameters that draw the embedded model's clip (``tiny.tile``), as BF16 base, FP8
and NVFP4, and prints for cold and warm: inspection, load, probes, generation, comparison and whole case against the
bare pipeline, peak memory, bytes read, size of a golden, ``regenerate``, the incident's fault, and one Linear that is
swapped inside the engine and found by probes. ``--width 384 --layers 8 --device cpu --shape 96x64x17@2`` does all of
it in miniature.

Each step is a process of its own and runs alone. ``FOLDER/results.json`` keeps what is done: the same command goes on
where it stopped, and ``--again STEP`` repeats a step. Models are put into the first folder of ``--at`` with room, by
default a folder for temporary files, then ``/dev/shm``. Exit status 1: a step failed; 2: the budget ended first.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.real_size.setup import NoRoomError, Setup, Shape
from benchmarks.real_size.table import table
from harness.records.base import write_text_atomic
from tiny.tile import LAYERS, WIDTH, factor_of

ROOT = Path(__file__).parents[2]
SHAPES = ("96x64x17@8", "640x384x17@12", "832x480x81@4")
STEPS = (
    "machine", "build-nvfp4", "build-base", "engine-start", "inspect-nvfp4", "incident", "case-nvfp4", "bare-nvfp4",
    "read-nvfp4", "regenerate", "build-fp8", "inspect-fp8", "case-fp8", "bare-fp8", "read-fp8",
)  # fmt: skip
"""In the order in which they are run: the most telling first."""
TAIL = 1500


class Results:
    """What is known of each step, on disk after every change.

    Args:
        path: the file; what it holds already is kept.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.rows: dict[str, dict[str, Any]] = {}
        if path.is_file():
            self.rows = json.loads(path.read_text(encoding="utf-8"))

    def save(self, step: str, **fields: Any) -> None:
        """Add to a step's row."""
        self.rows[step] = self.rows.get(step, {}) | fields
        write_text_atomic(self.path, json.dumps(self.rows, indent=1))

    def reload(self) -> None:
        """Read what a step saved from its own process."""
        self.rows = json.loads(self.path.read_text(encoding="utf-8"))

    def done(self, step: str) -> bool:
        """Whether a step ended well."""
        return self.rows.get(step, {}).get("state") == "done"


def run(chosen: Sequence[str], results: Results, options: Sequence[str], setup: Setup, deadline: float) -> int:
    """Run every step that is not done, each in a process of its own. Returns the exit status."""
    failed = False
    for step in chosen:
        made = step.startswith("build-") and not setup.present(_form(step))  # a fresh machine has no models
        if results.done(step) and not made:
            continue
        left = deadline - time.monotonic()
        if left <= 0:
            results.save(step, state="not run", why="the budget ended")
            continue
        began = time.monotonic()
        log = results.path.with_name(f"{step}.log")
        command = [sys.executable, "-m", "benchmarks.real_size", "--step", step, *options]
        try:
            with log.open("w", encoding="utf-8") as sink:
                code = subprocess.run(
                    command, cwd=ROOT, stdout=sink, stderr=subprocess.STDOUT, timeout=left, check=False
                ).returncode
        except subprocess.TimeoutExpired:
            results.save(step, state="stopped", why="the budget ended")
            continue
        results.reload() if results.path.is_file() else None
        seconds = round(time.monotonic() - began, 1)
        tail = log.read_text(encoding="utf-8", errors="replace")[-TAIL:]
        if code:
            failed = True
            results.save(step, state="failed", why=tail, seconds=seconds)
        else:
            log.unlink()
            results.save(step, state="done", seconds=seconds)
        print(f"{step:<16} {'failed' if code else 'done':<8} {seconds:8.1f} s", flush=True)
    ended = any(results.rows.get(step, {}).get("state") in ("stopped", "not run") for step in chosen)
    return 1 if failed else 2 if ended else 0


def run_step(step: str, results: Results, setup: Setup) -> int:
    """One step, in this process."""
    from benchmarks.real_size.steps import NEEDS, WORK, Task

    absent = [form for form in NEEDS.get(step, ()) if not setup.present(form)]
    if absent:
        print(f"the model {', '.join(absent)} is not there")
        return 1
    earlier = results.rows.get(step, {}).get("facts", {})
    try:
        facts = WORK[step](Task(setup, earlier, lambda facts: results.save(step, facts=facts)))
    except NoRoomError as error:
        print(error)
        return 1
    results.save(step, facts=facts)
    return 0


def _form(step: str) -> Any:
    return step.partition("-")[2]


def main(arguments: list[str] | None = None) -> int:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="results and logs, kept between calls")
    parser.add_argument("--at", type=Path, action="append", default=[], help="a folder for models; may be repeated")
    parser.add_argument("--width", type=int, default=WIDTH, help="192 times a power of two")
    parser.add_argument("--layers", type=int, default=LAYERS)
    parser.add_argument("--shape", action="append", default=[], help="WIDTHxHEIGHTxFRAMES@STEPS; may be repeated")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda")
    parser.add_argument("--only", default="", help="steps whose name holds this")
    parser.add_argument("--again", action="append", default=[], help="run this step again; may be repeated")
    parser.add_argument("--budget-seconds", type=float, default=float("inf"))
    parser.add_argument("--step", default="", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    try:
        shapes = tuple(Shape.parse(text) for text in options.shape or SHAPES)
        factor_of(options.width)
    except ValueError as error:
        parser.error(str(error))
    places = tuple(options.at) or (Path(tempfile.gettempdir()) / "quantgate-real-size", Path("/dev/shm/quantgate"))  # noqa: S108 - memory is meant
    setup = Setup(
        places[0].resolve() / "work", tuple(place.resolve() for place in places), options.width, options.layers,
        shapes, options.device,
    )  # fmt: skip
    out = options.out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    setup.project.mkdir(parents=True, exist_ok=True)
    results = Results(out / "results.json")
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    if options.step:
        return run_step(options.step, results, setup)
    chosen = [step for step in STEPS if options.only in step]
    if unknown := sorted({*options.again} - {*STEPS}) or ([options.only] if not chosen else []):
        parser.error(f"there is no step {', '.join(unknown)}; there are {', '.join(STEPS)}")
    for step in options.again:
        results.save(step, state="again", facts={})
    given = ["--out", str(out), "--width", str(options.width), "--layers", str(options.layers)]
    given += ["--device", options.device, *(word for place in places for word in ("--at", str(place)))]
    given += [word for shape in shapes for word in ("--shape", str(shape))]
    code = run(chosen, results, given, setup, time.monotonic() + options.budget_seconds)
    text = table(results.rows)
    write_text_atomic(out / "table.txt", text + "\n")
    print(text)
    return code


if __name__ == "__main__":
    sys.exit(main())
