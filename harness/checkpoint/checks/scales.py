"""Scale tensors: all there, under their own names, in a dtype and shape that fit the weight."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from harness.checkpoint.config import Declaration
from harness.checkpoint.context import Context
from harness.checkpoint.findings import finding, some
from harness.checkpoint.modules import Module
from harness.records.inspection import InspectionFinding

FP8_TILE = 128
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
    return finding(
        "fault",
        code,
        f"{expert}: {len(modules)} quantized Linears {text} ({some(modules)}).",
        expert=expert,
        module=modules[0],
        evidence={"modules": modules[:20], "count": len(modules)},
    )


def _input_needed(declared: Declaration, module: Module, quantized: Mapping[str, Module]) -> str:
    """Why a Linear needs a static input scale, or empty."""
    if declared.flag("dynamic_input_scale") is True:
        return ""
    algo, said = declared.algo_of(module.name), declared.static_inputs(module.name)
    like = (one for one in quantized.values() if (one.format, declared.algo_of(one.name)) == (module.format, algo))
    if any(one.input_scale is not None for one in like):
        return "other Linears of the same file set have one"
    if said:
        return "the config declares static activation scales"
    if said is None and declared.method == "modelopt" and algo.upper() in ("NVFP4", "FP8"):
        return f"ModelOpt's {algo.upper()} is static"
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
        tiled: list[str] = []
        bad: list[str] = []
        for module in quantized.values():
            if module.format == "fp8" and module.scale is not None:
                kind = channel_kind(module)
                kinds.setdefault(kind, []).append(module.name)
                if kind == "tile":
                    tiled.append(module.name)
                if kind == "other":
                    bad.append(f"{module.name} {list(module.scale.shape)}")
            outer = [entry for entry in (module.global_scale, module.input_scale) if entry is not None]
            odd = [entry for entry in outer if entry.elements != 1 or entry.dtype not in ("F32", "BF16", "F16")]
            bad += [f"{entry.name} {entry.dtype} {list(entry.shape)}" for entry in odd]
        if tiled:
            yield finding(
                "inconclusive",
                "unsupported_layout",
                f"{expert}: {len(tiled)} Linears have an FP8 scale for every {FP8_TILE} x {FP8_TILE} values "
                f"({some(tiled)}): this version proves nothing about them.",
                expert=expert,
                module=tiled[0],
                evidence={"modules": tiled[:20], "count": len(tiled)},
            )
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
    """``scalar`` [], ``one`` [1], ``channel`` [N], ``channel_column`` [N, 1], ``tile`` [N/128, K/128], or ``other``."""
    assert module.scale is not None  # noqa: S101 - callers ask only for modules with scales
    shape, (rows, columns) = module.scale.shape, module.shape
    tiles = (-(-rows // FP8_TILE), -(-columns // FP8_TILE))
    known = {tiles: "tile", (): "scalar", (1,): "one", (rows,): "channel", (rows, 1): "channel_column"}
    return known.get(tuple(shape), "other") if module.scale.dtype in ("F32", "BF16", "F16") else "other"
