"""The fault corpus: per fault whether it was detected, under which name, for how many bytes and milliseconds.

    python -m benchmarks.fault_corpus [--only SUBSTRING] [--symptoms] [--keep FOLDER]

Mutates real exports of the tiny model by nvidia-modelopt. ``--symptoms`` also loads each mutant through the harness.
Exit code 1 where a detectable fault was missed or misnamed, or a valid dialect raised an alarm.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from benchmarks.corpus.dialects import DIALECTS, Dialect, make
from benchmarks.corpus.edit import Edit
from benchmarks.corpus.exports import BASE, RECIPES, WIDE, base_folder, base_of, export, wide_base
from benchmarks.corpus.faults import FAULTS, INVISIBLE, KINDS, Fault, kind_of
from harness.inspector.checks import run_checks
from harness.inspector.inspect import Examined, examine
from harness.inspector.summarize import decide

Symptom = Callable[[Path, str], str]


@dataclass(frozen=True)
class Result:
    """One row of the table."""

    name: str
    detected: bool
    named: bool
    cause: str
    expected: str
    bytes: int
    milliseconds: float
    symptom: str = ""


def build(folder: Path) -> Path:
    """All exports that faults and dialects start from, by recipe, beside ``base`` and ``base_wide``."""
    base_folder(folder / "base")
    wide_base(folder / "base", folder / "base_wide")
    for name, recipe in [(name, name) for name in RECIPES] + [(f"{name}_wide", name) for name in WIDE]:
        if not (folder / name / "transformer_2" / "config.json").is_file():
            export(recipe, folder / name, base_of(folder / name))
    return folder


def examine_fault(fault: Fault, exports: Path, folder: Path) -> Examined:
    """Write one mutant and read it."""
    fault.mutate(Edit(exports / fault.recipe, folder), fault.strength)
    base = None if fault.baseless else base_of(exports / fault.recipe)
    return examine(folder, base=base, contracts=fault.contracts, expected=fault.expected)


def judge_fault(fault: Fault, exports: Path, folder: Path, symptom: Symptom | None = None) -> Result:
    """Whether the inspector sees it, and calls it by its name: the leading cause of a fault, or a warning's code."""
    started = time.perf_counter()
    examined = examine_fault(fault, exports, folder)
    findings = run_checks(examined.context)
    spent = (time.perf_counter() - started) * 1000
    outcome, cause = decide(findings)
    codes = {item.code for item in findings if item.severity == fault.severity}
    detected = outcome == fault.severity if fault.severity != "warning" else fault.code in codes
    return Result(
        fault.id,
        detected,
        fault.code in codes,
        cause if outcome != "clean" else ", ".join(sorted({item.code for item in findings})) or "none",
        fault.code,
        examined.meter.bytes,
        spent,
        symptom(folder, fault.recipe) if symptom else "",
    )


def judge_dialect(dialect: Dialect, exports: Path, folder: Path) -> Result:
    """Whether a right checkpoint is left alone."""
    made = make(dialect, exports, folder)
    started = time.perf_counter()
    examined = examine(
        base_of(exports / dialect.recipe) if dialect.override else made,
        base=base_of(exports / dialect.recipe),
        transformer=made if dialect.override else None,
        contracts=dialect.contracts,
        expected=dialect.expected,
    )
    outcome, cause = decide(run_checks(examined.context))
    spent = (time.perf_counter() - started) * 1000
    return Result(dialect.name, outcome != "clean", outcome == "clean", cause, "none", examined.meter.bytes, spent)


def _print(results: list[Result], heading: str) -> None:
    print(f"\n{heading}")
    print(f"{'case':44} {'detected':9} {'named':6} {'cause':44} {'MiB':>6} {'ms':>7}  symptom")
    for item in results:
        words = ("yes" if item.detected else "no", "yes" if item.named else "NO")
        row = f"{item.name:44} {words[0]:9} {words[1]:6} {item.cause[:44]:44}"
        print(f"{row} {item.bytes / 2**20:6.1f} {item.milliseconds:7.0f}  {item.symptom}")


def main() -> int:
    """Run the corpus and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="substring of fault or dialect names")
    parser.add_argument(
        "--symptoms", action="store_true", help="load each mutant through the harness and compare videos"
    )
    parser.add_argument("--keep", type=Path, default=None, help="folder for exports, reused when it exists")
    options = parser.parse_args()
    place = options.keep or Path(tempfile.mkdtemp(prefix="quantgate-corpus-"))
    try:
        exports = build(place / "exports")
        symptom: Symptom | None = None
        if options.symptoms:
            from benchmarks.corpus.symptoms import Symptoms

            symptom = Symptoms(exports, BASE)
        faults, dialects = [], []
        for fault in FAULTS:
            if options.only in fault.id:
                with tempfile.TemporaryDirectory(dir=place) as folder:
                    faults.append(judge_fault(fault, exports, Path(folder) / "mutant", symptom))
        for dialect in DIALECTS:
            if options.only in dialect.name:
                with tempfile.TemporaryDirectory(dir=place) as folder:
                    dialects.append(judge_dialect(dialect, exports, Path(folder) / "made"))
    finally:
        if options.keep is None:
            shutil.rmtree(place, ignore_errors=True)
    kinds = {item.id: kind_of(item) for item in FAULTS}
    for _, kind in KINDS:
        if own := [item for item in faults if kinds[item.name] == kind]:
            _print(own, f"faults: {kind}")
    for item in INVISIBLE:
        print(f"{item.row:02d}-{item.name:41} not visible: {item.why}")
    _print(dialects, "valid dialects (detected must be no)")
    missed = [item for item in faults if not (item.detected and item.named)]
    alarms = [item for item in dialects if item.detected]
    print("\nmutants by kind")
    for _, kind in KINDS:
        own = [item for item in faults if kinds[item.name] == kind]
        print(f"{sum(item.detected and item.named for item in own):4} of {len(own):3}  {kind}")
    print(f"\n{len(faults) - len(missed)} of {len(faults)} mutants detected and named")
    print(f"{len(alarms)} alarms on {len(dialects)} valid dialects")
    return 1 if missed or alarms else 0


if __name__ == "__main__":
    sys.exit(main())
