"""Scale tensors: all there, under their own names, in a dtype and shape that fit the weight."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from harness.checkpoint.context import Context
from harness.checkpoint.findings import finding, some
from harness.checkpoint.index import Component
from harness.checkpoint.modules import Module
from harness.records.inspection import InspectionFinding

INVERSE_NAMES = ("weight_scale_inv", "weight_scale_inverse")


def scale_tensors_present(context: Context) -> Iterator[InspectionFinding]:
    """Block, global and input scales of every quantized Linear; renamed ones are named as such."""
    for expert, component in context.experts.items():
        quantized = context.quantized(expert)
        renamed = sorted(
            name for name in quantized if any(f"{name}.{item}" in component.tensors for item in INVERSE_NAMES)
        )
        if renamed:
            yield _absent("scale_renamed", expert, renamed, "carry their scale under the name of its inverse")
        four = [module for module in quantized.values() if module.format == "nvfp4"]
        absent = sorted(
            m.name for m in quantized.values() if m.scale is None and m.name not in renamed and m.format != "unknown"
        )
        if absent:
            yield _absent(
                "scale_missing",
                expert,
                absent,
                "have no weight_scale: a runtime that fills in ones multiplies their weights by 1/scale",
            )
        without_global = sorted(module.name for module in four if module.global_scale is None)
        if without_global:
            yield _absent("global_scale_missing", expert, without_global, "have no global scale")
        needed = _inputs_needed(component, quantized)
        without_input = (
            sorted(name for name, module in quantized.items() if module.input_scale is None) if needed else []
        )
        if without_input:
            text = (
                f"have no input_scale though {needed}: a runtime that fills in 1.0 saturates or flushes the activations"
            )
            yield _absent("input_scale_missing", expert, without_input, text)


def _absent(code: str, expert: str, modules: list[str], text: str) -> InspectionFinding:
    return finding(
        "fault",
        code,
        f"{expert}: {len(modules)} quantized Linears {text} ({some(modules)}).",
        expert=expert,
        module=modules[0],
        evidence={"modules": modules[:20], "count": len(modules)},
    )


def _inputs_needed(component: Component, quantized: Mapping[str, Module]) -> str:
    """Why static input scales are needed, or empty."""
    if component.declaration.flag("dynamic_input_scale") is True:
        return ""
    if any(module.input_scale is not None for module in quantized.values()):
        return "other Linears of the same file set have one"
    groups = component.declaration.raw.get("config_groups")
    for group in groups.values() if isinstance(groups, Mapping) else ():
        inputs = group.get("input_activations") if isinstance(group, Mapping) else None
        if isinstance(inputs, Mapping) and inputs.get("dynamic") is False:
            return "the config declares static activation scales"
    algo = component.declaration.algo.upper()
    if component.declaration.method == "modelopt" and algo in ("NVFP4", "FP8") and not groups:
        return f"ModelOpt's {algo} is static"
    return ""


def scale_shapes(context: Context) -> Iterator[InspectionFinding]:
    """Block scales E4M3 [N, K/16] (or padded for swizzling), global scales F32 scalars, FP8 scales scalar or [N]."""
    for expert in context.experts:
        quantized = context.quantized(expert)
        if context.dtype_error(expert):
            continue
        columns = [text for module in quantized.values() if (text := _block_columns(module))]
        if columns:
            yield _shape("scale_columns", expert, columns, "do not have one block scale for 16 values")
        kinds: dict[str, list[str]] = {}
        bad: list[str] = []
        for module in quantized.values():
            if module.format == "fp8" and module.scale is not None:
                kind = channel_kind(module)
                kinds.setdefault(kind, []).append(module.name)
                if kind == "other":
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
        f"{expert}: {len(names)} Linears {text} ({some(names)}).",
        expert=expert,
        module=names[0].split(" ")[0],
        evidence={"tensors": names[:20], "count": len(names)},
    )


def _block_columns(module: Module) -> str:
    if module.format != "nvfp4" or module.scale is None:
        return ""
    rows, width = module.shape
    shape, columns = module.scale.shape, -(-width // 16)
    padded = (-(-rows // 128) * 128, -(-columns // 4) * 4)
    fits = module.scale.dtype == "F8_E4M3" and tuple(shape) in ((rows, columns), padded)
    return "" if fits else f"{module.name} {module.scale.dtype} {list(shape)} for [{rows}, {columns}]"


def channel_kind(module: Module) -> str:
    """``scalar`` [], ``one`` [1], ``channel`` [N], ``channel_column`` [N, 1], or ``other``."""
    assert module.scale is not None  # noqa: S101 - callers ask only for modules with scales
    shape, rows = module.scale.shape, module.shape[0]
    known = {(): "scalar", (1,): "one", (rows,): "channel", (rows, 1): "channel_column"}
    return known.get(tuple(shape), "other") if module.scale.dtype in ("F32", "BF16", "F16") else "other"
