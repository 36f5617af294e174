"""Limits for "proven", "contradicted" and "inconclusive"; ``benchmarks.inspect_gates`` measures them.

A value between two gates is ``inconclusive``, never a pass.
"""

from __future__ import annotations

import math
from typing import Literal

import numpy as np

from harness.formats.decode import rotation_of, shift_of
from harness.formats.evidence import Fit
from harness.formats.registry import built_in_formats, known_formats
from harness.formats.spec import Gate
from harness.inspector.measure import Measured
from harness.inspector.sampling import STRIP

State = Literal["proven", "inconclusive", "contradicted", "not_provable"]


E5M2 = Gate(0.997, 0.95, 0.003, 0.01)
"""FP8 E5M2 has two mantissa bits: a right export reaches .9982, and E4M3 read as E5M2 stays below .92."""
GGUF_GATES = {
    "Q8_0": Gate(0.999, 0.95, 0.03, 0.01),
    "Q6_K": Gate(0.998, 0.95, 0.03, 0.02),
    "Q5_K": Gate(0.994, 0.92, 0.03, 0.03),
    "Q5_0": Gate(0.993, 0.92, 0.03, 0.04),
    "Q5_1": Gate(0.994, 0.92, 0.03, 0.03),
    "Q4_K": Gate(0.985, 0.90, 0.03, 0.04),
    "Q4_0": Gate(0.980, 0.90, 0.03, 0.05),
    "Q4_1": Gate(0.985, 0.90, 0.03, 0.04),
    "Q3_K": Gate(0.950, 0.85, 0.03, 0.08),
    "Q2_K": Gate(0.890, 0.70, 0.03, 0.15),
}
"""By ggml type; ``python -m benchmarks.inspect_gates --gguf`` prints the values behind them: ggml's own quantizers,
without an importance matrix, on the embedded model's and on drawn weights."""
ROW_COSINE = 0.90
"""A row below this contradicts the reading that fits its tensor (measured: right rows stay above .97)."""
ROW_CLAIM = 0.98
"""A row follows another reading only above this: a wrong scale layout alone reaches .95."""
OTHER_CODES = 0.99
"""Above this, 8-bit codes belong to another table than declared: E5M2 itself has a cosine of .998 only."""
ROW_GAIN = 0.15
EXACT = 0.999
"""Share of recomputed codes that must agree to prove that the export was made from exactly this base."""
STALE = 0.9975
"""Below this share, if the recipe allows the claim, the export was made from another base."""
UNROUNDED = 0.99
"""Share of codes that the unrounded scale must explain (the division's own precision moves the rest)."""
NEAR = 0.97
"""Share of block scales within one E4M3 step that the claim requires: other calibrations lie further away."""
SUBNORMAL_SHARE = 0.5
"""Share of subnormal block scales that no calibrated tensor reaches: its largest block scale is 448."""
FULL_BLOCKS = 0.999
"""Share of blocks that use the format's largest code: all of them after max calibration."""


def gain_limit(measured: Measured) -> float:
    """Return the largest distance of the fitted gain from 1: the gate, or six standard errors if few values were read.

    Rounding to E2M1 leaves a relative error of .095 (E4M3: .027) that is nearly independent from value to value, so
    the gain fitted to n values scatters by that over the square root of n.
    """
    best_fit, gate = measured.fit, gate_of(measured)
    values = best_fit.rows * measured.module.shape[1] if best_fit is not None else 0
    noise = 0.053 if measured.module.code == "e5m2" else known_formats()[measured.module.format].noise
    return max(gate.gain, float(6 * noise / math.sqrt(max(values, 1))))


DOUBT = 0.1
"""Distance of the gain from 1 up to which few rows may mislead: rows with a few large values, or rows that repeat."""


def is_doubtful(measured: Measured) -> bool:
    """Return whether the gain is off by little, so that more rows must be read before it counts as a fault."""
    best_fit = measured.fit
    # all rows that a second look would read have been read
    if best_fit is None or len(measured.rows) >= min(STRIP, measured.module.shape[0]):
        return False
    return gain_limit(measured) < abs(best_fit.scores[best_fit.best].gain - 1) < DOUBT


def gate_of(measured: Measured) -> Gate:
    """Return the limits for the module's stored format."""
    if measured.module.format == "fp8" and measured.module.code == "e5m2":
        return E5M2
    if measured.module.format == "gguf":
        return GGUF_GATES.get(measured.module.code, built_in_formats()["gguf"].gate)
    return known_formats()[measured.module.format].gate


def is_fnuz(item: Measured) -> bool:
    """Return whether the fitted gain is 2 within .1, so that the codes are E4M3 FNUZ.

    FNUZ has one more in its exponent bias: the same byte has half the value of E4M3.
    """
    best_fit = item.fit
    if (
        item.module.format != "fp8"
        or item.module.kind in ("block", "group")
        or best_fit is None
        or best_fit.best != "e4m3"
    ):
        return False
    return abs(best_fit.scores["e4m3"].gain - 2) < 0.1


def state_of(measured: Measured, declared: str) -> State:
    """Return whether the sampled rows prove or contradict the declared reading of one module.

    ``not_provable``: no rows of a base were compared.
    """
    best_fit = measured.fit
    if best_fit is None:
        return "not_provable"
    gate = gate_of(measured)
    best = good_score(best_fit)
    if (
        measured.module.format == "fp8"
        and len(best_fit.scores) > 1
        and best_fit.best != declared
        and best >= OTHER_CODES
        and (best_fit.gap or 0) >= gate.gap
    ):
        return "contradicted"
    rotated = rotation_of(best_fit.best) or rotation_of(declared)
    if rotated and best_fit.best != declared and best >= gate.unrelated:
        return "contradicted"
    # other zero points are tried only if those of the file do not fit, so no lead in cosine is asked for
    if shift_of(best_fit.best) and best >= gate.unrelated:
        return "contradicted"
    if best >= gate.cosine and (best_fit.gap is None or best_fit.gap >= gate.gap):
        return "proven" if best_fit.best == declared else "contradicted"
    return "contradicted" if best < gate.unrelated else "inconclusive"


def bad_rows(best_fit: Fit) -> list[int]:
    """Return rows (positions in the sample) that the tensor's best reading does not explain; all-zero rows never."""
    sums = best_fit.sums[best_fit.best]
    bad: list[int] = np.flatnonzero((sums.bb > 0) & (sums.row_cosine() < ROW_COSINE)).tolist()
    return bad


def good_score(best_fit: Fit) -> float:
    """Return the best reading's cosine over the rows that it explains: one broken row must not hide the others' proof.

    If at least half of the rows are broken, all rows count.
    """
    rows = set(bad_rows(best_fit))
    sums = best_fit.sums[best_fit.best]
    # with half of the rows broken, the reading itself is in doubt: leaving rows out would hide that
    if not rows or len(rows) * 2 >= len(sums.qq):
        return best_fit.scores[best_fit.best].cosine
    keep = [index for index in range(len(sums.qq)) if index not in rows]
    qq, qb, bb = (float(item[keep].sum()) for item in (sums.qq, sums.qb, sums.bb))
    return qb / (qq * bb) ** 0.5 if qq > 0 and bb > 0 else 0.0
