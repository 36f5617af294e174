"""Reports quantized Linears that do not decode to their base, each with one factor and one reason."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from harness.inspector.checks.encoding import own_related
from harness.inspector.checks.registration import check
from harness.inspector.context import Context
from harness.inspector.explain import FACTORS, Explained, Reason, distance_of, explain
from harness.inspector.findings import about
from harness.inspector.measure import Measured
from harness.records.inspection import InspectionFinding
from harness.text import listed

TEXTS: dict[Reason, str] = {
    "global_scale_inverted": "their scale is the reciprocal of the correct one",
    "scale_dropped": "their scale is exactly 1: it was dropped, or a converter filled it in",
    "fp8_fnuz": "their bytes are E4M3 FNUZ, read as E4M3 FN they are twice too large",
    "gain": "their scale is wrong by that factor",
}


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
            for explained in explain(item):
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
    return about(
        reason,
        expert,
        f"{listed(list(names))} decode to {size} times the base (cos {fit.scores[fit.best].cosine:.4f}): "
        f"{TEXTS[reason]}.",
        linears=list(names),
        module=first,
        gain=factors[first],
        scale=fit.scale,
        factors=dict(list(factors.items())[:20]),
    )


def _row_finding(expert: str, names: dict[str, Explained], measured: dict[str, Measured]) -> InspectionFinding:
    first = next(iter(names))
    explained, others = names[first], len(names) - 1
    more = f", and so do rows of {others} more Linears, each by a factor of its own" if others else ""
    channels = measured[first].channel_scale
    why = "the scale of these rows is wrong" if channels is not None and channels.size > 1 else "only these rows differ"
    return about(
        "row_gain",
        expert,
        f"rows {listed([str(number) for number in explained.rows])} of {first} decode to "
        f"{explained.factor:.4g} times the base{more}: {why}.",
        linears=list(names),
        module=first,
        rows=list(explained.rows[:50]),
        gain=explained.factor,
        factors={name: item.factor for name, item in list(names.items())[:20]},
    )


def _code_finding(expert: str, reason: Reason, names: list[str], measured: dict[str, Measured]) -> InspectionFinding:
    if reason == "recipe_not_recomputable":
        return about(
            reason,
            expert,
            f"{len(names)} Linears ({listed(names)}) follow a recipe that cannot be recomputed "
            "bit-exactly from the base: a base that changed by under about 3 % would not be seen.",
            severity="info",
            count=len(names),
        )
    fit = measured[names[0]].fit
    exact = fit.exact if fit else None
    assert exact is not None  # noqa: S101 - only modules with recomputed codes come here
    shares: dict[str, Any] = {"codes": exact.codes, "scales": exact.scales, "unrounded": exact.unrounded}
    if reason == "scale_dtype":
        return about(
            reason,
            expert,
            f"scales of {listed(names)} have no more digits than BF16, and their codes were made with scales "
            f"that had ({exact.unrounded * 100:.2f} % of codes fit one within 0.4 %, {exact.codes * 100:.2f} % the "
            "stored one): rounded before they were stored, they make every weight wrong by up to 0.4 %.",
            severity="warning",
            linears=names,
            next_command="export again with float32 scales",
            **shares,
        )
    text = (
        _of_other_weights(names, measured)
        if reason == "base_stale"
        else "were rounded with block scales before those were rounded to E4M3"
    )
    return about(
        reason,
        expert,
        f"codes of {listed(names)} {text} ({(1 - exact.codes) * 100:.2f} % of codes and "
        f"{(1 - exact.scales) * 100:.2f} % of block scales differ).",
        linears=names,
        next_command="export again from the case's base, or name the base that was used (base: in the case)",
        **shares,
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
