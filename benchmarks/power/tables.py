"""Prints what the score found."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence

from benchmarks.power.result import Result
from benchmarks.power.score import (
    FRAMES,
    OURS,
    Gate,
    Scorer,
    clustered,
    distinct_benign,
    threshold_at,
    upper_bound,
)


def print_all(
    rows: Sequence[Result],
    by_rule: Mapping[str, Scorer],
    gates: Mapping[tuple[int, int], Gate],
    causes: Mapping[str, tuple[str, ...]],
) -> bool:
    """Every table. True where the gate reached what it must.

    Args:
        rows: all results.
        found: scores by rule.
        gates: ours, by case.
        causes: by fault, the codes that name it rightly; absent where its cause has no name.
    """
    limited = [row for row in rows if row.case in gates]
    benign, faults = distinct_benign(limited), [row for row in limited if row.side == "fault"]
    every = [row for row in limited if row.side == "benign"]
    names = {row.name for row in faults}
    prompts, cases = {row.prompt for row in limited}, {row.case for row in limited}
    print(f"{len(cases)} cases ({len(prompts)} prompts), {len(names)} faults in {len(faults)} outputs")
    kinds = Counter(row.kind for row in benign)
    print(
        f"{len(benign)} distinct healthy runs of {len(every)}: "
        + ", ".join(f"{n} {k}" for k, n in sorted(kinds.items()))
    )
    silent = [row for row in faults if row.bit_exact and not row.error]
    exact = ", ".join(f"{name} x{count}" for name, count in Counter(row.name for row in silent).items())
    print(
        f"{len(silent)} outputs of faults equal the golden bit by bit, and count against every rule: {exact or 'none'}"
    )
    _operating_points(by_rule, benign, faults)
    _equal_alarms(by_rule, benign, faults)
    _classes(by_rule, faults)
    _misses(by_rule, faults)
    _causes(gates, faults, causes)
    return _reached(by_rule, benign, faults)


def _operating_points(by_rule: Mapping[str, Scorer], benign: Sequence[Result], faults: Sequence[Result]) -> None:
    print("\nEach rule at its own limits (95 % intervals: prompts and seeds resampled; upper bounds: exact)")
    print(f"{'rule':30} {'false alarms':>14} {'upper 95 %':>11} {'cases':>8} {'detection':>10} {'interval':>16}")
    for name, score in by_rule.items():
        alarms = [row for row in benign if score(row) > 1]
        place = len({row.case for row in alarms})
        share, low, high = clustered(faults, lambda row, score=score: score(row) > 1)  # type: ignore[misc]
        count = f"{len(alarms)}/{len(benign)}"
        bound = upper_bound(len(alarms), len(benign))
        print(f"{name:30} {count:>14} {bound:>11.2%} {place:>8} {share:>10.2%} {f'{low:.1%} - {high:.1%}':>16}")


def _equal_alarms(by_rule: Mapping[str, Scorer], benign: Sequence[Result], faults: Sequence[Result]) -> None:
    print(
        "\nDetection where each rule is scaled to the same number of false alarms (chosen on these very healthy runs)"
    )
    steps = sorted({0, round(0.01 * len(benign)), round(0.05 * len(benign))})
    print(f"{'rule':30} " + " ".join(f"{f'{n} alarms':>12}" for n in steps))
    for name, score in by_rule.items():
        healthy, bad = [score(row) for row in benign], [score(row) for row in faults]
        shares = [sum(scores_of_fault > threshold_at(healthy, n) for scores_of_fault in bad) / len(bad) for n in steps]
        print(f"{name:30} " + " ".join(f"{share:>12.2%}" for share in shares))


def _classes(by_rule: Mapping[str, Scorer], faults: Sequence[Result]) -> None:
    kinds = sorted({row.kind for row in faults})
    print("\nDetection by class of fault, each rule at its own limits")
    print(f"{'rule':30} " + " ".join(f"{kind:>14}" for kind in kinds))
    print(f"{'(outputs)':30} " + " ".join(f"{sum(row.kind == kind for row in faults):>14}" for kind in kinds))
    for name, score in by_rule.items():
        heaps = [[row for row in faults if row.kind == kind] for kind in kinds]
        print(f"{name:30} " + " ".join(f"{sum(score(r) > 1 for r in heap) / len(heap):>14.1%}" for heap in heaps))


def _misses(by_rule: Mapping[str, Scorer], faults: Sequence[Result]) -> None:
    print("\nFaults that a rule misses in at least one case (misses of outputs)")
    total = Counter(row.name for row in faults)
    for name, score in by_rule.items():
        missed = Counter(row.name for row in faults if score(row) <= 1)
        listed = [f"{fault} {count}/{total[fault]}" for fault, count in missed.most_common()]
        shown = ", ".join(listed[:24]) + (f" and {len(listed) - 24} more" if len(listed) > 24 else "")
        print(f"{name}: {len(listed)} of {len(total)} faults. {shown or 'none'}")


def _causes(
    gates: Mapping[tuple[int, int], Gate], faults: Sequence[Result], causes: Mapping[str, tuple[str, ...]]
) -> None:
    with_cause = [row for row in faults if causes.get(row.name)]
    if not with_cause:
        return
    by_kind: dict[str, list[Result]] = defaultdict(list)
    for row in with_cause:
        by_kind[row.kind].append(row)
    print("\nCause named rightly, among the faults whose cause has a name")
    wrong: Counter[str] = Counter()
    for kind, rows in sorted(by_kind.items()):
        right = [row for row in rows if set(causes[row.name]) & set(gates[row.case].named(row))]
        wrong.update(row.name for row in rows if row not in right)
        early = sum(bool(row.inspected) for row in rows)
        print(f"{kind:16} {len(right)}/{len(rows)}; {early} before anything was generated")
    for name, count in wrong.most_common():
        row = next(row for row in with_cause if row.name == name)
        codes = ", ".join(gates[row.case].named(row)[:5]) or "nothing"
        print(f"  not named: {name} x{count} (said: {codes})")


def _reached(by_rule: Mapping[str, Scorer], benign: Sequence[Result], faults: Sequence[Result]) -> bool:
    score_of_quantgate = by_rule[OURS]
    alarms = sum(score_of_quantgate(row) > 1 for row in benign)
    caught = [row for row in faults if score_of_quantgate(row) > 1]
    hard = [row for row in faults if row.kind in ("checkpoint", "configuration", "loader", "conditioning")]
    hard_caught = sum(score_of_quantgate(row) > 1 for row in hard)
    bound = threshold_at([score_of_quantgate(row) for row in benign], 0)
    caught_by_quantgate = sum(score_of_quantgate(row) > bound for row in faults)
    own, best_own, best_equal = len(caught) / len(faults) - alarms / len(benign), 0.0, 0
    for name, score in by_rule.items():
        if name not in (OURS, FRAMES):
            line = threshold_at([score(row) for row in benign], 0)
            false = sum(score(row) > 1 for row in benign) / len(benign)
            best_own = max(best_own, sum(score(row) > 1 for row in faults) / len(faults) - false)
            best_equal = max(best_equal, sum(score(row) > line for row in faults))
    goals = {
        f"no false alarm in {len(benign)} distinct healthy runs": alarms == 0,
        "200 distinct healthy runs or more": len(benign) >= 200,
        "every checkpoint, loader, configuration and conditioning fault is found": hard_caught == len(hard),
        "98 % of all faults are found": len(caught) >= 0.98 * len(faults),
        "ahead of every other rule at its own limits (detection less false alarms)": own > best_own,
        "ahead of every other rule at no false alarm": caught_by_quantgate > best_equal,
    }
    print("\nTo reach")
    for text, reached in goals.items():
        print(f"  {'yes' if reached else 'NO ':4}{text}")
    return all(goals.values())
