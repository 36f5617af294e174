"""Where the gates of the inspector lie: right and wrong readings of the tiny model's exports, by rows read.

    python -m benchmarks.inspect_gates [--exports FOLDER]

Prints for each recipe and number of rows: the lowest cosine of the right reading, the highest of any reading with the
wrong nibble order and of any with only the wrong scale layout, relative error and gain. The gates that are in force
(harness/inspector/gates.py) stand below.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from benchmarks.fault_corpus import build
from harness.formats.evidence import Fit
from harness.formats.modules import group
from harness.formats.registry import built_in_formats
from harness.inspector.assemble import assemble
from harness.inspector.gates import EXACT, ROW_COSINE, STALE
from harness.inspector.gather import Plan, gather
from harness.inspector.sampling import Budget
from harness.inspector.sources import Meter

ROWS = (1, 4, 16, 1 << 30)


def fits(checkpoint: Path, base: Path, rows: int) -> list[Fit]:
    """Every quantized Linear of both experts, ``rows`` rows each."""
    with ThreadPoolExecutor(4) as pool:
        subject, anchor = assemble(checkpoint, Meter(), pool), assemble(base, Meter(), pool, role="base")
        modules = {expert: group(component.tensors, component.hints) for expert, component in subject.experts.items()}
        budgets = dict.fromkeys(subject.experts, Budget(rows=rows))
        plan = Plan(subject.experts, modules, anchor.experts, budgets, dict.fromkeys(subject.experts, False))
        found = gather(plan, pool)
    return [item.fit for expert in found.measured.values() for item in expert.values() if item.fit is not None]


def line(recipe: str, rows: int, found: list[Fit]) -> str:
    """One row of the table."""
    right = [item.scores[item.best] for item in found]
    nibble, layout, other = [], [], []
    for item in found:
        for name, score in item.scores.items():
            if name == item.best:
                continue
            if "/" not in name:
                other.append(score.cosine)
            elif name.split("/")[0] != item.best.split("/")[0]:
                nibble.append(score.cosine)
            else:
                layout.append(score.cosine)
    cells = [f"{min(score.cosine for score in right):.4f}"]
    cells += [f"{max(values):.3f}" if values else "-" for values in (nibble, layout, other)]
    errors, gains = [score.relative_error for score in right], [score.gain for score in right]
    lowest = min(float(item.sums[item.best].row_cosine().min()) for item in found)
    cells += [f"{min(errors):.4f}-{max(errors):.4f}", f"{min(gains):.4f}-{max(gains):.4f}", f"{lowest:.3f}"]
    count = "all" if rows > 1 << 20 else str(rows)
    return f"{recipe:15} {count:>4}  " + "  ".join(f"{cell:>13}" for cell in cells)


def main() -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--exports", type=Path, default=None, help="reuse or make the exports here")
    options = parser.parse_args()
    heads = ("right min", "nibble max", "layout max", "code max", "rel error", "gain", "worst row")
    print(f"{'recipe':15} {'rows':>4}  " + "  ".join(f"{head:>13}" for head in heads))
    with tempfile.TemporaryDirectory() as folder:
        exports = build(options.exports or Path(folder))
        for recipe in ("nvfp4", "nvfp4_awq", "nvfp4_svdquant", "fp8", "fp8_channel"):
            for rows in ROWS:
                print(line(recipe, rows, fits(exports / recipe, exports / "base", rows)))
    for name, gate in ((name, item.gate) for name, item in built_in_formats().items()):
        limits = f"cos >= {gate.cosine}, gap >= {gate.gap}, |gain - 1| <= {gate.gain}"
        print(f"gate {name}: {limits}; below {gate.unrelated}: unrelated")
    print(f"a row below {ROW_COSINE} contradicts; recomputed codes: exact from {EXACT}, stale below {STALE}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
