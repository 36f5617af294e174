"""Checks of names, shapes and dtypes: scale tensors of quantized Linears, and all tensors compared with the base."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

from harness.formats.codecs import FLOAT_DTYPES
from harness.formats.config import Declaration
from harness.formats.families import other_model, parts_of
from harness.formats.modules import SCALE_PARTS, WEIGHT_SUFFIXES, Module, block_of, is_scale
from harness.formats.other_weights import FACTORS
from harness.formats.registry import known_formats
from harness.inspector.checks.format_rules import WAN_CLASSES, as_weight, cast_candidates, layerwise_biases
from harness.inspector.checks.registration import check
from harness.inspector.context import Context
from harness.inspector.findings import about, finding
from harness.inspector.gates import gain_limit, gate_of
from harness.inspector.measure import Measured
from harness.records.inspection import InspectionFinding
from harness.text import listed

INVERSE_NAMES = ("weight_scale_inv", "weight_scale_inverse")


@check(
    "scale_tensors",
    cost="header",
    codes=("scale_renamed", "scale_missing", "global_scale_missing", "input_scale_missing"),
    order=120,
)
def scale_tensors_present(context: Context) -> Iterator[InspectionFinding]:
    """Report absent block, global and input scales, and scales under the name of their inverse."""
    for expert, component in context.experts.items():
        quantized = context.quantized(expert)
        renamed = sorted(
            name
            for name, module in quantized.items()
            if module.scale is None and any(f"{name}.{item}" in component.tensors for item in INVERSE_NAMES)
        )
        if renamed:
            yield _absent("scale_renamed", expert, renamed, "carry their scale under the name of its inverse")
        # torchao's class may have one level only: then no Linear of the file set has the second
        four = [item for item in quantized.values() if item.spec.two_level]
        if not any(item.global_scale is not None for item in four):
            measured = context.measured.get(expert, {})
            four = [
                module
                for module in four
                if module.dialect != "torchao" or (module.name in measured and _wrong_size(measured[module.name]))
            ]
        casts = cast_candidates(context, expert)
        absent = sorted(
            module.name
            for module in quantized.values()
            if module.scale is None
            and module.name not in (*renamed, *casts)
            and module.spec.scales
            and (not module.opaque or "qzeros" in module.parts)
        )
        if absent:
            yield _absent(
                "scale_missing",
                expert,
                absent,
                "have no weight_scale: a runtime that fills in ones multiplies their weights by 1/scale",
            )
        asymmetric = sorted(
            name
            for name, module in quantized.items()
            if module.dialect == "compressed-tensors" and not module.opaque and module.zero_point is None
            if component.declaration.asymmetric(name)
        )
        if asymmetric:
            text = "have no weight_zero_point, and the config declares asymmetric codes: their values are shifted"
            yield _absent("scale_missing", expert, asymmetric, text)
        without_global = sorted(module.name for module in four if module.global_scale is None)
        if without_global:
            yield _absent("global_scale_missing", expert, without_global, "have no global scale")
        needed = {name: _input_needed(component.declaration, module, quantized) for name, module in quantized.items()}
        without_input = sorted(
            name for name, module in quantized.items() if needed[name] and module.input_scale is None
        )
        if without_input:
            text = (
                f"have no input_scale though {needed[without_input[0]]}: a runtime that fills in 1.0 saturates or "
                "flushes the activations"
            )
            yield _absent("input_scale_missing", expert, without_input, text)


def _absent(code: str, expert: str, modules: list[str], text: str) -> InspectionFinding:
    return about(code, expert, f"{len(modules)} quantized Linears {text} ({listed(modules)}).", linears=modules)


def _input_needed(declared: Declaration, module: Module, quantized: Mapping[str, Module]) -> str:
    """Return the reason for which a Linear needs a static input scale, empty if it needs none."""
    # ComfyUI measures the activations of a marked layer itself unless the layer has a scale for them
    if declared.flag("dynamic_input_scale") is True or module.stated is not None:
        return ""
    # ModelOpt in memory stores the largest activation, and computes the scale when it loads
    if "input_amax" in module.parts:
        return ""
    algo, static = declared.algo_of(module.name), declared.static_inputs(module.name)
    alike = (item for item in quantized.values() if (item.format, declared.algo_of(item.name)) == (module.format, algo))
    if any(item.input_scale is not None for item in alike):
        return "other Linears of the same file set have one"
    if static:
        return "the config declares static activation scales"
    form = known_formats().get(algo.lower())
    if static is None and declared.method == "modelopt" and form is not None and form.modelopt:
        return f"ModelOpt's {algo.upper()} is static"
    return ""


@check("scale_shapes", cost="header", codes=("scale_columns", "scale_shape"), order=160)
def scale_shapes(context: Context) -> Iterator[InspectionFinding]:
    """Report scales of a wrong shape or dtype.

    Right are block scales E4M3 [N, K/16] (or padded for swizzling), scalar global scales F32, FP8 scales scalar or [N].
    """
    for expert in context.experts:
        quantized = context.quantized(expert)
        if context.dtype_error(expert):
            continue
        columns = [text for module in quantized.values() if (text := _block_columns(module))]
        if columns:
            yield _shape("scale_columns", expert, columns, "do not have one scale for each block of their values")
        kinds: dict[str, list[str]] = {}
        bad: list[str] = []
        for module in quantized.values():
            if module.format in ("fp8", "int8") and module.scale is not None and not module.opaque:
                kinds.setdefault(module.kind, []).append(module.name)
                if module.kind == "other" and not module.packing:
                    bad.append(f"{module.name} {list(module.scale.shape)}")
            outer = [entry for entry in (module.global_scale, module.input_scale) if entry is not None]
            odd = [entry for entry in outer if entry.elements != 1 or entry.dtype not in ("F32", "BF16", "F16")]
            bad += [f"{entry.name} {entry.dtype} {list(entry.shape)}" for entry in odd]
        if bad:
            yield _shape("scale_shape", expert, bad, "have a scale of a shape or dtype that fits nothing")
        if {"channel", "channel_column"} <= set(kinds):
            few = min((kinds["channel"], kinds["channel_column"]), key=len)
            text = "write their per-channel scale as [N, 1] or [N] and the others the other way: one broadcasts wrongly"
            yield _shape("scale_shape", expert, few, text)


def _shape(code: str, expert: str, names: list[str], text: str) -> InspectionFinding:
    return finding(
        "fault",
        code,
        f"{expert}: {len(names)} Linears {text} ({listed(names)}).",
        expert=expert,
        module=names[0].split(" ")[0],
        evidence={"tensors": names[:20], "count": len(names)},
    )


def _block_columns(module: Module) -> str:
    if not module.spec.block or module.scale is None:
        return ""
    rows, width = module.shape
    shape, columns = module.scale.shape, -(-width // module.values_per_scale)
    padded = (-(-rows // 128) * 128, -(-columns // 4) * 4)
    dtypes = (*module.spec.scale_dtypes, "U8", "I8")  # plain bytes have lost their dtype: eight_bit_bytes names them
    fits = module.scale.dtype in dtypes and tuple(shape) in ((rows, columns), padded)
    return "" if fits else f"{module.name} {module.scale.dtype} {list(shape)} for [{rows}, {columns}]"


LARGEST_WEIGHT = 16.0
"""Weights of a trained transformer stay below; codes that were divided by their scale reach 448 (E5M2: 57344)."""


@check("casts", cost="rows", codes=("scale_missing",), notes=("fp8_cast",), order=130)
def casts(context: Context) -> Iterator[InspectionFinding]:
    """Report Linears in FP8 without scales: a plain cast decodes with gain 1; with another gain, scales were lost."""
    for expert in context.experts:
        names = cast_candidates(context, expert)
        if not names:
            continue
        measured = {name: item for name, item in context.measured.get(expert, {}).items() if name in names}
        large = sorted(name for name, item in measured.items() if item.largest > LARGEST_WEIGHT)
        off = sorted(name for name, item in measured.items() if _wrong_size(item))
        # codes that are weights stay small and decode with gain 1; others were divided by a scale
        if large or off:
            worst = (off or large)[0]
            yield _absent(
                "scale_missing",
                expert,
                sorted({*off, *large}),
                f"have no weight_scale, and their codes are no weights by themselves (up to "
                f"{measured[worst].largest:g}): they were divided by a scale, and the scale is lost",
            )
            continue
        proven = any(item.fit is not None for item in measured.values())
        code = next(iter(context.quantized(expert)[name].code for name in sorted(names)))
        yield about(
            "fp8_cast",
            expert,
            f"{len(names)} Linears are cast to FP8 {code.upper()} without scales ({listed(sorted(names))})"
            + (", with their biases, as Diffusers' layerwise casting does" if layerwise_biases(context, expert) else "")
            + (", and decode to the base as they are" if proven else "")
            + ". No scale is needed; a runtime has to be told, or it asks for one.",
            severity="warning",
            modules=sorted(names)[:20],
            count=len(names),
        )


def _wrong_size(item: Measured) -> bool:
    """Return whether a Linear fits the base with a gain other than 1."""
    fit = item.fit
    if fit is None:
        return False
    score = fit.scores[fit.best]
    return score.cosine >= gate_of(item).unrelated and abs(score.gain - 1) > max(gain_limit(item), 0.05)


@check("left_over_scales", cost="header", codes=("scale_left_over", "scale_orphaned"), order=140)
def leftovers(context: Context) -> Iterator[InspectionFinding]:
    """Report scales beside an unquantized weight, and scales whose weight is absent."""
    for expert, component in context.experts.items():
        modules = context.modules[expert]
        stems = {
            name[: -len(suffix)] for name in component.tensors for suffix in WEIGHT_SUFFIXES if name.endswith(suffix)
        } | set(modules)
        beside: list[str] = []
        orphans: list[str] = []
        for name in sorted(component.tensors):
            if not is_scale(name):
                continue
            match = SCALE_PARTS.search(name)
            stem = name[: match.start()] if match else name.rpartition(".")[0]
            if stem not in stems:
                orphans.append(name)
            # a marker beside an unquantized weight multiplies nothing
            elif name.endswith(".comfy_quant"):
                continue
            elif stem in modules and not modules[stem].quantized and name.endswith(WEIGHT_SCALES):
                beside.append(name)
        if beside:
            text = "stand beside weights that are not quantized: a runtime that goes by their name multiplies once more"
            yield _unused_tensors("scale_left_over", expert, beside, text)
        if orphans:
            markers = [name for name in orphans if name.endswith(".comfy_quant")]
            text = "belong to weights that are not here"
            yield _unused_tensors(
                "scale_orphaned", expert, orphans, text, "markers" if markers == orphans else "scales"
            )


WEIGHT_SCALES = (
    ".weight_scale",
    ".weight_scale_2",
    ".weight_global_scale",
    ".scale_weight",
    ".weight_scale_inv",
    ".SCB",
)


def _unused_tensors(code: str, expert: str, names: list[str], text: str, kind: str = "scales") -> InspectionFinding:
    return about(code, expert, f"{len(names)} {kind} {text} ({listed(names)}).", tensors=names)


@check("scale_dtypes", cost="header", codes=("scale_dtype",), order=150)
def scale_dtypes(context: Context) -> Iterator[InspectionFinding]:
    """Report scales in 16 bits: they are rounded, and some loaders refuse them."""
    for expert in context.experts:
        odd: dict[str, list[str]] = {}
        for module in context.quantized(expert).values():
            if module.spec.modelopt and not module.opaque:
                outer = module.outer_scale
                for entry in (outer, module.input_scale):
                    if entry is not None and entry.dtype in ("BF16", "F16"):
                        odd.setdefault(entry.dtype, []).append(entry.name)
        for dtype, names in sorted(odd.items()):
            share = "0.4" if dtype == "BF16" else "0.05"
            yield about(
                "scale_dtype",
                expert,
                f"{len(names)} scales are stored as {dtype}, not F32 ({listed(sorted(names))}): each is "
                f"rounded by up to {share} %, and loaders that ask for F32 stop.",
                tensors=sorted(names),
                severity="warning",
                next_command="export again with float32 scales",
                dtype=dtype,
            )


# Names of tensors, compared with the base.


@check("key_set", cost="header", codes=("tensor_missing", "tensor_unexpected"), order=90)
def keys_against_base(context: Context) -> Iterator[InspectionFinding]:
    """Report tensors of the base that are absent, and tensors other than scales that the base lacks."""
    for expert, component in context.experts.items():
        base = context.base.get(expert)
        if base is None or not base.tensors or not component.tensors:
            continue
        renamed = {module.weight.name: f"{name}.weight" for name, module in context.modules[expert].items()}
        # further tensors of a Linear in a layout that is not read here are no tensors of the model
        parts = {
            entry.name
            for module in context.modules[expert].values()
            if module.format == "unknown"
            for suffix, entry in module.parts.items()
            if suffix not in ("weight", "bias") and entry is not module.weight
        }
        names = {
            renamed.get(name, name)
            for name in component.tensors
            if not is_scale(name) and not FACTORS.search(name) and name not in parts
        }
        if other_model(component.tensors) is not None:
            continue  # the check other_model names these tensors
        missing = sorted(set(base.tensors) - names)
        extra = sorted(names - set(base.tensors))
        if missing:
            yield about(
                "tensor_missing",
                expert,
                f"{len(missing)} of the base's tensors are absent ({listed(missing)}): a runtime fills them.",
                tensors=missing,
            )
        variants = parts_of(extra)
        if extra:
            yield about(
                "tensor_unexpected",
                expert,
                f"{len(extra)} tensors have no counterpart in the base ({listed(extra)})"
                + (f": parts of {' and '.join(variants)}, which this base lacks" if variants else "")
                + ". They were not compared.",
                tensors=extra,
                severity="fault" if missing else "warning",
            )


# Shapes and dtypes, compared with the base and with the model's own configuration.


@check("shapes", cost="header", codes=("shape_differs", "dtype_differs"), order=100)
def shapes_and_dtypes(context: Context) -> Iterator[InspectionFinding]:
    """Report tensors of another shape than the base's (packed: [N, K/2] for [N, K]), and integers for floats."""
    for expert, component in context.experts.items():
        base = context.base.get(expert)
        if base is None:
            continue
        wrong: list[str] = []
        integers: list[str] = []
        layerwise = layerwise_biases(context, expert)
        for name, entry in component.tensors.items():
            stem = as_weight(name)
            anchor = base.tensors.get(stem)
            if anchor is None or is_scale(name):
                continue
            module = context.modules[expert].get(stem.removesuffix(".weight"))
            quantized = module is not None and module.quantized and stem.endswith(".weight")
            if quantized and module is not None and module.opaque and module.logical is None:
                continue  # packed in a way that is not decoded: its stored shape says nothing
            shape = module.shape if quantized and module is not None else entry.shape
            if shape != anchor.shape:
                wrong.append(f"{name} {list(entry.shape)} for {list(anchor.shape)}")
            elif not quantized and entry.dtype not in FLOAT_DTYPES and name not in layerwise:
                integers.append(f"{name} {entry.dtype}")
        if wrong:
            yield about(
                "shape_differs",
                expert,
                f"{len(wrong)} tensors do not have the shape that the base asks for ({listed(wrong)}).",
                tensors=wrong,
                tensor=wrong[0].split(" ")[0],
            )
        if integers:
            yield finding(
                "fault",
                "dtype_differs",
                f"{expert}: tensors that are no Linear weights are not stored as floats ({listed(integers)}).",
                expert=expert,
                evidence={"tensors": integers[:20]},
            )


@check("config_shapes", cost="header", codes=("config_contradicts_tensors",), order=110)
def config_against_tensors(context: Context) -> Iterator[InspectionFinding]:
    """Compare a Wan transformer's ``config.json`` with block count, width and feed-forward width of the tensors."""
    for expert, component in context.experts.items():
        if component.config.get("_class_name") not in WAN_CLASSES or not component.tensors:
            continue
        wrong = [
            f"{name}: config {stated}, tensors {actual}"
            for name, stated, actual in _wan(component.config, context, expert)
            if stated != actual
        ]
        if wrong:
            yield about(
                "config_contradicts_tensors",
                expert,
                f"config.json and the tensors describe different models ({listed(wrong)}).",
                fields=wrong,
            )


def _wan(config: Mapping[str, Any], context: Context, expert: str) -> Iterator[tuple[str, Any, Any]]:
    """Yield name, value of the configuration and value of the tensors of each size."""
    tensors, modules = context.experts[expert].tensors, context.modules[expert]
    blocks = {number for number in map(block_of, tensors) if number is not None}
    if isinstance(config.get("num_layers"), int):
        yield "num_layers", config["num_layers"], len(blocks)
    heads, width = config.get("num_attention_heads"), config.get("attention_head_dim")
    query = modules.get("blocks.0.attn1.to_q")
    measured = query is not None and (not query.opaque or query.logical is not None)
    if query is not None and measured and isinstance(heads, int) and isinstance(width, int):
        yield "inner width", heads * width, query.shape[0]
    if query is not None and measured and isinstance(config.get("dim"), int):
        yield "dim", config["dim"], query.shape[0]
    # Wan's own configurations call the channels in_dim and out_dim
    patch, head = tensors.get("patch_embedding.weight"), modules.get("proj_out")
    size = config.get("patch_size", (1, 2, 2))
    for name in ("in_channels", "in_dim"):
        if isinstance(config.get(name), int) and patch is not None and len(patch.shape) == 5:
            yield name, config[name], patch.shape[1]
    for name in ("out_channels", "out_dim"):
        whole = isinstance(size, list | tuple) and all(isinstance(item, int) and item > 0 for item in size)
        if isinstance(config.get(name), int) and head is not None and not head.quantized and whole:
            yield name, config[name] * math.prod(size), head.shape[0]
    feed = modules.get("blocks.0.ffn.net.0.proj")
    shown = feed is not None and (not feed.opaque or feed.logical is not None)
    if feed is not None and shown and isinstance(config.get("ffn_dim"), int):
        yield "ffn_dim", config["ffn_dim"], feed.shape[0]
