"""Checks of published files: another model's tensors, absent blocks, two scales of a Linear, a lost dtype."""

from __future__ import annotations

import math
from collections.abc import Iterator

from harness.formats.families import other_model
from harness.formats.modules import Module, block_of, is_scale
from harness.inspector.checks.registration import check
from harness.inspector.context import Context
from harness.inspector.findings import about
from harness.records.inspection import InspectionFinding
from harness.text import listed

OWN_SCALES = ("weight_scale", "scale_weight", "weight_scale_inv", "SCB")
"""Names of a weight's scale; a loader takes the name that it looks for."""
SAME_SCALE = 1e-3
"""Relative difference up to which two scales are the same number in another dtype."""


@check("other_model", cost="header", codes=("other_model",), order=35)
def other_models(context: Context) -> Iterator[InspectionFinding]:
    """Report file sets without a tensor of a Wan transformer."""
    for expert, component in context.experts.items():
        title = other_model(component.tensors)
        if title is None:
            continue
        first = min(component.tensors)
        like = f"they are named like those of {title}" if title else "they are named like those of no model known here"
        yield about(
            "other_model",
            expert,
            f"none of its {len(component.tensors)} tensors is one of a Wan transformer ({first}); {like}.",
            tensors=sorted(component.tensors),
            severity="fault" if title else "inconclusive",
            next_command="name the file of the transformer: quantgate inspect FOLDER/FILE.safetensors",
        )


@check("block_numbers", cost="header", codes=("tensor_missing",), order=42)
def block_numbers(context: Context) -> Iterator[InspectionFinding]:
    """Report blocks that are absent between others, and VACE blocks that the configuration lists and the file lacks."""
    for expert, component in context.experts.items():
        numbers = {block for name in component.tensors if not is_scale(name) and (block := block_of(name)) is not None}
        absent = sorted(set(range(max(numbers, default=-1) + 1)) - numbers)
        if absent and expert not in context.base:
            names = [f"blocks.{number}" for number in absent]
            yield _missing(
                expert,
                names,
                f"{listed(names)} is absent, and blocks up to {max(numbers)} are here: a file of it is lost",
            )
        layers = component.config.get("vace_layers")
        if isinstance(layers, list) and component.tensors:
            stored_numbers = {name.split(".")[1] for name in component.tensors if name.startswith("vace_blocks.")}
            names = [f"vace_blocks.{number}" for number in range(len(layers)) if str(number) not in stored_numbers]
            if names:
                text = f"config.json lists {len(layers)} VACE layers, and {listed(names)} is absent"
                yield _missing(expert, names, text)


def _missing(expert: str, names: list[str], text: str) -> InspectionFinding:
    return about("tensor_missing", expert, f"{text}.", tensors=names, next_command="fetch the missing files again")


@check("two_scales", cost="scalar", codes=("two_scales",), order=165)
def two_scales(context: Context) -> Iterator[InspectionFinding]:
    """Report Linears with two scales of the weight under two names and with different values."""
    for expert in context.experts:
        values = context.scalars.get(expert, {})
        apart: list[str] = []
        for name, module in context.quantized(expert).items():
            names = [module.parts[suffix].name for suffix in OWN_SCALES if suffix in module.parts]
            scales = [values[tensor] for tensor in names if tensor in values]
            if any(not _alike(scales[0], other) for other in scales[1:]):
                apart.append(name)
        if apart:
            yield about(
                "two_scales",
                expert,
                f"{len(apart)} Linears have two scales of their weight under two names, with different "
                f"values ({listed(apart)}): which of them counts depends on the loader.",
                linears=apart,
                next_command="keep the scale that fits the codes: inspect with --base, and delete the other",
            )


def _alike(first: tuple[float, ...], second: tuple[float, ...]) -> bool:
    return len(first) == len(second) and all(
        math.isclose(left, right, rel_tol=SAME_SCALE) for left, right in zip(first, second, strict=True)
    )


@check("eight_bit_bytes", cost="header", codes=("dtype_lost",), order=55)
def eight_bit_bytes(context: Context) -> Iterator[InspectionFinding]:
    """Report FP8 codes that are stored as plain bytes: the dtype in the header was lost."""
    for expert in context.experts:
        lost = sorted(name for name, module in context.quantized(expert).items() if module.state.get("dtype") == "U8")
        if lost:
            yield about(
                "dtype_lost",
                expert,
                f"{len(lost)} Linears are declared FP8, have a scale per tensor or row, and are stored as U8 "
                f"bytes ({listed(lost)}): a loader that goes by the dtype reads integers from 0 to 255.",
                linears=lost,
                next_command="export again, and save the codes as float8_e4m3fn",
            )
        scales = sorted(
            module.scale.name
            for module in context.quantized(expert).values()
            if module.format == "nvfp4" and module.scale is not None and module.scale.dtype in ("U8", "I8")
        )
        if scales:
            yield about(
                "dtype_lost",
                expert,
                f"the block scales of {len(scales)} NVFP4 Linears are stored as plain bytes, not as E4M3 "
                f"({listed(scales)}): a loader that goes by the dtype multiplies by integers, or reads exponents.",
                tensors=scales,
                next_command="export again, and save the block scales as float8_e4m3fn",
            )


@check("quant_state", cost="header", codes=("scale_shape",), order=158)
def quant_states(context: Context) -> Iterator[InspectionFinding]:
    """Report Linears of bitsandbytes whose scales do not fit the block size that their ``quant_state`` states."""
    for expert in context.experts:
        wrong = sorted(name for name, module in context.quantized(expert).items() if _absmax_differs(module))
        if wrong:
            module = context.modules[expert][wrong[0]]
            blocks = -(-math.prod(module.shape) // int(module.state["blocksize"]))
            yield about(
                "scale_shape",
                expert,
                f"quant_state of {len(wrong)} Linears states blocks of {module.state['blocksize']} values, "
                f"which would be {blocks} scales, and absmax has {module.parts['weight.absmax'].elements} "
                f"({listed(wrong)}).",
                linears=wrong,
                next_command="quantize again: the state was taken from another layer or changed",
                blocksize=module.state["blocksize"],
            )


def _absmax_differs(module: Module) -> bool:
    """Return whether a Linear has another number of ``absmax`` values than its weight has blocks."""
    entry, size = module.parts.get("weight.absmax"), module.state.get("blocksize")
    if module.format != "nf4" or module.opaque or entry is None or not isinstance(size, int) or size <= 0:
        return False
    return entry.elements != -(-math.prod(module.shape) // size)


@check("marked_codes", cost="header", codes=("format_mismatch",), order=62)
def marked_codes(context: Context) -> Iterator[InspectionFinding]:
    """Report FP8 Linears whose marker states another code table than their dtype."""
    for expert in context.experts:
        wrong = sorted(
            name
            for name, module in context.quantized(expert).items()
            if module.format == "fp8" and module.stated_code and module.stated_code != module.code
        )
        if wrong:
            module = context.modules[expert][wrong[0]]
            yield about(
                "format_mismatch",
                expert,
                f"the markers of {len(wrong)} Linears state {module.stated_code.upper()} and their codes are "
                f"{module.code.upper()} ({listed(wrong)}): a loader that believes the marker reads other values.",
                linears=wrong,
                next_command="write the stored code table into the comfy_quant markers of these layers",
                declared=module.stated_code,
                stored=module.code,
            )
