"""Check that the quantized path ran: compare receipts with the checkpoint's formats and the case's request."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from harness.formats.registry import is_quantized
from harness.judge.evidence import Evidence
from harness.records.generation import DEQUANTIZE, Expert, ModuleReceipt
from harness.records.verdict import Finding
from harness.text import listed

EXPERTS: tuple[Expert, ...] = ("transformer", "transformer_2")
_SHOWN = 5

Ran = Mapping[str, Sequence[ModuleReceipt]]
"""Receipts of an expert, per module, without those of zero calls. A module that ran in two formats has two."""


def judge_receipts(evidence: Evidence) -> Iterator[Finding]:
    """Yield a finding per expert with modules that did not run in the format that the case asks for.

    A program without the placeholder ``{receipts}`` proves no format (``Generation.unproven``). The finding for each
    expert that must run quantized then does not gate. A program that gets the placeholder and writes none fails.
    """
    generation, case = evidence.generation, evidence.case
    if generation is None:
        return
    used = {step.expert for step in generation.trace.steps}
    for expert in EXPERTS:
        asked_format = getattr(case.quantization, expert)
        of_expert = [receipt for receipt in generation.receipts.modules if receipt.expert == expert]
        if used and expert not in used:
            continue
        if of_expert:
            yield from _of_expert(expert, asked_format, _ran(of_expert), evidence)
        elif generation.unproven:
            if asked_format != "bf16":
                message = f"the case asks for {asked_format} in {expert}, and it is {generation.unproven}"
                data: dict[str, object] = {"expert": expert, "wanted": asked_format}
                yield _finding("kernels_unproven", message, data).model_copy(update={"gating": False})
        elif any(item.startswith("receipts:") for item in generation.not_available):
            continue  # `judge_not_available` reports it
        elif asked_format != "bf16" or (used and case.backend == "diffusers"):
            message = (
                f"the case asks for {asked_format}, and no Linear of {expert} wrote a receipt: nothing proves what ran"
            )
            yield _finding("no_receipts", message, {"expert": expert, "wanted": asked_format})


def _ran(receipts: Sequence[ModuleReceipt]) -> Ran:
    groups: dict[str, list[ModuleReceipt]] = {receipt.module: [] for receipt in receipts}
    for receipt in receipts:
        if receipt.calls:
            groups[receipt.module].append(receipt)
    return groups


def _of_expert(expert: Expert, asked_format: str, ran: Ran, evidence: Evidence) -> Iterator[Finding]:
    quantized = sorted(
        name for name, receipts in ran.items() if any(is_quantized(receipt.format) for receipt in receipts)
    )
    if asked_format == "bf16":
        if quantized:
            message = (
                f"the case asks for bf16 and {len(quantized)} Linears of {expert} ran quantized "
                f"({listed(quantized, _SHOWN)})"
            )
            yield _finding("unexpected_quantization", message, {"expert": expert, "modules": list(quantized)})
        return
    owed = sorted(evidence.promised.get(expert, frozenset()) | set(quantized)) or sorted(ran)
    missing = [name for name in owed if {receipt.format for receipt in _ran_as(name, ran)} != {asked_format}]
    if missing:
        formats = {receipt.format for name in missing for receipt in _ran_as(name, ran)}
        lazy = any(not _ran_as(name, ran) for name in missing)
        as_what = ", ".join([*sorted(formats), *(["not at all"] if lazy else [])])
        message = (
            f"the case asks for {asked_format} and {len(missing)} Linears of {expert} ran as {as_what} "
            f"({listed(missing, _SHOWN)})"
        )
        data: dict[str, object] = {"expert": expert, "modules": list(missing), "wanted": asked_format}
        yield _finding("quantized_path_not_run", message, data)
    if asked_format in evidence.native_formats and evidence.case.execution.matmul == "auto":
        yield from _native(expert, asked_format, {name: ran.get(name, ()) for name in owed})


FUSED = {"to_q": ("to_qkv",), "to_k": ("to_qkv", "to_kv"), "to_v": ("to_qkv", "to_kv")}
"""Fused Linears that replace single ones, named as in diffusers' ``fuse_projections``."""


def _ran_as(name: str, ran: Ran) -> Sequence[ModuleReceipt]:
    """Return the receipts of a Linear or, if it wrote none, of the fused Linear that contains its weight."""
    if ran.get(name):
        return ran[name]
    parent, _, leaf = name.rpartition(".")
    return next((receipts for other in FUSED.get(leaf, ()) if (receipts := ran.get(f"{parent}.{other}"))), ())


def _native(expert: Expert, asked_format: str, ran: Ran) -> Iterator[Finding]:
    """Yield a finding if Linears were dequantized although the runner multiplies their format natively.

    Only a module that the kernel does not support (``fallback == "module"``) may be dequantized.
    """
    fell = {
        name: [
            receipt
            for receipt in receipts
            if receipt.format == asked_format and receipt.kernel == DEQUANTIZE and receipt.fallback != "module"
        ]
        for name, receipts in ran.items()
    }
    names = sorted(name for name, receipts in fell.items() if receipts)
    if not names:
        return
    notes = sorted({receipt.note or "no reason given" for name in names for receipt in fell[name]})
    message = (
        f"this runner multiplies {asked_format} natively, and {len(names)} Linears of {expert} were dequantized "
        f"({listed(names, _SHOWN)}): {'; '.join(notes[:_SHOWN])}"
    )
    data: dict[str, object] = {"expert": expert, "modules": list(names), "wanted": asked_format, "notes": list(notes)}
    yield _finding("native_path_not_run", message, data)


def _finding(code: str, message: str, data: dict[str, object]) -> Finding:
    return Finding.model_validate({"stage": "receipts", "code": code, "gating": True, "message": message, "data": data})
