"""Where the gates of the inspector lie: right and wrong readings of the tiny model's exports, by rows read.

    python -m benchmarks.inspect_gates [--exports FOLDER] [--gguf]

Prints for each recipe and number of rows: the lowest cosine of the right reading, the highest of any reading with the
wrong nibble order and of any with only the wrong scale layout, relative error and gain. The gates that are in force
(harness/inspector/gates.py) stand below. ``--gguf`` prints the ggml types only: quantized by ggml itself, decoded
by the ``gguf`` library, from the tiny model's Linears and from normal and heavy-tailed weights, 8 rows of each.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from safetensors.torch import load_file

from benchmarks.corpus.exports import BASE, EXPERTS
from benchmarks.corpus.libraries import ggml_quantize
from benchmarks.fault_corpus import build
from harness.formats.decode import decode_gguf
from harness.formats.evidence import Fit, Sums
from harness.formats.modules import group
from harness.formats.registry import built_in_formats
from harness.inspector.assemble import assemble
from harness.inspector.gates import EXACT, GGUF_GATES, ROW_COSINE, STALE
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
        gathered = gather(plan, pool)
    return [item.fit for expert in gathered.measured.values() for item in expert.values() if item.fit is not None]


def line(recipe: str, rows: int, fits: list[Fit]) -> str:
    """One row of the table."""
    right = [item.scores[item.best] for item in fits]
    nibble, layout, other = [], [], []
    for item in fits:
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
    lowest = min(float(item.sums[item.best].row_cosine().min()) for item in fits)
    cells += [f"{min(errors):.4f}-{max(errors):.4f}", f"{min(gains):.4f}-{max(gains):.4f}", f"{lowest:.3f}"]
    count = "all" if rows > 1 << 20 else str(rows)
    return f"{recipe:15} {count:>4}  " + "  ".join(f"{cell:>13}" for cell in cells)


def gguf_weights() -> dict[str, np.ndarray]:
    """Return the weights that are quantized: Linears of the tiny model 768 wide, and drawn ones 5120 wide, [8, K]."""
    weights: dict[str, np.ndarray] = {}
    for expert in EXPERTS:
        for name, value in load_file(next((BASE / expert).glob("*.safetensors"))).items():
            if name.endswith("ffn.net.2.weight"):
                weights[f"{expert} {name}"] = value[:8].float().numpy()
    random = np.random.default_rng(7)
    for number in range(8):
        weights[f"normal {number}"] = random.normal(0, 0.02, (8, 5120)).astype(np.float32)
        weights[f"student {number}"] = (random.standard_t(4, (8, 5120)) * 0.02).astype(np.float32)
        # a few wide columns, as attention outputs of trained transformers have them
        outlier = random.normal(0, 0.02, (8, 5120)).astype(np.float32)
        outlier[:, random.integers(0, 5120, 32)] *= 12
        weights[f"outlier {number}"] = outlier
    return weights


def gguf_lines() -> list[str]:
    """Return one line per ggml type: lowest cosine of right codes, gains, and the highest cosine of other weights."""
    lines = [f"{'ggml type':10} {'right min':>10} {'gain':>17} {'half off max':>12}  gate"]
    weights = gguf_weights()
    random = np.random.default_rng(11)
    for kind in (*GGUF_GATES, "IQ4_NL", "IQ4_XS"):
        right, gains, moved = [], [], []
        for base in weights.values():
            decoded = decode_gguf(ggml_quantize(base, kind).tobytes(), kind, base.shape[1])
            score = Sums.of(decoded, base).score()
            right.append(score.cosine)
            gains.append(score.gain)
            other = base + random.normal(0, 1, base.shape).astype(np.float32) * base.std() * 0.5
            moved.append(Sums.of(decoded, other.astype(np.float32)).score().cosine)
        gate = GGUF_GATES.get(kind, built_in_formats()["gguf"].gate)
        limits = f"cos >= {gate.cosine}, |gain - 1| <= {gate.gain}, unrelated below {gate.unrelated}"
        spread = f"{min(gains):.4f}-{max(gains):.4f}"
        lines.append(f"{kind:10} {min(right):10.4f} {spread:>17} {max(moved):12.4f}  {limits}")
    return lines


def main() -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--exports", type=Path, default=None, help="reuse or make the exports here")
    parser.add_argument("--gguf", action="store_true", help="print the ggml types only")
    options = parser.parse_args()
    if options.gguf:
        print("\n".join(gguf_lines()))
        return 0
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
