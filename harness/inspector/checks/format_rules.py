"""Checks of the file set as a whole, before its values: names of another dialect, formats that are recognised and not
decoded, tensors in a format that is not theirs, tensors that every Wan transformer needs."""

from __future__ import annotations

import re
from collections.abc import Iterator

from harness.formats.modules import WEIGHT_SUFFIXES, block_of, is_scale
from harness.formats.names import PREFIXES
from harness.formats.other_weights import FACTORS
from harness.formats.registry import title_of
from harness.inspector.checks.registration import check
from harness.inspector.context import Context
from harness.inspector.findings import about
from harness.records.inspection import InspectionFinding
from harness.text import listed


def as_weight(name: str) -> str:
    """Return a weight's name as an unquantized Linear has it: ``to_q.qweight`` gives ``to_q.weight``."""
    suffix = next((item for item in WEIGHT_SUFFIXES if name.endswith(item)), "")
    return f"{name.removesuffix(suffix)}.weight" if suffix else name


def in_layout(dialect: str) -> str:
    """Return the end of "40 Linears are FP8": the dialect's layout, or nothing for one that belongs to no program."""
    return "" if dialect == "plain" else f" in {dialect}'s layout"


OF_MODEL = re.compile(r"(\.(weight|bias|gamma)|(^|\.)scale_shift_table)$")
"""Endings of a block's own tensors; others are scales and settings of some quantizer, which a block may lack."""
REQUIRED = (
    "patch_embedding.weight",
    "condition_embedder.time_embedder.linear_1.weight",
    "condition_embedder.time_embedder.linear_2.weight",
    "condition_embedder.time_proj.weight",
    "condition_embedder.text_embedder.linear_1.weight",
    "condition_embedder.text_embedder.linear_2.weight",
    "proj_out.weight",
    "scale_shift_table",
)
"""Tensors that every Wan transformer has outside its blocks (diffusers WanTransformer3DModel)."""
WAN_CLASSES = ("WanTransformer3DModel", "WanModel")


@check("names", cost="header", codes=("names_mixed", "names_of_another_dialect"), notes=("names_prefixed",), order=20)
def names_of_dialect(context: Context) -> Iterator[InspectionFinding]:
    """Report names that the folder's own loader does not read, and prefixes that a loader has to remove."""
    for expert, component in context.experts.items():
        naming = component.naming
        if naming.dialect == "mixed":
            yield about(
                "names_mixed",
                expert,
                "some tensors carry Diffusers' names and others Wan's original ones: no loader takes both.",
                next_command="convert all of them: diffusers scripts/convert_wan_to_diffusers.py",
            )
        elif naming.dialect == "wan" and component.config.get("_class_name") == "WanTransformer3DModel":
            first = next(old for old, new in sorted(naming.names.items()) if old != new)
            yield about(
                "names_of_another_dialect",
                expert,
                f"config.json is Diffusers', and the tensors carry Wan's original names ({first} for "
                f"{naming.names[first]}): Diffusers loads none of them and leaves the transformer uninitialised.",
                tensor=first,
                next_command="convert the names: diffusers scripts/convert_wan_to_diffusers.py",
            )
        if naming.prefixes:
            counts = ", ".join(
                f"{count} have {prefix!r} in front" if prefix else f"{count} have none"
                for prefix, count in naming.prefixes.items()
            )
            yield about(
                "names_mixed",
                expert,
                f"tensors of one transformer have different prefixes (of the attention's, {counts}): a "
                "loader takes one of them away and does not know the other names. They are checked without any.",
                next_command="write all tensors under one prefix, or fetch the file again",
                prefixes=dict(naming.prefixes),
            )
        if naming.prefix and (component.config or naming.prefix not in PREFIXES):
            writer = PREFIXES.get(naming.prefix)
            yield about(
                "names_prefixed",
                expert,
                f"{naming.prefix!r} stands in front of the tensors' names"
                + (f", as {writer} writes it" if writer else ", which no program known here writes")
                + ": a loader has to take it away. They are checked without it.",
                severity="warning",
                prefix=naming.prefix,
            )


@check("adapters", cost="header", codes=("adapters_unmerged",), order=25)
def adapters(context: Context) -> Iterator[InspectionFinding]:
    """Report factors of adapters beside a transformer's weights: only a loader that adds them draws what was meant."""
    for expert, component in context.experts.items():
        factors = sorted(name for name in component.stored if FACTORS.search(name) and not is_scale(name))
        wrapped = sorted(name for name in component.stored if ".base_layer." in name)
        if not factors and not wrapped:
            continue
        if wrapped:
            text = (
                f"{len(wrapped)} tensors carry peft's name of a wrapped layer ({listed(wrapped)}) beside "
                f"{len(factors)} factors of adapters that were not merged: a loader of transformers knows none "
                "of these names and leaves the Linears uninitialised"
            )
        else:
            text = (
                f"{len(factors)} factors of adapters (LoRA) lie beside the weights and were not merged into them "
                f"({listed(factors)}): a loader that ignores them runs the model without the adapter"
            )
        yield about(
            "adapters_unmerged",
            expert,
            f"{text}. The weights are checked, the factors are not.",
            severity="fault" if wrapped else "warning",
            tensor=(wrapped or factors)[0],
            next_command="merge the adapter where it was made (fuse_lora, unload_lora_weights), and save again",
            factors=len(factors),
            wrapped=wrapped[:20],
        )


@check("recognised", cost="header", codes=("format_not_decoded",), order=330)
def recognised_only(context: Context) -> Iterator[InspectionFinding]:
    """Report Linears whose format is recognised and not decoded: they are proven neither right nor wrong."""
    for expert in context.experts:
        groups: dict[tuple[str, str, str], list[str]] = {}
        for name, module in context.quantized(expert).items():
            item = context.measured.get(expert, {}).get(name)
            why = module.opaque or (item.note if item is not None else "")
            if why:
                groups.setdefault((module.format, module.dialect, why), []).append(name)
        for (form, dialect, why), names in groups.items():
            yield about(
                "format_not_decoded",
                expert,
                f"{len(names)} Linears are {title_of(form)}{in_layout(dialect)} ({listed(names)}). Checked: "
                f"headers, names and what is not quantized; not checked: their values, because {why}.",
                linears=names,
                severity="inconclusive",
                next_command="compare what it draws: a run of the case with its golden",
                format=form,
                dialect=dialect,
            )


@check("no_tensors", cost="header", codes=("no_tensors",), order=30)
def nothing_here(context: Context) -> Iterator[InspectionFinding]:
    """Report file sets without a single tensor."""
    for expert, component in context.experts.items():
        if component.tensors or component.findings or not component.shards:
            continue
        gguf = component.shards[0].endswith(".gguf")
        kind = "GGUF" if gguf else "safetensors"
        yield about(
            "no_tensors",
            expert,
            f"{listed(component.shards)} is a {kind} file whose header lists no tensor: nothing to check.",
            severity="inconclusive",
            next_command="fetch the file again, or compare its size with the publisher's",
            files=list(component.shards[:20]),
        )


@check("patch_embedding", cost="header", codes=("shape_differs",), order=45)
def patch_embedding(context: Context) -> Iterator[InspectionFinding]:
    """Report a flattened patch embedding, without a base: GGUF has four axes at most, a Wan transformer's has five."""
    for expert, component in context.experts.items():
        entry = component.tensors.get("patch_embedding.weight")
        if expert in context.base or entry is None or len(entry.shape) == 5:
            continue
        if not any("attn1.to_q.weight" in name for name in component.tensors):
            continue
        yield about(
            "shape_differs",
            expert,
            f"patch_embedding.weight has the shape {list(entry.shape)}, and a Wan transformer's is a "
            "convolution of five axes: it was flattened, and its shape is not stored beside it.",
            tensor="patch_embedding.weight",
            next_command="convert again with a program that stores comfy.gguf.orig_shape.patch_embedding.weight",
            shape=list(entry.shape),
        )


@check("needed_tensors", cost="header", codes=("tensor_missing",), order=40)
def needed_tensors(context: Context) -> Iterator[InspectionFinding]:
    """Report absent embeddings or head of a Wan transformer, and blocks that lack a tensor of the others.

    Only without a base: `keys_against_base` compares with one.
    """
    for expert, component in context.experts.items():
        blocks: dict[int, set[str]] = {}
        for name in component.tensors:
            number = block_of(name)
            if number is None or is_scale(name) or FACTORS.search(name):
                continue
            name = as_weight(name)
            if OF_MODEL.search(name):
                blocks.setdefault(number, set()).add(name.split(f"blocks.{number}.", 1)[1])
        wan = component.config.get("_class_name") in WAN_CLASSES or any(
            "attn1.to_q.weight" in names for names in blocks.values()
        )
        if expert in context.base or not blocks or not wan:
            continue
        absent = [name for name in REQUIRED if name not in component.tensors]
        # Linears in tensors of a library that is not read here have no weight: format_not_decoded names them
        for name, module in context.modules[expert].items():
            if module.format == "unknown" and (number := block_of(name)) in blocks and number is not None:
                blocks[number].add(f"{name.split(f'blocks.{number}.', 1)[1]}.weight")
        every = set.union(*blocks.values())
        absent += [
            f"blocks.{number}.{name}" for number, present in sorted(blocks.items()) for name in sorted(every - present)
        ]
        # if more than half is absent, it is another model and no damaged one
        if absent and len(absent) <= len(every) * len(blocks) // 2:
            yield about(
                "tensor_missing",
                expert,
                f"{len(absent)} tensors that a Wan transformer needs are absent ({listed(absent)}): it cannot "
                "be loaded by itself.",
                tensors=absent,
            )


def cast_candidates(context: Context, expert: str) -> set[str]:
    """Return the FP8 Linears of a file set that has and declares no scale: they were cast, or lost their scales."""
    component, quantized = context.experts[expert], context.quantized(expert)
    eight = {name: module for name, module in quantized.items() if module.format == "fp8"}
    # a single scale shows that the writer scales: then no Linear is a plain cast
    if any(item.scale is not None or item.input_scale is not None for item in eight.values()):
        return set()
    declared = component.declaration
    scaled = declared.method in ("modelopt", "compressed-tensors", "fbgemm_fp8") or (
        declared.method == "fp8" and declared.flag("weight_block_size") is not None
    )
    return set() if scaled else set(eight)


def layerwise_biases(context: Context, expert: str) -> set[str]:
    """Return the 8-bit biases of Linears that were cast whole, weight and bias; empty if anything else is in 8 bits.

    Diffusers' layerwise casting stores a Linear so, and leaves norms and embeddings as they are.
    """
    component = context.experts[expert]
    names = {f"{item}.bias" for item in cast_candidates(context, expert)}
    biases = names & set(component.tensors)
    weights = {module.weight.name for module in context.modules[expert].values()}
    eight = {
        name
        for name, entry in component.tensors.items()
        if entry.dtype.startswith("F8_E") and name not in weights and not is_scale(name)
    }
    return biases if eight == biases else set()


@check("eight_bits", cost="header", codes=("dtype_differs",), order=50)
def eight_bits_elsewhere(context: Context) -> Iterator[InspectionFinding]:
    """Report 8-bit norms, biases, tables and embeddings: only the weights of Linears are ever quantized."""
    for expert, component in context.experts.items():
        if expert in context.base:
            continue  # shapes_and_dtypes compares dtypes with the base's
        weights = {module.weight.name for module in context.modules[expert].values()}
        layerwise = layerwise_biases(context, expert)
        odd = sorted(
            name
            for name, entry in component.tensors.items()
            if entry.dtype.startswith("F8_E") and name not in weights and not is_scale(name) and name not in layerwise
        )
        if odd:
            yield about(
                "dtype_differs",
                expert,
                f"{len(odd)} tensors that are no Linear's weight are stored in 8 bits ({listed(odd)}): norms, "
                "biases and embeddings lose the precision that they need.",
                tensors=odd,
                next_command="export again, and keep everything but the Linears in BF16 or F32",
            )
