"""Every figure that needs a GPU, one after another: ``python -m benchmarks.on_gpu --out FOLDER [--only WORD]``.

What is done stays done: a step that ended is not run again in the same folder, whatever it ended with, until
``--again`` names it. Steps run alone, since they measure times. Exit code 1: a step failed; 2: the budget ended first.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]


@dataclass(frozen=True)
class Step:
    """One command."""

    name: str
    module: str
    arguments: tuple[str, ...] = ()

    def command(self) -> list[str]:
        """As it is run."""
        return [sys.executable, "-m", self.module, *self.arguments]


def steps(out: Path) -> tuple[Step, ...]:
    """The list, cheapest first. Results that are resumed lie below ``out``."""
    cuda = ("--device", "cuda")
    attribution = "benchmarks.attribution"
    fp8, fp4 = (("--format", name, *cuda, "--folder", str(out / f"attribution-{name}")) for name in ("fp8", "nvfp4"))
    return (
        Step("selfcheck", "benchmarks.selfcheck", cuda),
        Step("tracing", "benchmarks.tracing", cuda),
        Step("overhead", "benchmarks.overhead", ("--shape", "832x480x17")),
        Step("overhead-deep", "benchmarks.overhead", ("--shape", "832x480x81", "--steps", "40", "--layers", "40")),
        Step("attribution-fp8", attribution, fp8),
        Step("attribution-fp8-held-out", attribution, (*fp8, "--held-out")),
        Step("attribution-nvfp4", attribution, fp4),
        Step("attribution-nvfp4-held-out", attribution, (*fp4, "--held-out")),
        Step("power", "benchmarks.power", (*cuda, "--workers", "8", "--out", str(out / "power"))),
    )


def run(chosen: Sequence[Step], out: Path, deadline: float) -> int:
    """Run what has not ended yet; a line a step. Returns the exit code."""
    failed = 0
    for step in chosen:
        log, done = out / f"{step.name}.log", out / f"{step.name}.exit"
        if not done.exists():
            left = deadline - time.time()
            if left <= 0:
                print(f"{step.name:<28} not run: the budget ended")
                return 2
            began = time.monotonic()
            with log.open("w", encoding="utf-8") as sink:
                try:
                    ended = subprocess.run(
                        step.command(), cwd=ROOT, stdout=sink, stderr=subprocess.STDOUT, timeout=min(left, 1e6)
                    )
                except subprocess.TimeoutExpired:
                    print(f"{step.name:<28} stopped: the budget ended; {log}")
                    return 2
            done.write_text(f"{ended.returncode}\n", encoding="utf-8")
            took = f"{time.monotonic() - began:.0f} s"
        else:
            took = "before"
        code = int(done.read_text(encoding="utf-8"))
        failed += bool(code)
        print(f"{step.name:<28} exit {code}  {took:>8}  {log}", flush=True)
    return 1 if failed else 0


def main(arguments: list[str] | None = None) -> int:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="logs and results, kept between calls")
    parser.add_argument("--only", default="", help="steps whose name holds this")
    parser.add_argument("--again", action="append", default=[], help="run this step again; may be repeated")
    parser.add_argument("--budget-seconds", type=float, default=float("inf"))
    options = parser.parse_args(arguments)
    out = options.out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    finished = steps(out)
    chosen = [step for step in finished if options.only in step.name]
    if unknown := sorted(set(options.again) - {step.name for step in finished}):
        parser.error(
            f"--again {', '.join(unknown)}: no such step; there are {', '.join(step.name for step in finished)}"
        )
    if not chosen:
        parser.error(f"--only {options.only}: no such step; there are {', '.join(step.name for step in finished)}")
    for name in options.again:
        (out / f"{name}.exit").unlink(missing_ok=True)
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    return run(chosen, out, time.time() + options.budget_seconds)


if __name__ == "__main__":
    sys.exit(main())
