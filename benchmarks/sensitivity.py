"""Which faults are seen, and which benign changes alarm: our gating set against the peers' rules.

``python -m benchmarks.sensitivity`` breaks every scene in every way of `benchmarks.faults` and prints misses and false
alarms. Our limits are set without the scene that is scored (worst mild change of the other scenes, 1.5 times as far
from the ideal); the peers' are their own. The second part asks what is left where pixels drift by up to 16 pixels and
only the drift-proof statistics and the reference-free checks can gate.

Exit code 1: our set missed a gross fault, or alarmed on a mild change.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import partial

from benchmarks.faults.benign import DRIFT, MILD
from benchmarks.faults.output import GROSS, Change, apply
from benchmarks.faults.scenes import scenes
from benchmarks.peers import rules_without_weights
from benchmarks.peers.base import PeerRule
from harness.frames.clip import Clip
from harness.frames.compare import compare
from harness.frames.registry import find_metric, gating_names
from harness.frames.sanity import check_clip

MARGIN = 1.5
"""How many times as far from the ideal as the worst mild change a limit lies."""
FLOOR = {"flicker": 1.0, "channel_shift": 1.0, "motion_ratio": 0.1}
"""No limit is tighter. A flat wall between two levels (of 255) is rounded up or down as a whole; and soft grain of two
levels is 7 % more motion where hardly anything moves."""
GATING = gating_names()
DRIFT_PROOF = tuple(name for name in GATING if name not in ("ssim", "psnr", "mad", "tile_ssim"))
"""Statistics that may gate under drift."""

Values = dict[str, float]
"""Distance from the ideal by metric, 0 for a perfect clip; PSNR as root mean squared error."""
Judges = dict[str, Callable[[Clip, Clip], bool]]
"""Pass rules by name."""


@dataclass(frozen=True)
class Look:
    """Everything that is asked of one changed clip."""

    values: Values
    peers: dict[str, bool]
    """Whether each peer's rule lets it pass."""
    unhealthy: frozenset[str]
    """Reference-free checks that failed."""


Table = dict[str, dict[str, Look]]
"""By scene and change."""


@dataclass
class Tally:
    """What one rule did: scenes in which a gross fault passed, or a benign change alarmed, by change."""

    missed: dict[str, int] = field(default_factory=dict)
    alarmed: dict[str, int] = field(default_factory=dict)

    def note(self, change: str, gross: bool, passed: bool) -> None:
        """Count one verdict."""
        if gross and passed:
            self.missed[change] = self.missed.get(change, 0) + 1
        if not gross and not passed:
            self.alarmed[change] = self.alarmed.get(change, 0) + 1


def distances(golden: Clip, candidate: Clip) -> Values:
    """How far each gating metric's worst value is from its ideal."""
    by_change = {}
    for result in compare(golden, candidate).metrics:
        if result.worst is None:
            raise SystemExit(f"{result.name}: {result.why}")
        rmse = 255.0 * 10.0 ** (-result.worst / 20.0)
        by_change[result.name] = rmse if result.name == "psnr" else abs(result.worst - result.ideal)
    return by_change


def limits(benign: Iterable[Values], names: Iterable[str]) -> Values:
    """Largest distance that passes, by metric."""
    rows = list(benign)
    return {name: max(MARGIN * max(row[name] for row in rows), FLOOR.get(name, 0.0)) for name in names}


def within(values: Values, bounds: Values) -> bool:
    """Whether every metric that has a limit keeps it."""
    return all(values[name] <= bound for name, bound in bounds.items())


def look(chosen: dict[str, Clip], changes: dict[str, Change], judges: Judges, first: Change | None = None) -> Table:
    """Change every scene in every way, and look at the result; ``first`` is applied before each change."""
    table: Table = {}
    for scene, clip in chosen.items():
        start = apply(first, clip, seed=99) if first else clip
        table[scene] = {}
        for name, change in changes.items():
            candidate = apply(change, start)
            table[scene][name] = Look(
                distances(clip, candidate),
                {rule: judge(clip, candidate) for rule, judge in judges.items()},
                frozenset(check.name for check in check_clip(candidate).failures),
            )
    return table


def values_of(table: Table) -> dict[str, dict[str, Values]]:
    """The distances alone."""
    return {scene: {name: result.values for name, result in rows.items()} for scene, rows in table.items()}


def score_ours(mild: dict[str, dict[str, Values]], gross: dict[str, dict[str, Values]], names: Iterable[str]) -> Tally:
    """Every scene against limits from the mild changes of all others."""
    tally, names = Tally(), tuple(names)
    for scene in mild:
        bounds = limits((row for other in mild if other != scene for row in mild[other].values()), names)
        for is_gross, table in ((False, mild), (True, gross)):
            for change, values in table[scene].items():
                tally.note(change, is_gross, within(values, bounds))
    return tally


def passes(rule: PeerRule, golden: Clip, candidate: Clip) -> bool:
    """Whether a peer's rule lets the candidate pass."""
    return rule.judge(golden, candidate).passed


def all_frames(mean: bool) -> Callable[[Clip, Clip], bool]:
    """Two rules between the peers' and ours: SGLang's limits on every frame, and mean SSIM >= .90 over all frames."""

    def judge(golden: Clip, candidate: Clip) -> bool:
        ssim, psnr, mad = compare(golden, candidate, ["ssim", "psnr", "mad"]).metrics
        if ssim.worst is None or psnr.worst is None or mad.worst is None or ssim.mean is None:
            raise SystemExit(ssim.why)
        if mean:
            return ssim.mean >= 0.90
        return ssim.worst >= 0.92 and psnr.worst >= 24 and mad.worst <= 10

    return judge


def peer_judges() -> Judges:
    """Every peer's rule, and two that lie between theirs and ours; prints what is left out of each."""
    judges: Judges = {}
    for rule in rules_without_weights():
        judges[rule.name] = partial(passes, rule)
        print(f"  {rule.name}: " + (f"without {rule.left_out}" if rule.left_out else "whole"))
    judges["SGLang's limits on all frames"] = all_frames(mean=False)
    judges["mean SSIM >= .90, all frames"] = all_frames(mean=True)
    return judges


def score_peers(judges: Judges, mild: Table, gross: Table) -> dict[str, Tally]:
    """What each rule missed and alarmed on."""
    tallies = {name: Tally() for name in judges}
    for is_gross, table in ((False, mild), (True, gross)):
        for rows in table.values():
            for change, result in rows.items():
                for name, passed in result.peers.items():
                    tallies[name].note(change, is_gross, passed)
    return tallies


def print_scores(tallies: dict[str, Tally], count: int) -> None:
    """One line a rule."""
    print(
        f"\n{'rule':34} {'gross faults missed':>22} {'clips missed':>14} {'benign alarmed':>16} {'clips alarmed':>14}"
    )
    for name, tally in tallies.items():
        clips = (
            f"{sum(tally.missed.values())}/{len(GROSS) * count}",
            f"{sum(tally.alarmed.values())}/{len(MILD) * count}",
        )
        faults, alarms = f"{len(tally.missed)} of {len(GROSS)}", f"{len(tally.alarmed)} of {len(MILD)}"
        print(f"{name:34} {faults:>22} {clips[0]:>14} {alarms:>16} {clips[1]:>14}")
    print("(a fault counts as missed when any scene's clip with it passes; an alarm likewise)")


def print_misses(tallies: dict[str, Tally], count: int) -> None:
    """In how many scenes each rule missed each fault."""
    print(f"\nscenes (of {count}) in which a fault passed:")
    for index, name in enumerate(tallies):
        print(f"  {chr(65 + index)} {name}")
    print(f"{'':20}" + "".join(f"{chr(65 + index):>4}" for index in range(len(tallies))))
    for change in GROSS:
        print(f"{change:20}" + "".join(f"{tally.missed.get(change, 0) or '.':>4}" for tally in tallies.values()))


def print_margins(mild: dict[str, dict[str, Values]], gross: dict[str, dict[str, Values]]) -> None:
    """How far apart the two sides lie, metric by metric."""
    bounds = limits((row for scene in mild.values() for row in scene.values()), GATING)
    print(f"\n{'metric':16} {'worst mild':>11} {'limit':>9} {'faults seen by it':>18} {'seen by it alone':>17}")
    for name in GATING:
        seen = {change for rows in gross.values() for change, values in rows.items() if values[name] > bounds[name]}
        alone = {
            change
            for rows in gross.values()
            for change, values in rows.items()
            if values[name] > bounds[name] and within(values, {k: v for k, v in bounds.items() if k != name})
        }
        shown = ", ".join(sorted(alone)) or "-"
        worst = max(row[name] for rows in mild.values() for row in rows.values())
        print(f"{name:16} {worst:11.4g} {bounds[name]:9.4g} {len(seen):18} {shown:>17}")
    print("(distances from the ideal; psnr as root mean squared error, levels of 255)")


def drift_part(chosen: dict[str, Clip]) -> Tally:
    """Faults on top of a 16-pixel drift, gated by drift-proof statistics and reference-free checks alone."""
    warp = DRIFT["warp_16"]
    benign, gross = look(chosen, DRIFT, {}), look(chosen, GROSS, {}, first=warp)
    for scene, rows in look(chosen, MILD, {}, first=warp).items():
        benign[scene] |= {f"warp_16 + {name}": row for name, row in rows.items()}
    unseen = {
        scene: {name: result.values for name, result in rows.items() if not result.unhealthy}
        for scene, rows in gross.items()
    }
    tally = score_ours(values_of(benign), unseen, DRIFT_PROOF)
    lowest = min(1.0 - result.values["ssim"] for rows in benign.values() for result in rows.values())
    alarms = ", ".join(f"{name} {count}" for name, count in tally.alarmed.items()) or "none"
    print(f"\nunder drift (worst-frame SSIM of benign clips down to {lowest:.2f}; {len(benign)} scenes)")
    print(f"  false alarms: {alarms}")
    print(f"  faults seen in every scene: {len(GROSS) - len(tally.missed)} of {len(GROSS)}")
    print("  passed in some scene: " + ", ".join(f"{name} {count}" for name, count in sorted(tally.missed.items())))
    return tally


def sanity_part(chosen: dict[str, Clip], mild: Table, gross: Table) -> int:
    """Reference-free checks on healthy and broken clips; gives the number of false alarms."""
    alarms = sum(not check_clip(clip).ok for clip in chosen.values())
    alarms += sum(bool(result.unhealthy) for rows in mild.values() for result in rows.values())
    seen = []
    for name in GROSS:
        result = [rows[name].unhealthy for rows in gross.values()]
        if all(result):
            seen.append(f"{name} ({', '.join(sorted(frozenset.union(*result)))})")
    print(
        f"\nwithout a reference: {alarms} false alarms on {len(chosen) * (1 + len(MILD))} healthy clips; seen always:"
    )
    print("  " + "; ".join(seen))
    return alarms


def main(arguments: list[str] | None = None) -> int:
    """Print the tables; 1 where our set missed a fault or alarmed on a mild change."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--no-peers", action="store_true", help="our set only: a minute instead of several")
    options = parser.parse_args(arguments)
    import torch

    torch.set_num_threads(1)  # another process on the machine makes two threads slower than one
    chosen = scenes()
    shape = "x".join(str(side) for side in next(iter(chosen.values())).shape)
    print(f"{len(chosen)} scenes ({', '.join(chosen)}), {shape}; {len(GROSS)} gross faults, {len(MILD)} mild changes")
    for name in GATING:
        print(f"  {name:16} {find_metric(name).setting}")
    judges = {} if options.no_peers else peer_judges()
    mild, gross = look(chosen, MILD, judges), look(chosen, GROSS, judges)
    score_of_quantgate = score_ours(values_of(mild), values_of(gross), GATING)
    tallies = {"quantgate, limits of other scenes": score_of_quantgate} | score_peers(judges, mild, gross)
    print_scores(tallies, len(chosen))
    print_misses(tallies, len(chosen))
    print_margins(values_of(mild), values_of(gross))
    alarms = sanity_part(chosen, mild, gross)
    drift_part(chosen)
    bad = bool(score_of_quantgate.missed or score_of_quantgate.alarmed or alarms)
    print(
        "\nFAIL: " + repr((score_of_quantgate.missed, score_of_quantgate.alarmed, alarms))
        if bad
        else "\nno fault missed, no false alarm"
    )
    return int(bad)


if __name__ == "__main__":
    sys.exit(main())
