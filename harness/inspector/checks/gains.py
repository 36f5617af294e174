"""Explains each quantized Linear that does not decode to its base: one factor and one reason per Linear.

An inverted, dropped or misread scale changes no cosine; only the gain shows it. A base that changed by a fraction of a
percent changes neither; only recomputed codes show it. Both are measured on every Linear, so that a Linear with a wrong
scale would be reported for its gain, for its rows and for its codes. `explain` decides which reason is the right one.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np

from harness.formats.evidence import Exact, Fit
from harness.formats.spec import known_formats
from harness.inspector.checks.encoding import own_related
from harness.inspector.checks.registration import check
from harness.inspector.context import Context
from harness.inspector.findings import finding, some
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
from harness.records.inspection import InspectionFinding

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
FACTORS: tuple[Reason, ...] = ("global_scale_inverted", "scale_dropped", "fp8_fnuz", "gain")
"""Reasons that are one factor on the whole Linear."""
TEXTS: dict[Reason, str] = {
    "global_scale_inverted": "their scale is the reciprocal of what it must be",
    "scale_dropped": "their scale is exactly 1: it was dropped, or a converter filled it in",
    "fp8_fnuz": "their bytes are E4M3 FNUZ, read as E4M3 FN they are twice too large",
    "gain": "their scale is wrong by that factor",
}


@dataclass(frozen=True, slots=True)
class Explained:
    """The reason for which one Linear does not decode to its base."""

    reason: Reason
    factor: float
    """Least-squares factor of the decoded weights over the base: of the whole Linear, or of its wrong rows."""
    rows: tuple[int, ...] = ()
    """Numbers of the wrong rows, for ``row_gain``."""


def explain(item: Measured) -> Explained | None:
    """Return the one reason for which a Linear does not decode to its base; ``None`` if it does.

    ``None`` as well where another check names the reason: a scale that is absent, zero or among E4M3's subnormals, rows
    that fit under no reading, other weights, another code table.
    """
    fit = item.fit
    if fit is None or fit.scores[fit.best].cosine < gate_of(item).unrelated or _in_subnormals(item):
        return None
    gain = fit.scores[fit.best].gain
    factor = _factor(item, fit)
    if factor is not None:
        return Explained(factor, gain)
    if rows := _rows(item, fit):
        numbers = tuple(int(item.rows[row]) for row in rows)
        return Explained("row_gain", float(fit.sums[fit.best].row_gain(fit.scale)[rows[0]]), numbers)
    reason = _codes(item, fit)
    return None if reason is None else Explained(reason, gain)


def _in_subnormals(item: Measured) -> bool:
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
    if fit.scale == 1.0 and item.module.format in ("nvfp4", "fp8") and item.module.kind not in ("block", "group"):
        return "scale_dropped"
    return "fp8_fnuz" if is_fnuz(item) else "gain"


def _unscaled(item: Measured, fit: Fit) -> bool:
    """Return whether the format's scale is absent, zero, negative or not finite."""
    if item.module.format in ("gguf", "nf4"):
        return False
    outer = item.module.global_scale if item.module.format == "nvfp4" else item.module.scale
    return outer is None or not math.isfinite(fit.scale) or fit.scale <= 0


def _rows(item: Measured, fit: Fit) -> list[int]:
    """Return positions of sampled rows whose own gain is not 1; rows that fit under no reading are another fault."""
    if _unscaled(item, fit):
        return []
    sums = fit.sums[fit.best]
    gain, broken = sums.row_gain(fit.scale), set(bad_rows(fit))
    return [int(i) for i in range(len(gain)) if abs(gain[i] - 1) > ROW_GAIN and i not in broken and sums.bb[i] > 0]


def _codes(item: Measured, fit: Fit) -> Reason | None:
    """Return the reason for codes that differ from those of a fresh quantization of the base."""
    exact = fit.exact
    if exact is None or is_exact(exact) or bad_rows(fit) or abs(fit.scores[fit.best].gain - 1) > gain_limit(item):
        return None
    if item.module.scale is not None and item.module.scale.dtype in ("BF16", "F16"):
        return None  # a rounded scale explains other codes, and scale_dtypes names it
    if item.module.format == "fp8":
        if exact.unrounded >= UNROUNDED and exact.unrounded > exact.codes:
            return "scale_dtype"
    elif exact.scales >= EXACT and exact.unrounded >= UNROUNDED and exact.codes < STALE:
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
    return "max" if is_exact(exact) or claim_allowed(item, exact) else "other"


@check(
    "gain",
    cost="rows",
    codes=(*FACTORS, "row_gain", "codes_from_unrounded_scale", "scale_dtype", "base_stale"),
    notes=("recipe_not_recomputable",),
    order=290,
)
def gains(context: Context) -> Iterator[InspectionFinding]:
    """Report Linears that do not decode to their base, each with one factor and one reason."""
    for expert in context.experts:
        measured = own_related(context, expert)
        groups: dict[Reason, dict[str, Explained]] = {}
        for name, item in measured.items():
            explained = explain(item)
            if explained is not None:
                groups.setdefault(explained.reason, {})[name] = explained
        for reason in sorted(groups, key=lambda reason: ORDER.index(reason)):
            names = groups[reason]
            if reason in FACTORS:
                yield _factor_finding(expert, reason, names, measured)
            elif reason == "row_gain":
                yield _row_finding(expert, names, measured)
            else:
                yield _code_finding(expert, reason, sorted(names), measured)


ORDER: tuple[Reason, ...] = (
    *FACTORS,
    "row_gain",
    "codes_from_unrounded_scale",
    "base_stale",
    "scale_dtype",
    "recipe_not_recomputable",
)


def _factor_finding(
    expert: str, reason: Reason, names: dict[str, Explained], measured: dict[str, Measured]
) -> InspectionFinding:
    first = next(iter(names))
    fit, factors = measured[first].fit, {name: item.factor for name, item in names.items()}
    assert fit is not None  # noqa: S101 - only compared Linears are explained
    low, high = min(factors.values()), max(factors.values())
    size = f"{factors[first]:.4g}" if high - low <= 0.01 * abs(high) else f"{low:.4g} to {high:.4g}"
    return finding(
        "fault",
        reason,
        f"{expert}: {some(list(names))} decode to {size} times the base (cos {fit.scores[fit.best].cosine:.4f}): "
        f"{TEXTS[reason]}.",
        expert=expert,
        module=first,
        evidence={
            "gain": factors[first],
            "scale": fit.scale,
            "factors": dict(list(factors.items())[:20]),
            "modules": list(names)[:20],
            "count": len(names),
        },
    )


def _row_finding(expert: str, names: dict[str, Explained], measured: dict[str, Measured]) -> InspectionFinding:
    first = next(iter(names))
    explained, others = names[first], len(names) - 1
    more = f", and rows of {others} more Linears to others" if others else ""
    channels = measured[first].channel_scale
    why = "the scale of these rows is wrong" if channels is not None and channels.size > 1 else "only these rows differ"
    return finding(
        "fault",
        "row_gain",
        f"{expert}: rows {some([str(number) for number in explained.rows])} of {first} decode to "
        f"{explained.factor:.4g} times the base{more}: {why}.",
        expert=expert,
        module=first,
        evidence={
            "rows": list(explained.rows[:50]),
            "gain": explained.factor,
            "factors": {name: item.factor for name, item in list(names.items())[:20]},
            "modules": list(names)[:20],
            "count": len(names),
        },
    )


def _code_finding(expert: str, reason: Reason, names: list[str], measured: dict[str, Measured]) -> InspectionFinding:
    if reason == "recipe_not_recomputable":
        return finding(
            "info",
            reason,
            f"{expert}: {len(names)} Linears ({some(names)}) follow a recipe that cannot be recomputed "
            "bit-exactly from the base: a base that changed by under about 3 % would not be seen.",
            expert=expert,
            evidence={"count": len(names)},
        )
    fit = measured[names[0]].fit
    exact = fit.exact if fit else None
    assert exact is not None  # noqa: S101 - only modules with recomputed codes come here
    evidence = {
        "codes": exact.codes,
        "scales": exact.scales,
        "unrounded": exact.unrounded,
        "modules": names[:20],
        "count": len(names),
    }
    if reason == "scale_dtype":
        return finding(
            "warning",
            reason,
            f"{expert}: scales of {some(names)} have no more digits than BF16, and their codes were made with scales "
            f"that had ({exact.unrounded * 100:.2f} % of codes fit one within 0.4 %, {exact.codes * 100:.2f} % the "
            "stored one): rounded before they were stored, they make every weight wrong by up to 0.4 %.",
            expert=expert,
            module=names[0],
            evidence=evidence,
            next_command="export again with float32 scales",
        )
    text = (
        _of_other_weights(names, measured)
        if reason == "base_stale"
        else "were rounded with block scales before those were rounded to E4M3"
    )
    return finding(
        "fault",
        reason,
        f"{expert}: codes of {some(names)} {text} ({(1 - exact.codes) * 100:.2f} % of codes and "
        f"{(1 - exact.scales) * 100:.2f} % of block scales differ).",
        expert=expert,
        module=names[0],
        evidence=evidence,
        next_command="export again from the case's base, or name the base that was used (base: in the case)",
    )


def _of_other_weights(stale: list[str], measured: dict[str, Measured]) -> str:
    """Return the end of the sentence about stale Linears: their share, and their distance from the base."""
    if len(stale) * 2 <= len(measured):
        return "were quantized from weights that differ from the base"
    far = sorted(distance for name in stale if (distance := distance_of(measured[name])) is not None)
    size = f", by about {far[len(far) // 2] * 100:.2g} % in the median Linear" if far else ""
    return (
        f"and so {len(stale)} of {len(measured)} Linears are other weights than the base's{size}: a base of another "
        "version, or a distilled, merged or further trained model, which the case names as its own base"
    )


def distance_of(item: Measured) -> float | None:
    """Relative L2 distance of the quantized weights from the base, the format's own rounding taken off.

    Rounding and the difference of the weights are independent, so their squares add up to the relative error's.
    """
    fit = item.fit
    if fit is None:
        return None
    error, noise = fit.scores[fit.best].relative_error, known_formats()[item.module.format].noise
    return math.sqrt(max(error**2 - noise**2, 0.0)) if math.isfinite(error) else None
