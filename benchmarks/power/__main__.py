"""``python -m benchmarks.power``. Exit code 1: the gate did not reach what it must; 2: the budget ended first."""

from __future__ import annotations

import argparse
import hashlib
import os
import sys
import time
from pathlib import Path

from benchmarks.power.design import DEVELOPMENT, FROZEN_AT, PROMPTS, SCORED, SEEDS, Design
from benchmarks.power.generate import ROOT, Settings, make_goldens, plan, run_units
from benchmarks.power.models import MODELS
from harness.limits.placing import ROOM, Rule

QUIET = {
    "OMP_NUM_THREADS": "1",
    "TQDM_DISABLE": "1",
    "DIFFUSERS_VERBOSITY": "error",
    "TRANSFORMERS_VERBOSITY": "error",
    "HF_HUB_OFFLINE": "1",
}
"""For every process: one thread, and no bars and remarks of libraries among the tables."""


def main(arguments: list[str] | None = None) -> int:
    """Entry point."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.power", description=__doc__)
    parser.add_argument("--out", type=Path, default=ROOT / "runs" / "power", help="results, kept between calls")
    parser.add_argument("--model", choices=tuple(MODELS), default="t2v", help="the embedded model")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--workers", type=int, default=1, help="processes; 0: this one, and only native instructions")
    parser.add_argument("--budget-seconds", type=float, default=float("inf"), help="stop then; call again to go on")
    parser.add_argument("--development", action="store_true", help="the prompts on which the rule was developed")
    parser.add_argument("--prompts", type=int, default=len(SCORED), help="how many")
    parser.add_argument("--seeds", type=int, default=len(SEEDS), help="how many")
    parser.add_argument("--calibration", type=int, default=12, help="healthy runs a case that limits may know")
    parser.add_argument("--benign", type=int, default=99, help="most healthy runs a case that are scored")
    parser.add_argument("--room", type=float, default=ROOM, help="room beyond the tolerance bound, as a factor")
    parser.add_argument("--plot", type=Path, default=None, help="PNG; default: power.png among the results")
    parser.add_argument("--generate-only", action="store_true")
    parser.add_argument("--score-only", action="store_true")
    options = parser.parse_args(arguments)
    began = time.time()
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    model = MODELS[options.model]
    weights = hashlib.sha256(model.manifest.read_bytes()).hexdigest()
    settings = Settings(options.out.resolve(), options.device, weights, began + options.budget_seconds, model)
    prompts = range(len(DEVELOPMENT)) if options.development else range(len(DEVELOPMENT), len(PROMPTS))
    origin_of_rule = (
        "the rule was developed on these prompts" if options.development else f"the rule was frozen at {FROZEN_AT}"
    )
    print(f"{len(prompts[: options.prompts])} prompts; {origin_of_rule}")
    design = Design(
        options.device,
        tuple(prompts[: options.prompts]),
        tuple(SEEDS[: options.seeds]),
        options.calibration,
        options.benign,
        model.faults(),
    )
    if not options.score_only:
        left = generate(design, settings, options.workers)
        print(f"{time.time() - began:.0f} s; {left} units left")
        if left and options.generate_only:
            return 2
    if options.generate_only:
        return 0
    return score(design, settings, Rule(room=options.room), options.plot)


def generate(design: Design, settings: Settings, workers: int) -> int:
    """Everything that has no result yet, as far as time allows. Returns how many units are left."""
    if not settings.export.exists():
        settings.model.export("nvfp4", settings.out / "making").replace(settings.export)
    if not settings.base.exists():
        settings.model.export("bf16", settings.out / "making").replace(settings.base)
    cases = design.cases()
    if workers == 0:
        made = make_goldens(settings, tuple(cases))
    else:
        from concurrent.futures import ProcessPoolExecutor
        from multiprocessing import get_context

        share = [tuple(cases[start::workers]) for start in range(min(workers, len(cases)))]
        with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
            made = sum(pool.map(make_goldens, [settings] * len(share), share))
    print(f"{made} goldens made, {len(cases)} there")
    added = run_units(plan(design, settings), settings, workers)
    print(f"{added} results added")
    return len(plan(design, settings))


def score(design: Design, settings: Settings, rule: Rule, plot: Path | None) -> int:
    """Tables and plot of what is there. Cases without all of their calibration runs are left out."""
    from benchmarks.power.design import calibration
    from benchmarks.power.plot import draw
    from benchmarks.power.score import read_some, scorers
    from benchmarks.power.tables import print_all

    every = [(task, case) for task in design.tasks() for case in design.cases()]
    wanted = [(task, case) for task, case in every if settings.model.alters(task, case[0])]
    if len(every) > len(wanted):
        names = sorted({f"{task.name}, prompt {case[0]}" for task, case in set(every) - set(wanted)})
        print(f"{len(every) - len(wanted)} left out, because they change nothing in their picture: {'; '.join(names)}")
    missing = [(task, case) for task, case in wanted if not settings.result(task, case).exists()]
    calibrated = set(calibration(design.calibration_runs))
    broken = {case for task, case in missing if task in calibrated or task.carries}
    rows = read_some(settings.result(task, case) for task, case in wanted if case not in broken)
    if not rows:
        print("no case has all of its calibration runs yet")
        return 2
    if missing:
        print(f"PART OF IT: {len(missing)} of {len(wanted)} runs are not there yet; {len(broken)} cases left out")
    by_rule, gates = scorers(rows, rule)
    causes = {task.name: task.causes for task in design.tasks() if task.causes}
    reached = print_all(rows, by_rule, gates, causes)
    print(f"\nplot: {draw(rows, by_rule, plot or settings.out / 'power.png')}")
    if missing:
        return 2
    return 0 if reached else 1


if __name__ == "__main__":
    sys.exit(main())
