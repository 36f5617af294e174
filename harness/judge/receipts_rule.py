"""Did the quantized path really run? The checkpoint's promise and the case's request against the receipts."""

from __future__ import annotations

from collections.abc import Iterator

from harness.judge.evidence import Evidence
from harness.records.generation import Expert, ModuleReceipt
from harness.records.verdict import Finding

EXPERTS: tuple[Expert, ...] = ("transformer", "transformer_2")
_SHOWN = 5


def judge_receipts(evidence: Evidence) -> Iterator[Finding]:
    """Findings where a module did not run in the format that the case asks for.

    A backend that cannot see inside the program it runs writes no receipts. It must not be asked for a format then:
    a case that asks for one fails here, since nothing proves that it ran.
    """
    generation = evidence.generation
    if generation is None:
        return
    receipts = generation.receipts.modules
    if not receipts and evidence.case.backend != "diffusers":
        return
    used = {step.expert for step in generation.trace.steps}
    for expert in EXPERTS:
        wanted = getattr(evidence.case.quantization, expert)
        mine = {receipt.module: receipt for receipt in receipts if receipt.expert == expert}
        if expert not in used:
            continue
        yield from _of_expert(expert, wanted, mine, evidence.promised.get(expert, frozenset()))


def _of_expert(
    expert: Expert, wanted: str, receipts: dict[str, ModuleReceipt], promised: frozenset[str]
) -> Iterator[Finding]:
    if not receipts:
        yield _finding("no_receipts", f"{expert} ran, and none of its Linears wrote a receipt", {"expert": expert})
        return
    quantized = sorted(name for name, receipt in receipts.items() if receipt.format in ("fp8", "nvfp4"))
    if wanted == "bf16":
        if quantized:
            message = (
                f"the case asks for bf16 and {len(quantized)} Linears of {expert} ran quantized ({_some(quantized)})"
            )
            yield _finding("unexpected_quantization", message, {"expert": expert, "modules": list(quantized)})
        return
    missing = sorted(
        name
        for name in promised
        if name not in receipts or receipts[name].format != wanted or receipts[name].calls == 0
    )
    if missing or not quantized:
        names = missing or sorted(receipts)
        ran_as = sorted({receipts[name].format if name in receipts else "not at all" for name in names})
        ran = ", ".join(ran_as)
        message = f"the case asks for {wanted} and {len(names)} Linears of {expert} ran as {ran} ({_some(names)})"
        yield _finding("quantized_path_not_run", message, {"expert": expert, "modules": list(names), "wanted": wanted})


def _some(names: list[str]) -> str:
    more = len(names) - _SHOWN
    return ", ".join(names[:_SHOWN]) + (f" and {more} more" if more > 0 else "")


def _finding(code: str, message: str, data: dict[str, object]) -> Finding:
    return Finding.model_validate({"stage": "receipts", "code": code, "gating": True, "message": message, "data": data})
