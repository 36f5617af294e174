"""Codes computed again from the base: exactly this base, another one, or a recipe for which nobody can tell."""

from __future__ import annotations

import math
from collections.abc import Iterator

from harness.checkpoint.checks.encoding import own_related
from harness.checkpoint.context import Context
from harness.checkpoint.evidence import Exact
from harness.checkpoint.findings import finding, some
from harness.checkpoint.gates import EXACT, FULL_BLOCKS, NEAR, STALE, UNROUNDED, bad_rows, gain_limit, gate_of
from harness.checkpoint.measure import Measured
from harness.formats.spec import FORMATS
from harness.records.inspection import InspectionFinding


def is_exact(exact: Exact) -> bool:
    """Every recomputed value agrees: made from exactly this base by max calibration."""
    return exact.codes >= EXACT and exact.scales >= EXACT


def claim_allowed(item: Measured, exact: Exact) -> bool:
    """Whether a mismatch may be called stale: max calibration of almost these weights, and no smoothing."""
    return item.module.recipe == "" and exact.full_blocks >= FULL_BLOCKS and exact.near >= NEAR


def recipe_of(item: Measured) -> str:
    """``max`` where codes could be recomputed, the module's own recipe, or ``other``."""
    if item.module.recipe:
        return item.module.recipe
    exact = item.fit.exact if item.fit else None
    if exact is None:
        return ""
    return "max" if is_exact(exact) or claim_allowed(item, exact) else "other"


def requantized_codes(context: Context) -> Iterator[InspectionFinding]:
    """Stale bases, and codes that were computed with scales other than the stored ones."""
    for expert in context.experts:
        stale: list[str] = []
        unrounded: list[str] = []
        unknown: list[str] = []
        measured = own_related(context, expert)
        for name, item in measured.items():
            exact = item.fit.exact if item.fit else None
            if item.fit is None or exact is None or item.fit.scores[item.fit.best].cosine < gate_of(item).unrelated:
                continue
            if item.module.scale is not None and item.module.scale.dtype in ("BF16", "F16"):
                continue  # a rounded scale explains other codes, and scale_dtypes names it
            if bad_rows(item.fit):
                continue  # the rows are named one by one
            if is_exact(exact) or (abs(item.fit.scores[item.fit.best].gain - 1) > gain_limit(item)):
                continue
            if exact.scales >= EXACT and exact.unrounded >= UNROUNDED and exact.codes < STALE:
                unrounded.append(name)
            elif not claim_allowed(item, exact):
                unknown.append(name)
            elif min(exact.codes, exact.scales) < STALE:
                stale.append(name)
            else:
                unknown.append(name)
        if unrounded:
            yield _finding(
                "codes_from_unrounded_scale",
                expert,
                unrounded,
                measured,
                "were rounded with block scales before those were rounded to E4M3",
            )
        if stale:
            yield _finding("base_stale", expert, stale, measured, _of_other_weights(stale, measured))
        if unknown:
            yield finding(
                "info",
                "recipe_not_recomputable",
                f"{expert}: {len(unknown)} Linears ({some(unknown)}) follow a recipe that cannot be recomputed "
                "bit-exactly from the base: a base that changed by under about 3 % would not be seen.",
                expert=expert,
                evidence={"count": len(unknown)},
            )


def _of_other_weights(stale: list[str], measured: dict[str, Measured]) -> str:
    """What a stale Linear is, said by how many there are and how far they lie from the base."""
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
    found = item.fit
    if found is None:
        return None
    error, noise = found.scores[found.best].relative_error, FORMATS[item.module.format].noise
    return math.sqrt(max(error**2 - noise**2, 0.0)) if math.isfinite(error) else None


def _finding(code: str, expert: str, names: list[str], measured: dict[str, Measured], text: str) -> InspectionFinding:
    found = measured[names[0]].fit
    exact = found.exact if found else None
    assert exact is not None  # noqa: S101 - only modules with recomputed codes come here
    return finding(
        "fault",
        code,
        f"{expert}: codes of {some(names)} {text} ({(1 - exact.codes) * 100:.2f} % of codes and "
        f"{(1 - exact.scales) * 100:.2f} % of block scales differ).",
        expert=expert,
        module=names[0],
        evidence={
            "codes": exact.codes,
            "scales": exact.scales,
            "unrounded": exact.unrounded,
            "modules": names[:20],
            "count": len(names),
        },
        next_command="export again from the case's base, or name the base that was used (base: in the case)",
    )
