"""Codes computed again from the base: exactly this base, another one, or a recipe for which nobody can tell."""

from __future__ import annotations

from collections.abc import Iterator

from harness.checkpoint.checks.encoding import own_related
from harness.checkpoint.context import Context
from harness.checkpoint.evidence import Exact
from harness.checkpoint.findings import finding, some
from harness.checkpoint.gates import EXACT, FULL_BLOCKS, NEAR, STALE, UNROUNDED, bad_rows, gain_limit, gate_of
from harness.checkpoint.measure import Measured
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
            yield _finding(
                "base_stale", expert, stale, measured, "were quantized from weights that differ from the base"
            )
        if unknown:
            yield finding(
                "info",
                "recipe_not_recomputable",
                f"{expert}: {len(unknown)} Linears ({some(unknown)}) follow a recipe that cannot be recomputed "
                "bit-exactly from the base: a base that changed by under about 3 % would not be seen.",
                expert=expert,
                evidence={"count": len(unknown)},
            )


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
        next_command="export again from the base that the case names, or name the base that was used",
    )
