"""Compares a checkpoint with its base: recomputed codes, unquantized tensors, and the right expert."""

from __future__ import annotations

import math
from collections.abc import Iterator

from harness.formats.evidence import Exact
from harness.formats.modules import summary_format
from harness.formats.registry import known_formats
from harness.inspector.checks.encoding import holds_other, other_base, other_votes, own_related, related
from harness.inspector.checks.registration import check
from harness.inspector.checks.values import gain_rows
from harness.inspector.context import Context
from harness.inspector.findings import finding, some
from harness.inspector.gates import EXACT, FULL_BLOCKS, NEAR, STALE, UNROUNDED, bad_rows, gain_limit, gate_of
from harness.inspector.gather import Compared
from harness.inspector.measure import Measured
from harness.records.inspection import InspectionFinding


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
    "requantize",
    cost="rows",
    codes=("codes_from_unrounded_scale", "base_stale"),
    notes=("recipe_not_recomputable",),
    order=300,
)
def requantized_codes(context: Context) -> Iterator[InspectionFinding]:
    """Report codes of a stale base, and codes that were computed with scales other than the stored scales."""
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
            if min(exact.codes, exact.scales) >= EXACT - len(gain_rows(item)) / max(len(item.rows), 1):
                continue  # the rows with a wrong gain, which are named one by one, explain all of the difference
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


# What was not quantized must be the base's, byte for byte.


MODULATION = ("scale_shift_table", "time_proj", "norm_out", "adaLN", "modulation", "norm.linear", "norm1.linear")


@check("excluded", cost="rows", codes=("adaln_halves_swapped", "halves_swapped", "excluded_differs"), order=310)
def excluded_rows(context: Context) -> Iterator[InspectionFinding]:
    """Report unquantized tensors that differ from the base, and exchanged halves of AdaLN tensors by their own code."""
    for expert, compared in context.compared.items():
        differing = [item for item in compared if not item.equal]
        swapped = [item for item in differing if item.halves_swapped]
        moved = [item for item in differing if not item.halves_swapped]
        if holds_other(context, expert) or other_base(context, expert):
            continue  # the other expert's tensors: expert_identity names it
        if swapped:
            adaln = [item for item in swapped if any(word in item.tensor for word in MODULATION)]
            code = "adaln_halves_swapped" if adaln else "halves_swapped"
            first = (adaln or swapped)[0]
            yield _excluded_finding(
                code,
                expert,
                adaln or swapped,
                first,
                "hold the base's values with first and second half exchanged (scale for shift)",
            )
        if moved:
            yield _excluded_finding(
                "excluded_differs", expert, moved, moved[0], "were not quantized and still differ from the base"
            )


def _excluded_finding(code: str, expert: str, items: list[Compared], first: Compared, text: str) -> InspectionFinding:
    names = [item.tensor for item in items]
    return finding(
        "fault",
        code,
        f"{expert}: {some(names)} {text}.",
        expert=expert,
        tensor=first.tensor,
        evidence={
            "tensors": names[:20],
            "count": len(names),
            "cosine": first.cosine,
            "relative_error": first.relative_error,
            "elements": first.elements,
            "whole": first.whole,
        },
    )


# Two experts: the right two, in the right order, quantized by one policy.


@check(
    "experts",
    cost="header",
    codes=("unexpected_format", "experts_mixed_precision"),
    notes=("experts_policy_differs",),
    order=240,
)
def experts_policy(context: Context) -> Iterator[InspectionFinding]:
    """Report experts whose format is not the case's, and experts that are quantized differently."""
    formats = {expert: summary_format(context.modules[expert]) for expert in context.experts}
    for expert, wanted in context.options.expected.items():
        stored = formats.get(expert)
        if stored is not None and stored != wanted and context.modules[expert]:
            yield finding(
                "fault",
                "unexpected_format",
                f"{expert}: the case says {wanted} and the weights are stored as {stored}.",
                expert=expert,
                evidence={"expected": wanted, "stored": stored},
                next_command=f"state quantization.{expert}: {stored} in the case, or give the right override",
            )
    if len(formats) < 2:
        return
    first, second = sorted(formats)[:2]
    if formats[first] != formats[second]:
        overridden = [name for name, component in context.experts.items() if component.role == "override"]
        why = f" (only {some(overridden)} is overridden)" if overridden else ""
        yield finding(
            "warning",
            "experts_mixed_precision",
            f"{first} is stored as {formats[first]} and {second} as {formats[second]}{why}.",
            evidence=formats,
        )
        return
    first_names, second_names = (set(context.quantized(expert)) for expert in (first, second))
    if first_names != second_names:
        only = sorted(first_names ^ second_names)
        yield finding(
            "warning",
            "experts_policy_differs",
            f"the experts quantize different Linears: {some(only)} in one of them only.",
            evidence={"modules": only[:20], "count": len(only)},
        )


@check("expert_identity", cost="rows", codes=("experts_swapped", "experts_identical", "wrong_expert"), order=250)
def swapped_or_same(context: Context) -> Iterator[InspectionFinding]:
    """Report experts that fit the other expert's base better than their own: exchanged, or the same twice."""
    votes = {expert: other_votes(context, expert) for expert in context.experts}
    swapped = sorted(expert for expert in context.experts if holds_other(context, expert))
    if len(swapped) > 1:
        yield finding(
            "fault",
            "experts_swapped",
            "the two experts stand exchanged: each holds codes of the other expert's base.",
            expert=swapped[0],
            evidence={expert: list(pair) for expert, pair in votes.items()},
            next_command="exchange the folders transformer and transformer_2",
        )
    elif swapped:
        same = len(context.experts) > 1
        yield finding(
            "fault",
            "experts_identical" if same else "wrong_expert",
            f"{swapped[0]} holds the other expert's weights ({votes[swapped[0]][0]} of {votes[swapped[0]][1]} "
            "tensors fit the other base)" + (": both experts are the same one." if same else "."),
            expert=swapped[0],
            evidence={expert: list(pair) for expert, pair in votes.items()},
        )


@check("base_identity", cost="rows", codes=("wrong_base",), order=260)
def wrong_base(context: Context) -> Iterator[InspectionFinding]:
    """Report a base whose unquantized tensors differ: it is not this checkpoint's base, whatever its name."""
    for expert in context.experts:
        if other_base(context, expert):
            compared = context.compared[expert]
            differing = sum(not item.equal for item in compared)
            fits = [item.fit.scores[item.fit.best].cosine for item in related(context, expert).values() if item.fit]
            yield finding(
                "fault",
                "wrong_base",
                f"{expert}: {differing} of {len(compared)} unquantized tensors differ from the base: it was "
                "made from other weights than the base that is named.",
                expert=expert,
                evidence={
                    "differing": differing,
                    "compared": len(compared),
                    "median_cosine": sorted(fits)[len(fits) // 2] if fits else None,
                },
                next_command="name the base it was made from, or export again",
            )
