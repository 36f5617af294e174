"""How far plans lie from the best possible: ``python -m benchmarks.makespan [--seeds N]``.

Simulated suites: engines with 1 to 12 cases, log-normal durations (a few long ones, many short ones), loads of 30 to
180 s. ``plan / bound`` is the makespan of the plan over a bound that no plan of whole engines can beat: 1 is the best
there is. ``in turn`` deals the same engines out one after another, as a matrix without times does. ``noisy`` plans with
durations that are off by 20 % (log-normal) and then runs with the true ones.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import replace
from statistics import median

import numpy as np

from harness.lane.plan import Unit, lower_bound, lpt, makespan

CASES = (10, 30, 100, 300, 1000)
SHARDS = (2, 4, 8, 16)


def suite(cases: int, random: np.random.Generator) -> list[Unit]:
    """Engines with ``cases`` cases in all; seconds."""
    units: list[Unit] = []
    left = cases
    while left:
        count = min(left, int(random.integers(1, 13)))
        scale = float(random.lognormal(np.log(60), 0.8))
        times = random.lognormal(np.log(scale), 0.2, count)
        load = float(random.uniform(30, 180))
        name = f"engine{len(units):04}"
        units.append(
            Unit(name, load, tuple((f"{name}-{index}", float(seconds)) for index, seconds in enumerate(times)))
        )
        left -= count
    return units


def in_turn(units: list[Unit], shards: int) -> float:
    """Makespan of dealing the engines out one after another."""
    return makespan([units[index::shards] for index in range(shards)])


def noisy(units: list[Unit], shards: int, random: np.random.Generator) -> float:
    """True makespan of a plan that was made from durations with an error of 20 %."""
    guessed = [
        replace(unit, cases=tuple((name, item * float(random.lognormal(0, 0.2))) for name, item in unit.cases))
        for unit in units
    ]
    true = {unit.key: unit for unit in units}
    return makespan([[true[unit.key] for unit in item] for item in lpt(guessed, shards)])


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=50, help="suites of each size")
    seeds = parser.parse_args().seeds
    columns = ("shards", "plan / bound: median", "95 %", "worst", "in turn", "noisy", "ms")
    print(f"{'cases':>6}", *(f"{name:>{max(7, len(name))}}" for name in columns))
    everything = []
    for cases in CASES:
        for shards in SHARDS:
            ratios, turns, noise, took = [], [], [], []
            for seed in range(seeds):
                random = np.random.default_rng([seed, cases, shards])
                units = suite(cases, random)
                bound = lower_bound(units, shards)
                begin = time.perf_counter()
                plan = lpt(units, shards)
                took.append(1000 * (time.perf_counter() - begin))
                ratios.append(makespan(plan) / bound)
                turns.append(in_turn(units, shards) / bound)
                noise.append(noisy(units, shards, random) / bound)
            everything += ratios
            shown = (median(ratios), np.quantile(ratios, 0.95), max(ratios), median(turns), median(noise))
            print(
                f"{cases:6} {shards:7} {shown[0]:20.3f}",
                *(f"{value:7.3f}" for value in shown[1:]),
                f"{median(took):7.2f}",
            )
    print(f"all {len(everything)} suites: median {median(everything):.3f}, worst {max(everything):.3f}")


if __name__ == "__main__":
    main()
