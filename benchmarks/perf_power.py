"""False alarms and power of the time gate: ``python -m benchmarks.perf_power [--held-out] [--trials N]``.

Every trial draws a baseline of runs and then one more run of the same case, healthy or slowed down, and asks each rule.
The gate's rule is `harness.perf.rule`; a run that it calls slower is generated twice more, as the session does. The
peers' rules are what their sources state: SGLang fails a case whose end-to-end time exceeds 1.25 times the expected one
or whose mean step exceeds 1.30 times; the plain rule fails 10 % above the baseline's mean. Here they compare with the
mean of the same baseline (SGLang's real numbers are placed by hand).

Scenarios are simulated; their parameters stand in ``SCENARIOS`` and are assumptions, some after published reports: two
pools of one GPU that are 1.6 times apart, loads that take 26 to 58 % longer from a cold page cache, natural variance of
4 to 7 %. The rule was chosen on ``SCENARIOS`` with seed 0. ``--held-out`` scores other scenarios, written after the
rule was frozen, with another seed. Recorded histories (``--recorded PATH``) are scored by comparing each run with a
baseline of others. PATH is a file as `benchmarks.perf_gpu` writes it, or a folder of runs, whose records also state
which runs were disturbed: the gate takes no such run into a baseline, and calls no such run slower.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from harness.perf.quiet import disturbances
from harness.perf.rule import CONFIRMATIONS, LEAST_RUNS, Comparison, Rule, compare_steps, compare_values, confirms
from harness.perf.trend import change_points
from harness.records.case_record import CaseRecord
from harness.records.run_folder import RECORD_FILE

F64 = NDArray[np.float64]
EFFECTS = (0.05, 0.10, 0.20, 0.50)
EFFECT = Rule().effect
LEAST_STEPS = 3
"""Fewest warm steps of a recorded run that a rank test can use."""
MOST_RECORDED = 20
"""Runs of a baseline that is drawn from a recorded history."""


@dataclass(frozen=True)
class Scenario:
    """One kind of noise. Relative standard deviations; shares of runs or steps."""

    name: str
    within: float = 0.02
    """Of a step within its run."""
    between: float = 0.01
    """Of a run from its machine's usual speed."""
    machine: float = 0.0
    """Of a machine and day; further generations share it, and every run of the baseline has its own."""
    steps: int = 12
    baseline: int = 10
    correlation: float = 0.0
    """Of one step with the next (AR 1)."""
    heavy: bool = False
    """Steps follow Student's t with three degrees of freedom, and one step a run is 1.5 times as long."""
    transients: float = 0.0
    """Share of runs that something unseen slows down by 10 to 60 %."""
    lasting: float = 0.1
    """Probability that the disturbance still lasts in the next generation."""
    bimodal: float = 0.0
    """Distance of two states, either of which a run is in with equal probability."""
    drift: float = 0.0
    """Relative change a run."""
    periodic: float = 0.0
    """Every fourth step is longer by this share (a collector, a checkpoint)."""
    pools: float = 1.0
    """Factor between two pools of the same GPU; the peers know only one."""
    cold: float = 0.0
    """Share of loads from a cold page cache; the measure is then the load time, one value a run."""


SCENARIOS = (
    Scenario("reference: 2 % within, 1 % between runs"),
    Scenario("quiet: 0.5 % within, 0.3 % between", within=0.005, between=0.003),
    Scenario("clustered: steps AR(1) 0.7, machine-day 1 %", between=0.007, machine=0.01, correlation=0.7),
    Scenario("heavy tails, one long step a run", heavy=True),
    Scenario("transients: 3 % of runs, +10 to +60 %", transients=0.03),
    Scenario("two clock states 4 % apart", bimodal=0.04),
    Scenario("natural variance 4 % between runs", within=0.04, between=0.04),
    Scenario("two pools 1.6 times apart", pools=1.6),
    Scenario("load: 30 % cold caches, +26 to +58 %", cold=0.3, between=0.03),
)
HELD_OUT = (
    Scenario("the least baseline: 5 runs", baseline=5),
    Scenario("four warm steps", steps=4),
    Scenario("forty warm steps, 20 runs", steps=40, baseline=20),
    Scenario("machine-day 2 %, 20 runs", machine=0.02, baseline=20),
    Scenario("natural variance 7 % between runs", within=0.05, between=0.07, baseline=20),
    Scenario("every fourth step +30 %", periodic=0.3),
    Scenario("transients: 8 % of runs, a fifth of them last", transients=0.08, lasting=0.2, baseline=20),
    Scenario("drift of 0.1 % a run, 20 runs", drift=0.001, baseline=20),
    Scenario("pools 1.2 apart, AR(1) 0.5, 0.5 % machine-day", pools=1.2, correlation=0.5, machine=0.005),
    Scenario("load: 60 % cold caches", cold=0.6, between=0.02),
)


class Draw:
    """Draws runs of one scenario: seconds of each warm step."""

    def __init__(self, scenario: Scenario, random: np.random.Generator) -> None:
        self._is, self._random = scenario, random
        self.usual = 1.0 + 0.3 * (np.arange(scenario.steps) >= scenario.steps // 2)  # the second expert is slower

    def machine(self) -> float:
        """Speed of a machine and day."""
        return float(np.exp(self._random.normal(0, self._is.machine)))

    def disturbance(self) -> float:
        """What something unseen does to a run; 1 is nothing."""
        hit = self._random.random() < self._is.transients
        return 1 + float(self._random.uniform(0.1, 0.6)) if hit else 1.0

    def run(self, machine: float, disturbance: float, place: int = 0) -> F64:
        """One run."""
        own, random = self._is, self._random
        noise = random.standard_t(3, own.steps) / np.sqrt(3) if own.heavy else random.normal(0, 1, own.steps)
        if own.correlation:
            for step in range(1, own.steps):
                noise[step] = own.correlation * noise[step - 1] + np.sqrt(1 - own.correlation**2) * noise[step]
        speed = machine * disturbance * np.exp(random.normal(0, own.between)) * (1 + own.drift) ** place
        if own.bimodal:
            speed *= 1 + own.bimodal * (random.random() < 0.5)
        steps = self.usual * speed * np.exp(own.within * noise)
        if own.periodic:
            steps[:: 4 if own.steps > 4 else 2] *= 1 + own.periodic
        if own.heavy:
            steps[random.integers(own.steps)] *= 1.5
        return np.asarray(steps)

    def load(self, *, warm: bool = False) -> tuple[float, bool]:
        """Seconds of one load, and whether the page cache was cold, which the gate is told."""
        cold = not warm and bool(self._random.random() < self._is.cold)
        slower = 1 + float(self._random.uniform(0.26, 0.58)) if cold else 1.0
        return slower * float(np.exp(self._random.normal(0, self._is.between))), cold


Answers = dict[str, bool]
RULES = ("gate", "SGLang", "plain 10 %")


def peers(baseline: Sequence[F64], run: F64) -> Answers:
    """The peers' answers, against the mean of the same baseline."""
    whole, step = float(np.mean([one.sum() for one in baseline])), float(np.mean([one.mean() for one in baseline]))
    return {
        "SGLang": bool(run.sum() > 1.25 * whole or run.mean() > 1.30 * step),
        "plain 10 %": bool(run.sum() > 1.10 * whole),
    }


def gate(baseline: Sequence[F64], run: F64, again: Callable[[], F64]) -> bool:
    """The gate's answer; a run that is called slower is generated again, until one does not bear it out."""
    steps = [list(map(float, one)) for one in baseline]
    first = _compare(steps, run)
    return first.direction == "slower" and all(_confirms(_compare(steps, again())) for _ in range(CONFIRMATIONS))


def _confirms(compared: Comparison) -> bool:
    return confirms(compared.ratio, compared.p, EFFECT)


def _compare(steps: list[list[float]], run: F64) -> Comparison:
    return compare_steps(steps, list(map(float, run)))


def trial(scenario: Scenario, effect: float, random: np.random.Generator) -> Answers:
    """One run, slowed down by ``effect``, judged by every rule."""
    draw = Draw(scenario, random)
    if scenario.cold:
        return _load_trial(draw, scenario, effect)
    pools = [scenario.pools if place % 2 else 1.0 for place in range(2 * scenario.baseline)]
    if scenario.pools == 1.0:
        pools = pools[: scenario.baseline]
    runs = [pool * draw.run(draw.machine(), draw.disturbance(), place) for place, pool in enumerate(pools)]
    mine = scenario.pools if random.random() < 0.5 else 1.0
    machine, disturbance, place = draw.machine(), draw.disturbance(), len(runs)
    run = (1 + effect) * mine * draw.run(machine, disturbance, place)

    def again() -> F64:
        nonlocal disturbance
        disturbance = disturbance if random.random() < scenario.lasting else draw.disturbance()
        return (1 + effect) * mine * draw.run(machine, disturbance, place)

    alike = [one for one, pool in zip(runs, pools, strict=True) if pool == mine]
    return {"gate": gate(alike, run, again), **peers(runs, run)}


def _load_trial(draw: Draw, scenario: Scenario, effect: float) -> Answers:
    """A load: the gate compares only loads from a warm cache, and says of a cold one that nothing is said."""
    loads = [draw.load() for _ in range(4 * scenario.baseline)]
    warm = [seconds for seconds, cold in loads if not cold]
    seconds, cold = draw.load()
    seconds *= 1 + effect
    slower = False
    if not cold and len(warm) >= 5:
        first = compare_values(warm, seconds)
        if first.direction == "slower":
            # the confirming loads are warm: the files are in memory by now
            further = ((1 + effect) * draw.load(warm=True)[0] for _ in range(CONFIRMATIONS))
            slower = all(_confirms(compare_values(warm, one)) for one in further)
    mean = float(np.mean([one for one, _ in loads]))
    return {"gate": slower, "SGLang": seconds > 1.25 * mean, "plain 10 %": seconds > 1.10 * mean}


def score(scenario: Scenario, effect: float, trials: int, seed: int) -> dict[str, int]:
    """How often each rule says slower."""
    counts = dict.fromkeys(RULES, 0)
    stream = [seed, int.from_bytes(scenario.name.encode()[:6].ljust(6), "big"), round(1000 * effect)]
    random = np.random.default_rng(stream)
    for _ in range(trials):
        for name, slower in trial(scenario, effect, random).items():
            counts[name] += slower
    return counts


def upper(alarms: int, trials: int) -> float:
    """Upper end (95 %, one-sided, Clopper and Pearson) of a rate, per 1,000."""
    return 1000.0 if alarms == trials else 1000 * float(stats.beta.ppf(0.95, alarms + 1, trials - alarms))


def table(scenarios: Sequence[Scenario], trials: int, seed: int) -> None:
    """Print false alarms and power, scenario by scenario."""
    print(f"{'':48}  {'rule':11} false alarms per 1,000    power at " + " ".join(f"{e:>+7.0%}" for e in EFFECTS))
    alarms = dict.fromkeys(RULES, 0)
    for scenario in scenarios:
        healthy = score(scenario, 0.0, trials, seed)
        slow = {effect: score(scenario, effect, max(trials // 10, 100), seed) for effect in EFFECTS}
        for rule in RULES:
            rate, bound = 1000 * healthy[rule] / trials, upper(healthy[rule], trials)
            power = " ".join(f"{slow[effect][rule] / max(trials // 10, 100):7.1%}" for effect in EFFECTS)
            name = scenario.name if rule == "gate" else ""
            print(f"{name:48}  {rule:11} {rate:9.2f} (at most {bound:6.2f})           {power}", flush=True)
            alarms[rule] += healthy[rule]
    total = trials * len(scenarios)
    for rule in RULES:
        print(
            f"all healthy runs: {rule}: {alarms[rule]} false alarms in {total:,}, "
            f"{1000 * alarms[rule] / total:.2f} per 1,000"
        )


@dataclass(frozen=True)
class Recorded:
    """One run that was recorded: seconds of each warm step, and whether the machine was disturbed meanwhile."""

    steps: F64
    disturbed: bool = False


def read_recorded(path: Path) -> dict[str, list[Recorded]]:
    """Return recorded runs by name, in the order in which they were made.

    Args:
        path: JSON (name to runs to seconds of each warm step), or a folder that is searched for records of cases. Runs
            of one case, machine and number of steps are one history; a fresh engine's first generation counts too,
            since its first step is left out.
    """
    if path.is_file():
        histories: dict[str, list[list[float]]] = json.loads(path.read_text(encoding="utf-8"))
        return {name: [Recorded(np.asarray(run)) for run in history] for name, history in histories.items()}
    kept: dict[str, list[tuple[str, Recorded]]] = {}
    for file in sorted(path.rglob(RECORD_FILE)):
        record = CaseRecord.read(file)
        usage = record.generation.usage if record.generation else None
        if usage is None or len(usage.warm) < LEAST_STEPS:
            continue
        machine = record.conditions.machine if record.conditions else ""
        run = Recorded(np.asarray(usage.warm), bool(disturbances(record.conditions, None)))
        name = f"{record.case} on {machine or 'a machine'}, {len(usage.warm)} warm steps"
        kept.setdefault(name, []).append((record.started, run))
    return {name: [run for _, run in sorted(rows, key=lambda row: row[0])] for name, rows in kept.items()}


def recorded(histories: Mapping[str, Sequence[Recorded]], trials: int, seed: int) -> Iterator[str]:
    """Score recorded histories; yield one line per history and effect.

    Each trial takes two runs out, the second to confirm the first, and draws a baseline from the others. ``steps
    alone`` is the gate's rule without its knowledge of disturbances.
    """
    for name, runs in histories.items():
        quiet = [run for run in runs if not run.disturbed]
        steps = np.concatenate([run.steps / np.median(run.steps) for run in runs])
        between = np.array([np.log(np.median(run.steps)) for run in runs])
        yield (
            f"{name}: {len(runs)} runs, {len(runs) - len(quiet)} of them disturbed; steps scatter by {steps.std():.1%} "
            f"within a run, runs by {between.std(ddof=1) if len(runs) > 1 else 0.0:.1%}"
        )
        if len(runs) < LEAST_RUNS + 2:
            yield f"  too few to be scored: {LEAST_RUNS + 2} are needed"
            continue
        if len(quiet) < LEAST_RUNS:
            yield f"  the gate has no baseline ({len(quiet)} quiet runs, {LEAST_RUNS} are needed): nothing is judged"
        for effect in (0.0, *EFFECTS):
            random = np.random.default_rng(seed)
            counts = dict.fromkeys(("gate", "steps alone", *RULES[1:]), 0)
            for _ in range(trials):
                order = random.permutation(len(runs))
                first, second = (runs[place] for place in order[:2])
                others = [runs[place] for place in order[2:]]
                slower = _recorded_trial(first, second, others, effect)
                for rule in counts:
                    counts[rule] += slower[rule]
            shown = ", ".join(f"{rule} {count / trials:.1%}" for rule, count in counts.items())
            yield f"  {effect:+.0%}: called slower by {shown}"


def _recorded_trial(first: Recorded, second: Recorded, others: Sequence[Recorded], effect: float) -> Answers:
    run, again = (1 + effect) * first.steps, (1 + effect) * second.steps
    rest = [other.steps for other in others[:MOST_RECORDED]]
    quiet = [other.steps for other in others if not other.disturbed][:MOST_RECORDED]
    judged = len(quiet) >= LEAST_RUNS and not first.disturbed and not second.disturbed
    return {
        "gate": judged and gate(quiet, run, lambda: again),
        "steps alone": gate(rest, run, lambda: again),
        **peers(rest, run),
    }


def trends(trials: int, seed: int) -> None:
    """Score `harness.perf.trend`: level histories with a claimed change, and steps that are found within two runs."""
    random = np.random.default_rng(seed)
    for noise in (0.01, 0.03):
        for effect in (0.0, 0.05, 0.10, 0.20):
            right = claimed = 0
            for _ in range(trials):
                values = np.exp(random.normal(0, noise, 60)) * np.where(random.random(60) < 0.03, 1.4, 1.0)
                values[40:] *= 1 + effect
                found = change_points([float(value) for value in values])
                claimed += bool(found)
                right += any(abs(one.index - 40) <= 2 for one in found)
            said = f"claimed {claimed / trials:.2%}" + (f", at the right place {right / trials:.1%}" if effect else "")
            print(f"60 runs, {noise:.0%} noise, 3 % transients of +40 %, {effect:+.0%} from 40 on: {said}", flush=True)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=10_000, help="healthy runs a scenario; a tenth for each effect")
    parser.add_argument("--seed", type=int, default=None, help="default: 0, and 1 for --held-out")
    parser.add_argument("--held-out", action="store_true", help="scenarios that were written after the rule was frozen")
    parser.add_argument("--recorded", type=Path, help="recorded histories: JSON, or a folder of runs")
    parser.add_argument("--trend", action="store_true", help="score the change points of histories instead")
    parser.add_argument("--only", default="", help="scenarios whose name contains this")
    options = parser.parse_args()
    seed = options.seed if options.seed is not None else int(options.held_out)
    if options.trend:
        trends(options.trials, seed)
        return
    if options.recorded is not None:
        for line in recorded(read_recorded(options.recorded), options.trials, seed):
            print(line, flush=True)
        return
    scenarios = [one for one in (HELD_OUT if options.held_out else SCENARIOS) if options.only in one.name]
    table([replace(one) for one in scenarios], options.trials, seed)


if __name__ == "__main__":
    main()
