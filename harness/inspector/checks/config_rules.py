"""Compares the configuration with the tensors: declared format, ignore list, switch between the experts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from harness.formats.config import Declaration, pattern_matches
from harness.formats.modules import Module
from harness.inspector.checks.registration import check
from harness.inspector.context import Context
from harness.inspector.findings import about, finding
from harness.inspector.index import Component
from harness.records.inspection import InspectionFinding
from harness.text import listed


@check(
    "declaration", cost="header", codes=("quantization_undeclared", "nothing_quantized", "format_mismatch"), order=60
)
def declaration_against_tensors(context: Context) -> Iterator[InspectionFinding]:
    """Report Linears whose declared and stored formats differ, or of which only one exists."""
    for expert, component in context.experts.items():
        declared, modules = component.declaration, context.modules[expert]
        quantized = context.quantized(expert)
        stored = sorted({module.format for module in quantized.values()})
        undeclared = (
            quantized and not declared.declared and not any(_declares_itself(item) for item in quantized.values())
        )
        if undeclared:
            by_options = _read_by_options(component, quantized)
            yield about(
                "quantization_undeclared",
                expert,
                f"{len(quantized)} Linears are stored as {', '.join(stored)} and neither config.json, "
                "hf_quant_config.json nor shard metadata says so: a runtime "
                + ("has to be told" if by_options else "reads it as unquantized")
                + ".",
                severity="warning" if by_options else "fault",
                next_command="add quantization_config to the transformer's config.json",
                modules=len(quantized),
                stored=stored,
            )
        # a declaration of both experts may be meant for the other one only
        elsewhere = declared.shared and any(context.quantized(other) for other in context.experts)
        if declared.declared and modules and not quantized and not elsewhere:
            yield finding(
                "fault",
                "nothing_quantized",
                f"{expert}: {declared.origin} declares {declared.algo or declared.method} and no Linear is quantized: "
                "its patterns matched nothing.",
                expert=expert,
                evidence={"declared": declared.algo, "linears": len(modules)},
            )
        wrong = sorted(
            name
            for name, module in quantized.items()
            if module.stated is None
            and declared.format_of(name) in DECIDED
            and module.format not in (declared.format_of(name), "unknown")
        )
        yield from _marked_otherwise(expert, modules)
        if wrong:
            algorithms = sorted({declared.algo_of(name) for name in wrong})
            formats = sorted({quantized[name].format for name in wrong})
            yield about(
                "format_mismatch",
                expert,
                f"{declared.origin} declares {', '.join(algorithms)} and {len(wrong)} Linears are stored as "
                f"{', '.join(formats)} ({listed(wrong)}).",
                linears=wrong,
                declared=algorithms,
                stored=stored,
            )


def _marked_otherwise(expert: str, modules: Mapping[str, Module]) -> Iterator[InspectionFinding]:
    """Report Linears whose own ``comfy_quant`` marker names another format than their bytes have."""
    wrong = sorted(
        name
        for name, module in modules.items()
        if module.stated is not None and module.format not in (module.stated, "unknown")
    )
    if wrong:
        stated = sorted({str(modules[name].stated) for name in wrong})
        stored = sorted({modules[name].format for name in wrong})
        yield about(
            "format_mismatch",
            expert,
            f"the markers of {len(wrong)} Linears state {', '.join(stated)}, and they are stored as "
            f"{', '.join(stored)} ({listed(wrong)}).",
            linears=wrong,
            next_command="write the stored format into the comfy_quant markers of these layers, or export them again",
            declared=stated,
            stored=stored,
        )


def _declares_itself(module: Module) -> bool:
    """Return whether a Linear carries its own declaration: a marker, a name, or a file type that its readers use."""
    return module.dialect in ("comfy", "gguf", "bitsandbytes", "torchao", "quanto", "nunchaku", "modelslim")


def _read_by_options(component: Component, quantized: Mapping[str, Module]) -> bool:
    """Return whether a runtime reads such files by its own options, as ComfyUI and LightX2V do, not by a declaration.

    A file without a ``config.json``, Wan's own names, a bare cast, and scales as LightX2V writes them ([N, 1] and no
    scale of the activations). ModelOpt's exports in a Diffusers folder are not: there the declaration was lost.
    """
    if not component.config or component.naming.dialect == "wan":
        return True
    return all(
        item.dialect == "lightx2v"
        or item.format == "int8"
        or item.kind == "none"
        or (item.kind == "channel_column" and item.input_scale is None)
        for item in quantized.values()
    )


DECIDED = ("nvfp4", "fp8", "mxfp8", "mxfp4", "int8", "nf4")
"""Formats that a declaration can name unambiguously."""
LISTING = ("", "modelslim", "modelopt", "fp8", "fbgemm_fp8", "compressed-tensors", "mxfp8", "mxfp4", "nvfp4")
"""Declarations whose ignore list decides what a runtime allocates quantized. ComfyUI lists the quantized layers,
torchao, bitsandbytes and quanto recognise them by their tensors."""


@check(
    "ignore_list",
    cost="header",
    codes=("ignore_contradicted", "ignore_incomplete", "carried_not_ignored"),
    notes=("ignore_unmatched",),
    order=70,
)
def ignore_against_tensors(context: Context) -> Iterator[InspectionFinding]:
    """Report unquantized Linears that the ignore list does not cover, and quantized Linears that it does."""
    for expert, component in context.experts.items():
        declared, quantized = component.declaration, context.quantized(expert)
        if not quantized or not declared.declared or declared.method not in LISTING:
            continue
        if component.naming.library == "modelopt":
            continue  # diffusers takes the layers from modelopt_state.pth, and the list from the caller
        contradicted = sorted(name for name in quantized if left_out(declared, name))
        if contradicted:
            yield about(
                "ignore_contradicted",
                expert,
                f"{declared.origin} leaves out {listed(contradicted)}, and they are stored quantized: a "
                "runtime that trusts the list reads packed bytes as BF16.",
                linears=contradicted,
                pattern=declared.ignores(contradicted[0]),
            )
        base_modules = context.base_modules.get(expert)
        uncovered = sorted(
            name
            for name, module in context.modules[expert].items()
            if not module.quantized and not left_out(declared, name)
        )
        carried = [name for name in uncovered if base_modules and name not in base_modules]
        forgotten = [name for name in uncovered if name not in carried]
        if forgotten:
            yield about(
                "ignore_incomplete",
                expert,
                f"{listed(forgotten)} are stored unquantized and "
                + (
                    f"{declared.origin} lists them as quantized"
                    if declared.layers
                    else f"the ignore list of {declared.origin} does not name them"
                )
                + ": a runtime allocates them quantized and fills their scales.",
                linears=forgotten,
            )
        if carried:
            yield about(
                "carried_not_ignored",
                expert,
                f"{listed(carried)} are carried along from elsewhere, unquantized, and not in the ignore list.",
                linears=carried,
            )
        # a pattern may name a Linear or any other module, so both kinds of names are tried
        idle = [
            pattern
            for pattern in declared.ignore
            if not any(pattern_matches(pattern, name) for name in context.modules[expert])
            and not any(pattern_matches(pattern, name.rsplit(".", 1)[0]) for name in component.tensors)
        ]
        if idle:
            yield about(
                "ignore_unmatched",
                expert,
                f"the ignore patterns {listed(idle)} match nothing here.",
                severity="info",
                patterns=idle[:20],
            )


def left_out(declared: Declaration, name: str) -> bool:
    """Return whether a declaration keeps a Linear unquantized: by its ignore list, or by not listing it."""
    return declared.ignores(name) is not None or (bool(declared.layers) and name not in declared.layers)


@check("group_size", cost="header", codes=("group_size_contradicted",), order=75)
def group_size(context: Context) -> Iterator[InspectionFinding]:
    """Report a declared group size that the stored format cannot have."""
    for expert, component in context.experts.items():
        stated = component.declaration.group_size
        blocks = {module.format: module.values_per_scale for module in context.quantized(expert).values()}
        stored = sorted(form for form, block in blocks.items() if block)
        # with formats of several sizes the declaration may mean any of them
        if stated is None or len(stored) != 1 or stated == blocks[stored[0]]:
            continue
        block = blocks[stored[0]]
        yield about(
            "group_size_contradicted",
            expert,
            f"{component.declaration.origin} declares block scales for {stated} values each (group_size), "
            f"and {stored[0]} has one for every {block}: a loader that believes it reads the wrong scales or refuses.",
            next_command=f"write group_size: {block} in {component.declaration.origin}",
            declared=stated,
            stored=block,
            format=stored[0],
        )


@check("block_size", cost="header", codes=("group_size_contradicted",), order=76)
def block_size(context: Context) -> Iterator[InspectionFinding]:
    """Report scales of 8-bit blocks, or of groups of packed integers, that have another size than is declared."""
    for expert, component in context.experts.items():
        declared = component.declaration
        wrong: dict[tuple[str, str], list[str]] = {}
        for name, module in context.quantized(expert).items():
            if module.format == "fp8" and module.scale is not None and not module.opaque and declared.block_size:
                stated, stored = declared.block_size, module.block
                # an own marker of a layer counts more than the declaration of the file
                if module.kind != "other" and module.stated is None and stated != stored:
                    size = f"{stored[0]} x {stored[1]}" if module.kind == "block" else KIND_TEXTS.get(module.kind, "")
                    wrong.setdefault((f"{stated[0]} x {stated[1]}", size or f"1 x {stored[1]}"), []).append(name)
            columns = _group_columns(module)
            group = declared.group_size
            if columns and group is not None and columns != (group if group > 0 else module.shape[1]):
                wrong.setdefault((f"{group} columns", f"{columns} columns"), []).append(name)
        for (stated_text, stored_text), names in wrong.items():
            yield about(
                "group_size_contradicted",
                expert,
                f"{declared.origin} declares a scale per {stated_text} and {len(names)} Linears have one per "
                f"{stored_text} ({listed(names)}): a loader allocates scales of another shape, or applies them to "
                "other values.",
                linears=names,
                next_command=f"write the stored size in {declared.origin}, or export again",
                declared=stated_text,
                stored=stored_text,
            )


KIND_TEXTS = {"scalar": "tensor", "one": "tensor", "channel": "row", "channel_column": "row"}


def _group_columns(module: Module) -> int:
    """Return the columns that share a scale in GPTQ's, AWQ's and compressed-tensors' integers; 0 if none is known."""
    if module.scale is None or len(module.scale.shape) != 2 or "weight_g_idx" in module.parts:
        return 0
    axis = {"gptq": 0, "awq": 0, "compressed": 1}.get(module.packing)
    groups = module.scale.shape[axis] if axis is not None else 0
    return module.shape[1] // groups if groups and module.shape[1] % groups == 0 else 0


@check("boundary_ratio", cost="header", codes=("boundary_ratio_missing", "boundary_ratio_differs"), order=80)
def boundary_ratio(context: Context) -> Iterator[InspectionFinding]:
    """Report a repository with two experts that does not state where they switch, or not as its base does."""
    index = context.model_index
    if index is None or "transformer_2" not in index or index.get("transformer_2") in (None, [None, None]):
        return
    if index.get("boundary_ratio") is None:
        yield finding(
            "fault",
            "boundary_ratio_missing",
            "model_index.json has two experts and no boundary_ratio: diffusers then runs `transformer` for every step.",
            evidence={"base": (context.base_index or {}).get("boundary_ratio")},
            next_command="write the base's boundary_ratio into model_index.json",
        )
    elif context.base_index is not None and context.base_index.get("boundary_ratio") not in (
        None,
        index["boundary_ratio"],
    ):
        yield finding(
            "fault",
            "boundary_ratio_differs",
            f"model_index.json switches experts at {index['boundary_ratio']} and the base's at "
            f"{context.base_index['boundary_ratio']}.",
            evidence={"checkpoint": index["boundary_ratio"], "base": context.base_index["boundary_ratio"]},
        )
