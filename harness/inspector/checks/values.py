"""Checks of values: scales and weights that are not finite, of an impossible size, or off by a factor."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator

from packaging.version import InvalidVersion, Version

from harness.inspector.checks.encoding import own_related
from harness.inspector.checks.registration import check
from harness.inspector.checks.tensors import LARGEST_WEIGHT
from harness.inspector.context import Context
from harness.inspector.explain import FACTORS, explain, in_subnormals
from harness.inspector.findings import about, finding
from harness.inspector.gates import SUBNORMAL_SHARE, is_fnuz
from harness.records.inspection import InspectionFinding
from harness.text import listed

LARGEST_GLOBAL = 1.0
"""amax / 2688 (or / 1536): above 1 the weights would reach 1536 and more; every such case seen was an inverse."""
CLAMPS_SINCE = Version("0.47")
"""ModelOpt that is known to clamp block scales to 2**-9; 0.44 rounds what is smaller to zero, or to NaN above 448."""
SMALLEST_INPUT = 1e-10
LARGEST_INPUT = 1e5


@check(
    "scalar_values",
    cost="scalar",
    codes=("global_scale_degenerate", "input_scale_degenerate", "global_scale_inverted"),
    order=170,
)
def scalar_values(context: Context) -> Iterator[InspectionFinding]:
    """Report global, per-tensor and input scales that are degenerate or inverted; every scale is read."""
    for expert in context.experts:
        values, quantized = context.scalars.get(expert, {}), context.quantized(expert)
        broken: dict[str, list[str]] = {
            "global_scale_degenerate": [],
            "input_scale_degenerate": [],
            "global_scale_inverted": [],
        }
        for module in quantized.values():
            outer = module.outer_scale
            if outer is not None and outer.name in values and module.spec.scales:
                numbers = values[outer.name]
                if not all(math.isfinite(item) and item > 0 for item in numbers):
                    broken["global_scale_degenerate"].append(f"{outer.name} = {_worst(numbers)}")
                elif module.spec.two_level and numbers and _inverse(numbers[0], module.reciprocal):
                    broken["global_scale_inverted"].append(f"{outer.name} = {numbers[0]:.6g}")
            if module.input_scale is not None and module.input_scale.name in values:
                numbers = values[module.input_scale.name]
                size = [1 / item if module.reciprocal and item else item for item in numbers]
                if not all(math.isfinite(item) and SMALLEST_INPUT < item < LARGEST_INPUT for item in size):
                    broken["input_scale_degenerate"].append(f"{module.input_scale.name} = {_worst(numbers)}")
        negative = {name: item.bad_scale for name, item in context.measured.get(expert, {}).items() if item.bad_scale}
        if negative:
            first = min(negative)
            yield about(
                "global_scale_degenerate",
                expert,
                f"{negative[first]} ({listed(sorted(negative))}).",
                linears=sorted(negative),
                module=first,
                next_command="quantize again",
            )
        texts = {
            "global_scale_degenerate": "is zero, negative or not finite: its weights decode to zero, infinity or NaN",
            "input_scale_degenerate": "would flush or overflow every activation",
            "global_scale_inverted": "is stored the wrong way round for its dialect: it is the reciprocal",
        }
        for code, tensors in broken.items():
            if tensors:
                yield about(
                    code, expert, f"{listed(tensors)} {texts[code]}.", tensors=tensors, tensor=tensors[0].split(" ")[0]
                )


def _inverse(value: float, reciprocal: bool) -> bool:
    return value < 1 / LARGEST_GLOBAL if reciprocal else value > LARGEST_GLOBAL


def _worst(numbers: tuple[float, ...]) -> str:
    return next(
        (f"{item:g}" for item in numbers if not (math.isfinite(item) and item > 0)), f"{min(numbers, default=0):g}"
    )


@check("qkv_scales", cost="scalar", codes=("qkv_scales_differ",), order=180)
def qkv_scales(context: Context) -> Iterator[InspectionFinding]:
    """Report q, k and v of an attention with different scales: a runtime that fuses them keeps one scale."""
    for expert in context.experts:
        values, quantized = context.scalars.get(expert, {}), context.quantized(expert)
        apart: list[str] = []
        for name, module in quantized.items():
            if not name.endswith(".to_q") or not module.spec.two_level:
                continue
            stem = name.removesuffix("to_q")
            group = [quantized.get(f"{stem}{part}") for part in ("to_q", "to_k", "to_v")]
            # q of a cross-attention reads another input than k and v, so no runtime fuses the three
            if "attn2" in stem:
                group = group[1:]
            scales = {
                values[item.global_scale.name]
                for item in group
                if item and item.global_scale and item.global_scale.name in values
            }
            if len(scales) > 1:
                apart.append(stem.rstrip("."))
        if apart:
            yield about(
                "qkv_scales_differ",
                expert,
                f"q, k and v of {listed(apart)} have different global scales: right where they run apart, "
                "wrong in a runtime that fuses them and keeps one.",
                severity="warning",
                module=apart[0],
                attentions=apart[:20],
                count=len(apart),
            )


@check("qkv_input_scales", cost="scalar", codes=("input_scales_differ",), order=190)
def qkv_input_scales(context: Context) -> Iterator[InspectionFinding]:
    """Report different input scales of q, k and v (k and v of a cross-attention), which read the same input."""
    for expert in context.experts:
        values, quantized = context.scalars.get(expert, {}), context.quantized(expert)
        far: list[str] = []
        near: list[str] = []
        for name in quantized:
            if not name.endswith(".to_k") or quantized[name].pre_quant_scale is not None:
                continue
            stem = name.removesuffix("to_k")
            members = ("to_k", "to_v") if "attn2" in stem else ("to_q", "to_k", "to_v")
            scales: dict[str, float] = {}
            for part in members:
                entry = quantized[f"{stem}{part}"].input_scale if f"{stem}{part}" in quantized else None
                if entry is not None and len(values.get(entry.name, ())) == 1 and values[entry.name][0] > 0:
                    scales[f"{stem}{part}"] = values[entry.name][0]
            if len(scales) < 2:
                continue
            # the lower one of two: without a third scale the larger one counts as odd
            middle = sorted(scales.values())[(len(scales) - 1) // 2]
            odd = max(scales, key=lambda item: abs(math.log(scales[item] / middle)))
            ratio = max(scales.values()) / min(scales.values())
            if ratio > SAME_INPUT:
                text = f"{odd}.input_scale = {scales[odd]:.4g} beside {middle:.4g}"
                (far if ratio > OTHER_INPUT else near).append(text)
        for severity, texts in (("fault", far), ("warning", near)):
            if texts:
                yield about(
                    "input_scales_differ",
                    expert,
                    f"Linears that read the same input have different input scales ({listed(texts)}): "
                    + (
                        "one of them was not measured on this input."
                        if severity == "fault"
                        else "right where they run apart, wrong in a runtime that fuses them and keeps one."
                    ),
                    severity="fault" if severity == "fault" else "warning",
                    module=texts[0].split(".input_scale")[0],
                    scales=texts[:20],
                    count=len(texts),
                )


SAME_INPUT = 1.01
"""Ratio up to which two input scales count as equal."""
OTHER_INPUT = 4.0
"""Ratio that two calibrations of the same input cannot reach."""


@check("constant_scales", cost="scalar", codes=("scale_constant",), order=320)
def constant_scales(context: Context) -> Iterator[InspectionFinding]:
    """Report the same scale in all Linears of an expert: a default that was filled in, not measured."""
    for expert in context.experts:
        values, quantized = context.scalars.get(expert, {}), context.quantized(expert)
        constants: dict[str, float] = {}
        for name, module in quantized.items():
            entry = module.outer_scale
            if entry is not None and module.spec.modelopt and len(values.get(entry.name, ())) == 1:
                constants[name] = values[entry.name][0]
        if len(constants) < LEAST_LINEARS or len(set(constants.values())) > 1:
            continue
        if _explained(context, expert, constants):
            continue
        value = next(iter(constants.values()))
        four = any(module.spec.two_level for module in quantized.values())
        # filled-in scales of 1 decode a cast right: nothing was divided
        if value == 1 and not four and _are_weights(context, expert, constants):
            yield about(
                "scale_constant",
                expert,
                f"all {len(constants)} Linears have the scale 1, and their codes have the size of weights: "
                "a cast to FP8 with scales for loaders that ask for them. Small weights lose digits that a measured "
                "scale would keep.",
                severity="warning",
                module=min(constants),
                scale=value,
                count=len(constants),
            )
            continue
        yield about(
            "scale_constant",
            expert,
            f"all {len(constants)} Linears have the same scale, {value:g}: it was filled in, not measured.",
            severity="warning" if four or expert in context.base else "fault",
            module=min(constants),
            next_command="export again with calibrated scales",
            scale=value,
            count=len(constants),
        )


def _are_weights(context: Context, expert: str, names: Collection[str]) -> bool:
    """Return whether the codes of FP8 Linears are weights without any factor, as far as rows were read."""
    measured = context.measured.get(expert, {})
    largest = [measured[name].largest for name in names if name in measured and measured[name].module.format == "fp8"]
    return bool(largest) and max(largest) <= LARGEST_WEIGHT


def _explained(context: Context, expert: str, names: Collection[str]) -> bool:
    """Return whether another check reports the wrong scales of an expert: by their factors, or as subnormal."""
    measured = context.measured.get(expert, {})
    small = any(in_subnormals(item) for name, item in measured.items() if name in names)
    reasons = (explain(item) for name, item in own_related(context, expert).items() if name in names)
    return small or any(item.reason in FACTORS for items in reasons for item in items)


LEAST_LINEARS = 8
"""Fewest Linears whose equal scales cannot be chance."""


@check("subnormal_scales", cost="rows", codes=("block_scale_subnormal",), order=220)
def subnormal_scales(context: Context) -> Iterator[InspectionFinding]:
    """Report block scales among E4M3's subnormals, which keep fewer significant bits."""
    for expert in context.experts:
        small = {
            name: item.blind.subnormal
            for name, item in context.measured.get(expert, {}).items()
            if item.blind is not None and item.blind.subnormal > SUBNORMAL_SHARE
        }
        if not small:
            continue
        name = max(small, key=lambda item: small[item])
        outer = context.measured[expert][name].global_scale
        why = f"weight_scale_2 is {outer:g}" if outer is not None else "there is no second level"
        yield about(
            "block_scale_subnormal",
            expert,
            f"{small[name] * 100:.0f} % of the block scales of {name} are subnormal or zero in E4M3, in "
            f"{len(small)} Linears, because {why}: the second level must lift them into the format's range.",
            linears=sorted(small),
            module=name,
            next_command="export again with weight_scale_2 = amax / (6 * 448)",
            share=small[name],
            global_scale=outer,
        )


@check("plain_values", cost="rows", codes=("weights_nan", "weights_zero"), order=210)
def plain_values(context: Context) -> Iterator[InspectionFinding]:
    """Report NaN and infinity among unquantized tensors, and without a base Linears of zeros."""
    for expert, compared in context.compared.items():
        spoilt = {item.tensor: item.not_finite for item in compared if item.not_finite}
        if spoilt:
            yield finding(
                "fault",
                "weights_nan",
                f"{expert}: {sum(spoilt.values())} values that were read are NaN or infinite, and finite in the base "
                f"({listed(sorted(spoilt))}): they exceeded the range of the stored dtype, or were damaged.",
                expert=expert,
                tensor=min(spoilt),
                evidence={"tensors": dict(sorted(spoilt.items())[:20])},
                next_command="export again, in BF16 or F32",
            )
    for expert, sane in context.sanity.items():
        broken = sorted(name for name, item in sane.items() if item.not_finite)
        empty = sorted(name for name, item in sane.items() if item.all_zero and name in _linears(context, expert))
        if broken:
            yield about(
                "weights_nan",
                expert,
                f"{sum(sane[name].not_finite for name in broken)} values that were read are NaN or infinite "
                f"({listed(broken)}).",
                tensors=broken,
            )
        empty += sorted(
            item.module.weight.name
            for item in context.measured.get(expert, {}).values()
            if item.all_zero and expert not in context.base
        )
        if empty:
            yield about(
                "weights_zero",
                expert,
                f"the rows that were read of {listed(empty)} are all zero: never filled, or never trained.",
                tensors=empty,
                severity="warning",
            )


def _linears(context: Context, expert: str) -> set[str]:
    return {module.weight.name for module in context.modules[expert].values()}


@check("weight_values", cost="rows", codes=("weights_nan",), order=200)
def weight_values(context: Context) -> Iterator[InspectionFinding]:
    """Report NaN among 8-bit codes and decoded rows: it makes every token NaN that passes it."""
    for expert in context.experts:
        nans = {
            name: item.nan_values
            for name, item in context.measured.get(expert, {}).items()
            if item.nan_values
            and not is_fnuz(item)
            and (item.fit is None or item.fit.best.startswith(item.module.code))
        }
        if nans:
            yield about(
                "weights_nan",
                expert,
                f"{sum(nans.values())} of the values that were read are NaN ({listed(sorted(nans))}).",
                module=min(nans),
                next_command="export again: a NaN in the weights, or a scale of zero, made these codes",
                modules=nans,
            )


@check("block_scale_values", cost="full", codes=("block_scale_nan", "block_scale_zero"), order=230)
def block_scale_values(context: Context) -> Iterator[InspectionFinding]:
    """Report NaN and zero among block scales: four such bytes in a model are enough for a black video."""
    for expert in context.experts:
        scanned = context.scanned.get(expert, {})
        nans = {name: counts[0] for name, counts in scanned.items() if counts[0]}
        zeros = {name: counts[1] for name, counts in scanned.items() if counts[1]}
        if nans:
            yield finding(
                "fault",
                "block_scale_nan",
                f"{expert}: {sum(nans.values())} block scales are NaN ({listed(sorted(nans))}).",
                expert=expert,
                tensor=min(nans),
                evidence={"tensors": nans, "scanned": len(scanned)},
            )
        if zeros:
            lost = sorted(name for name in zeros if _lost(context, expert, name))
            yield finding(
                "fault" if lost or _never_zero(context, expert) else "warning",
                "block_scale_zero",
                f"{expert}: {sum(zeros.values())} block scales are zero: weights are lost "
                f"({listed(lost or sorted(zeros))}).",
                expert=expert,
                tensor=(lost or sorted(zeros))[0],
                evidence={"tensors": zeros, "proven": lost},
            )


def _lost(context: Context, expert: str, tensor: str) -> bool:
    """Return whether sampled rows of the base are too large for the zeros of a block-scale tensor."""
    measured = context.measured.get(expert, {}).get(tensor.removesuffix(".weight_scale"))
    exact = measured.fit.exact if measured is not None and measured.fit is not None else None
    return exact is not None and exact.lost > 0


def _never_zero(context: Context, expert: str) -> bool:
    """Return whether the stated exporter cannot have written a zero: older versions round tiny blocks to zero."""
    name, version = context.experts[expert].declaration.producer
    try:
        return name == "modelopt" and Version(version) >= CLAMPS_SINCE
    except InvalidVersion:
        return False
