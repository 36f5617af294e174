"""Where the inspector says "proven", "contradicted" and "inconclusive"; measured by ``benchmarks.inspect_gates``.

Between two gates the answer is ``inconclusive``, never a pass.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from harness.checkpoint.evidence import Fit
from harness.checkpoint.measure import Measured

State = Literal["proven", "inconclusive", "contradicted", "not_provable"]


@dataclass(frozen=True, slots=True)
class Gate:
    """Limits of one stored format."""

    cosine: float
    """At least this: these are codes of this base."""
    unrelated: float
    """Below this under every reading: these are not codes of this base."""
    gap: float
    """Cosine by which the best reading must lead."""
    gain: float
    """Largest distance of the fitted gain from 1."""


GATES: dict[str, Gate] = {
    "nvfp4": Gate(cosine=0.990, unrelated=0.90, gap=0.03, gain=0.02),
    "fp8": Gate(cosine=0.999, unrelated=0.95, gap=0.03, gain=0.01),
    "int8": Gate(cosine=0.999, unrelated=0.95, gap=0.03, gain=0.01),
}
ROW_COSINE = 0.90
"""A row below this contradicts the reading that fits its tensor (measured: right rows stay above .97)."""
ROW_CLAIM = 0.98
"""A row may be said to follow another reading only above this: a wrong scale layout alone reaches .95."""
OTHER_CODES = 0.99
"""8-bit codes of another table are named above this: E5M2 itself has a cosine of .998 only."""
ROW_GAIN = 0.15
EXACT = 0.999
"""Share of recomputed codes that must agree to say: made from exactly this base."""
STALE = 0.9975
"""Below this share, where the recipe allows the claim: made from another base."""
UNROUNDED = 0.99
"""Share of codes that the unrounded scale must explain (the division's own precision moves the rest)."""
NEAR = 0.97
"""Share of block scales within one E4M3 step that the claim asks for: other calibrations lie further away."""
FULL_BLOCKS = 0.999
"""Share of blocks that use their largest code, which max calibration gives to all."""


def gain_limit(measured: Measured) -> float:
    """Largest distance of the fitted gain from 1: the gate, or six standard errors where few values were read.

    Rounding to E2M1 leaves a relative error of .095 (E4M3: .027) that is nearly independent from value to value, so
    the gain fitted to n values scatters by that over the square root of n.
    """
    found, gate = measured.fit, gate_of(measured)
    values = found.rows * measured.module.shape[1] if found is not None else 0
    noise = 0.095 if measured.module.format == "nvfp4" else 0.027
    return max(gate.gain, float(6 * noise / math.sqrt(max(values, 1))))


def gate_of(measured: Measured) -> Gate:
    """The limits for the module's stored format."""
    return GATES.get(measured.module.format, GATES["fp8"])


def is_fnuz(item: Measured) -> bool:
    """E4M3 FNUZ has one more in its exponent bias: the same byte stands for half the value."""
    found = item.fit
    if item.module.format != "fp8" or found is None or found.best != "e4m3":
        return False
    return abs(found.scores["e4m3"].gain - 2) < 0.1


def state_of(measured: Measured, declared: str) -> State:
    """What the sampled rows say of the declared reading of one module."""
    found = measured.fit
    if found is None:
        return "not_provable"
    gate = gate_of(measured)
    best = good_score(found)
    if (
        measured.module.format == "fp8"
        and found.best != declared
        and best >= OTHER_CODES
        and (found.gap or 0) >= gate.gap
    ):
        return "contradicted"
    if best >= gate.cosine and (found.gap is None or found.gap >= gate.gap):
        return "proven" if found.best == declared else "contradicted"
    return "contradicted" if best < gate.unrelated else "inconclusive"


def bad_rows(found: Fit) -> list[int]:
    """Rows (positions in the sample) that the tensor's best reading does not explain."""
    sums = found.sums[found.best]
    cosine = sums.row_cosine()
    return [int(i) for i in range(len(cosine)) if sums.bb[i] > 0 and cosine[i] < ROW_COSINE]


def good_score(found: Fit) -> float:
    """Cosine of the best reading over the rows that it explains: one broken row must not blur what the rest proves."""
    rows = set(bad_rows(found))
    sums = found.sums[found.best]
    if not rows or len(rows) * 2 >= len(sums.qq):
        return found.scores[found.best].cosine
    keep = [index for index in range(len(sums.qq)) if index not in rows]
    qq, qb, bb = (float(item[keep].sum()) for item in (sums.qq, sums.qb, sums.bb))
    return qb / (qq * bb) ** 0.5 if qq > 0 and bb > 0 else 0.0
