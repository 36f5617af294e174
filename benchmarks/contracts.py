"""What contracts predict against what real runtimes do: versions x generated checkpoints, with every disagreement.

    python -m benchmarks.contracts                 compare with the answers in benchmarks/contract_answers
    python -m benchmarks.contracts --ask           ask the runtimes that are installed here (quantgate runtime install)
    python -m benchmarks.contracts --ask --record  and write down what they answered

The lists are scored apart: ``listed``, written by hand while the rules were written; ``drawn``, whose every property
was drawn by chance (seed 7 was answered 565 of 600 before its misses were mended; seed 11 was drawn after that);
``unseen``, written by hand after the rules were settled; and ``schedules``: repositories, of whose index and
scheduler the runtime's own pipeline makes experts, boundary and flow shift.
A false green is a checkpoint that the contract calls right and the runtime refuses or reads otherwise.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from packaging.version import Version

from benchmarks.contract_kinds import drawn_kinds, unseen_kinds
from harness.inspector.contracts.model import load_contract
from harness.inspector.contracts.predict import predict
from harness.runtimes.environments import installed
from harness.runtimes.kinds import Kind, all_kinds
from harness.runtimes.learn import ask
from harness.runtimes.outcomes import Outcome, declared_of, predicted_outcome
from harness.runtimes.repositories import predicted_sampling, repositories

ANSWERS = Path(__file__).parent / "contract_answers"
DRAWN = {7: 120, 11: 150}
"""Seed to number of drawn checkpoints."""


SCHEDULE = ", shift "
"""Part of every answer about a schedule that is no refusal."""


@dataclass(frozen=True)
class Score:
    """One version against one list."""

    version: str
    asked: int
    wrong: tuple[tuple[str, str, str], ...]
    """Kind, predicted, real."""

    @property
    def false_greens(self) -> int:
        """Called right, and is not."""
        return sum(predicted == "right" or SCHEDULE in predicted for _, predicted, _ in self.wrong)

    @property
    def false_alarms(self) -> int:
        """Called wrong, and is right."""
        return sum(
            real == "right" or (SCHEDULE in real and predicted == "refused") for _, predicted, real in self.wrong
        )


def lists() -> dict[str, tuple[Kind, ...]]:
    """Every list of checkpoints by its name."""
    drawn = {f"drawn, seed {seed}": drawn_kinds(seed, count) for seed, count in DRAWN.items()}
    return {"listed": all_kinds(), "unseen": unseen_kinds(), **drawn}


def score(version: str, kinds: Sequence[Kind], answers: Mapping[str, Outcome]) -> Score:
    """Compare predictions with answers, for the kinds that were asked."""
    rules = load_contract(version).rules
    wrong: list[tuple[str, str, str]] = []
    asked = [kind for kind in kinds if kind.name in answers]
    for kind in asked:
        declared = declared_of(kind)
        predicted = predicted_outcome(predict(rules, declared), kind, declared)
        if predicted != answers[kind.name]:
            wrong.append((kind.name, predicted, answers[kind.name]))
    return Score(version, len(asked), tuple(wrong))


def score_schedules(version: str, answers: Mapping[str, str]) -> Score:
    """Compare predicted schedules with answers, for the repositories that were asked."""
    rules = load_contract(version).rules
    asked = [repository for repository in repositories() if repository.name in answers]
    rows = [(item.name, predicted_sampling(rules, item), answers[item.name]) for item in asked]
    return Score(version, len(asked), tuple(row for row in rows if row[1] != row[2]))


def recorded() -> dict[str, dict[str, Any]]:
    """Recorded answers: ``sglang==0.5.23`` to kind to outcome, oldest version first."""
    files = sorted(
        ANSWERS.glob("*.json"), key=lambda path: (path.stem.split("-")[0], Version(path.stem.split("-", 1)[1]))
    )
    return {path.stem.replace("-", "==", 1): json.loads(path.read_text(encoding="utf-8")) for path in files}


def asked_now(record: bool) -> dict[str, dict[str, Any]]:
    """Ask every runtime that is installed here."""
    answers: dict[str, dict[str, Any]] = {}
    kinds = [kind for group in lists().values() for kind in group]
    for environment in installed():
        result = ask(environment, kinds, lambda text: print(text, file=sys.stderr, flush=True), repositories())
        name = str(environment.name)
        answers[name] = {**{row.kind.name: row.outcome for row in result.rows}, **result.sampling}
        if record:
            place = ANSWERS / f"{name.replace('==', '-')}.json"
            place.write_text(json.dumps(answers[name], indent=0) + "\n", encoding="utf-8")
    return answers


def main(argv: Sequence[str] | None = None) -> int:
    """Print the table. Exit code 1 if anything was predicted wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ask", action="store_true", help="ask the installed runtimes instead of reading answers")
    parser.add_argument("--record", action="store_true", help="with --ask: write the answers down")
    options = parser.parse_args(argv)
    answers = asked_now(options.record) if options.ask else recorded()
    if not answers:
        print("no runtime is installed here: quantgate runtime install sglang==0.5.23 --cpu")
        return 1
    bad = 0
    groups = [
        (name, len(kinds), [score(version, kinds, rows) for version, rows in answers.items()])
        for name, kinds in lists().items()
    ]
    schedules = [score_schedules(version, rows) for version, rows in answers.items()]
    for name, count, scores in [*groups, ("schedules", len(repositories()), schedules)]:
        total, wrong = sum(item.asked for item in scores), sum(len(item.wrong) for item in scores)
        greens, alarms = sum(item.false_greens for item in scores), sum(item.false_alarms for item in scores)
        bad += wrong
        if not total:
            continue
        print(f"{name}: {count} checkpoints x {sum(item.asked > 0 for item in scores)} versions")
        for item in scores:
            if item.asked:
                print(f"  {item.version:22s} {item.asked - len(item.wrong)} of {item.asked} as predicted")
            for kind, predicted, real in item.wrong:
                print(f"    {kind}: predicted {predicted}, the runtime: {real}")
        print(f"  in all {total - wrong} of {total}; {greens} false greens, {alarms} false alarms")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
