"""Explain each quantized Linear that does not decode to its base: one factor and one reason per Linear.

An inverted, dropped or misread scale changes no cosine; only the gain shows it. A base that changed by a fraction of a
percent changes neither; only recomputed codes show it. Both are measured on every Linear, so that a Linear with a wrong
scale would be reported for its gain, for its rows and for its codes. `explain` decides which reason is the right one.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np

from harness.formats.evidence import Exact, Fit
from harness.formats.registry import known_formats
from harness.inspector.gates import (
    EXACT,
    FULL_BLOCKS,
    NEAR,
    ROW_GAIN,
    STALE,
    SUBNORMAL_SHARE,
    UNROUNDED,
    bad_rows,
    gain_limit,
    gate_of,
    is_fnuz,
)
from harness.inspector.measure import Measured

Reason = Literal[
    "global_scale_inverted",
    "scale_dropped",
    "fp8_fnuz",
    "gain",
    "row_gain",
    "codes_from_unrounded_scale",
    "scale_dtype",
    "base_stale",
    "recipe_not_recomputable",
]
ROUNDED = 0.998
"""Share of FP8 codes that one scale must explain before it counts as rounded after the codes were made."""
OUTSIDE = 0.002
"""Share of FP8 codes that are neither neighbour of the base's value: none in a correct export, in any rounding mode."""
FACTORS: tuple[Reason, ...] = ("global_scale_inverted", "scale_dropped", "fp8_fnuz", "gain")
"""Reasons that are one factor on the whole Linear."""


@dataclass(frozen=True, slots=True)
class Explained:
    """The reason for which one Linear does not decode to its base."""

    reason: Reason
    factor: float
    """Least-squares factor of the decoded weights over the base: of the whole Linear, or of its wrong rows."""
    rows: tuple[int, ...] = ()
    """Numbers of the wrong rows, for ``row_gain``."""


def explain(item: Measured) -> tuple[Explained, ...]:
    """Return the reason for which a Linear does not decode to its base; nothing if it does.

    There are two reasons only if a few rows have a wrong factor and more codes differ than those rows have.

    Nothing is returned where another check names the reason: a scale that is absent, zero or among E4M3's subnormals,
    rows that fit under no reading, other weights, another code table.
    """
    fit = item.fit
    if fit is None or fit.scores[fit.best].cosine < gate_of(item).unrelated or in_subnormals(item):
        return ()
    gain = fit.scores[fit.best].gain
    factor = _factor(item, fit)
    if factor is not None:
        return (Explained(factor, gain),)
    rows = _rows(item, fit)
    numbers = tuple(int(item.rows[row]) for row in rows)
    wrong = (Explained("row_gain", float(fit.sums[fit.best].row_gain(fit.scale)[rows[0]]), numbers),) if rows else ()
    share = len(rows) / max(len(item.rows), 1)
    if fit.exact is None or min(fit.exact.codes, fit.exact.scales) >= EXACT - share:
        return wrong
    reason = _codes(item, fit)
    return wrong if reason is None else (*wrong, Explained(reason, gain))


def in_subnormals(item: Measured) -> bool:
    """Return whether block scales without enough digits explain every difference; `subnormal_scales` names them."""
    return item.blind is not None and item.blind.subnormal > SUBNORMAL_SHARE


def _factor(item: Measured, fit: Fit) -> Reason | None:
    """Return the reason for a gain of the whole Linear that is not 1."""
    limit, score = gain_limit(item), fit.scores[fit.best]
    if _unscaled(item, fit) or (item.module.format == "fp8" and fit.best != (item.module.code or "e4m3")):
        return None  # scale_tensors and scalar_values name a scale that is absent, zero or not finite
    if abs(score.gain - 1) <= limit or not math.isfinite(score.gain):
        return None
    per_row = fit.sums[fit.best].row_gain(fit.scale)
    per_channel = item.channel_scale is not None and item.channel_scale.size > 1
    if (bad_rows(fit) or per_channel) and abs(float(np.median(per_row)) - 1) <= limit:
        return None  # a few rows only: they are named one by one
    if fit.scale and abs(score.gain / fit.scale**2 - 1) < 0.1 and abs(fit.scale - 1) > 0.1:
        return "global_scale_inverted"
    if fit.scale == 1.0 and item.module.spec.modelopt and item.module.kind not in ("block", "group"):
        return "scale_dropped"
    return "fp8_fnuz" if is_fnuz(item) else "gain"


def _unscaled(item: Measured, fit: Fit) -> bool:
    """Return whether the format's scale is absent, zero, negative or not finite."""
    if item.module.format in ("gguf", "nf4"):
        return False
    return item.module.outer_scale is None or not math.isfinite(fit.scale) or fit.scale <= 0


def _rows(item: Measured, fit: Fit) -> list[int]:
    """Return positions of sampled rows whose own gain is not 1; rows that fit under no reading are another fault."""
    if _unscaled(item, fit):
        return []
    sums = fit.sums[fit.best]
    wrong = (np.abs(sums.row_gain(fit.scale) - 1) > ROW_GAIN) & (sums.bb > 0)
    if not wrong.any():
        return []
    broken = set(bad_rows(fit))
    return [row for row in np.flatnonzero(wrong).tolist() if row not in broken]


def _codes(item: Measured, fit: Fit) -> Reason | None:
    """Return the reason for codes that differ from those of a fresh quantization of the base."""
    exact = fit.exact
    if exact is None or is_exact(exact) or bad_rows(fit) or abs(fit.scores[fit.best].gain - 1) > gain_limit(item):
        return None
    if item.module.scale is not None and item.module.scale.dtype in ("BF16", "F16"):
        return None  # a rounded scale explains other codes, and scale_dtypes names it
    if item.module.format == "fp8":
        if exact.unrounded >= ROUNDED and exact.unrounded > exact.codes:
            return "scale_dtype"
        # exporters round FP8 to nearest, by learning or by chance: only codes that no rounding gives are other weights
        return "base_stale" if 1 - exact.near >= OUTSIDE else "recipe_not_recomputable"
    if exact.scales >= EXACT and exact.unrounded >= UNROUNDED and exact.codes < STALE:
        return "codes_from_unrounded_scale"
    stale = claim_allowed(item, exact) and min(exact.codes, exact.scales) < STALE
    return "base_stale" if stale else "recipe_not_recomputable"


def is_exact(exact: Exact) -> bool:
    """Return whether every recomputed value agrees: made from exactly this base by max calibration."""
    return exact.codes >= EXACT and exact.scales >= EXACT


def claim_allowed(item: Measured, exact: Exact) -> bool:
    """Return whether a mismatch may be reported as stale: max calibration of almost these weights, no smoothing."""
    return item.module.recipe == "" and exact.full_blocks >= FULL_BLOCKS and exact.near >= NEAR


def recipe_of(item: Measured) -> str:
    """Return the recipe of a module: its own, ``max`` if its codes could be recomputed, else ``other``."""
    if item.module.recipe:
        return item.module.recipe
    exact = item.fit.exact if item.fit else None
    if exact is None:
        return ""
    recomputed = is_exact(exact) or (item.module.format != "fp8" and claim_allowed(item, exact))
    return "max" if recomputed else "other"


def distance_of(item: Measured) -> float | None:
    """Relative L2 distance of the quantized weights from the base, the format's own rounding taken off.

    Rounding and the difference of the weights are independent, so their squares add up to the relative error's.
    """
    fit = item.fit
    if fit is None:
        return None
    error, noise = fit.scores[fit.best].relative_error, known_formats()[item.module.format].noise
    return math.sqrt(max(error**2 - noise**2, 0.0)) if math.isfinite(error) else None
