"""A case that asks for NVFP4 and runs BF16 fails, however good its frames are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from builders import (
    GOLDEN,
    make_evidence,
    make_generation,
    make_limits,
    make_receipts,
    make_trace,
    quantized_case,
)

from harness.definitions.runner import load_runners
from harness.goldens.folder import FolderStore
from harness.judge.evidence import GoldenEvidence
from harness.judge.verdict import observe
from harness.outcomes import Outcome
from harness.records.generation import DEQUANTIZE, NO_RECEIPTS, ModuleReceipt, Receipts, Trace
from harness.records.verdict import Verdict


def swap(**changes: Any) -> Receipts:
    first, *rest = make_receipts().modules
    return Receipts(modules=(first.model_copy(update=changes), *rest))


def cause(receipts: Receipts, **more: Any) -> tuple[Outcome, str]:
    verdict, _ = observe(make_evidence(generation=make_generation(receipts=receipts), **more), "cpu")
    return verdict.outcome, verdict.cause


def test_one_linear_in_bf16() -> None:
    assert cause(swap(format="bf16", kernel="linear")) == (Outcome.REGRESSION, "quantized_path_not_run")


def test_one_linear_in_another_format() -> None:
    assert cause(swap(format="fp8")) == (Outcome.REGRESSION, "quantized_path_not_run")


def test_a_module_that_was_never_called() -> None:
    assert cause(swap(calls=0)) == (Outcome.REGRESSION, "quantized_path_not_run")


def test_a_receipt_that_is_missing() -> None:
    assert cause(Receipts(modules=make_receipts().modules[1:]))[1] == "quantized_path_not_run"


def test_no_receipts_at_all() -> None:
    assert cause(Receipts(modules=())) == (Outcome.REGRESSION, "no_receipts")


def test_everything_in_bf16_without_a_promise() -> None:
    """A checkpoint that was read as unquantized promises nothing: the case's own request still stands."""
    assert cause(make_receipts("bf16"), promised={})[1] == "quantized_path_not_run"


def test_bf16_that_runs_quantized() -> None:
    case = quantized_case(quantization={"transformer": "bf16", "transformer_2": "nvfp4"})
    assert cause(make_receipts(), case=case)[1] == "unexpected_quantization"


def test_an_expert_that_no_step_used_owes_no_receipts() -> None:
    only = [receipt for receipt in make_receipts().modules if receipt.expert == "transformer_2"]
    trace = make_trace()
    steps = tuple(step.model_copy(update={"expert": "transformer_2"}) for step in trace.steps)
    generation = make_generation(
        receipts=Receipts(modules=tuple(only)), trace=trace.model_copy(update={"steps": steps})
    )
    verdict, _ = observe(make_evidence(generation=generation), "cpu")
    assert verdict.cause == "expert"  # the trace differs from the golden's; the receipts have nothing to say


def foreign(wanted: str) -> tuple[Outcome, str]:
    verdict = foreign_verdict(wanted)
    return verdict.outcome, verdict.cause


def foreign_verdict(wanted: str, unproven: str = "") -> Verdict:
    """A program that tells neither what it ran nor which way it went."""
    case = quantized_case(
        backend="command", command=("run",), quantization={"transformer": wanted, "transformer_2": wanted}
    )
    trace = Trace(steps=())
    golden = GoldenEvidence(GOLDEN, (), trace, make_limits())
    generation = make_generation(receipts=Receipts(modules=()), trace=trace).model_copy(update={"unproven": unproven})
    return observe(make_evidence(case=case, generation=generation, golden=golden, promised={}), "cpu")[0]


def test_a_command_backend_may_have_no_receipts_where_no_format_is_asked_for() -> None:
    assert foreign("bf16") == (Outcome.PASS, "none")


@pytest.mark.parametrize("wanted", ["fp8", "nvfp4"])
def test_a_format_that_nothing_proves_fails(wanted: str) -> None:
    assert foreign(wanted) == (Outcome.REGRESSION, "no_receipts")


@pytest.mark.parametrize("wanted", ["fp8", "nvfp4"])
def test_a_program_that_cannot_write_receipts_passes_with_a_mark(wanted: str) -> None:
    verdict = foreign_verdict(wanted, NO_RECEIPTS)
    assert verdict.outcome is Outcome.PASS
    assert "not proven which kernels ran" in verdict.summary
    marks = [finding for finding in verdict.findings if finding.stage == "receipts"]
    assert [(mark.code, mark.gating, mark.data["expert"]) for mark in marks] == [
        ("kernels_unproven", False, "transformer"),
        ("kernels_unproven", False, "transformer_2"),
    ]


def test_nothing_is_said_of_kernels_where_no_format_is_asked_for() -> None:
    verdict = foreign_verdict("bf16", NO_RECEIPTS)
    assert verdict.outcome is Outcome.PASS
    assert "not proven" not in verdict.summary
    assert not [finding for finding in verdict.findings if finding.stage == "receipts"]


@pytest.mark.parametrize("last", [0, -1])
def test_a_module_that_ran_in_two_formats(last: int) -> None:
    """Whatever the order of the book: one call in the right format hides no other."""
    first, *rest = make_receipts().modules
    two = [first.model_copy(update={"format": "bf16", "kernel": "linear", "calls": 15}), first]
    assert cause(Receipts(modules=(two[last], two[~last], *rest))) == (
        Outcome.REGRESSION,
        "quantized_path_not_run",
    )
    assert cause(Receipts(modules=(two[last], two[~last], *rest)), promised={})[1] == "quantized_path_not_run"
    bf16 = quantized_case(quantization={"transformer": "bf16", "transformer_2": "nvfp4"})
    assert cause(Receipts(modules=(two[last], two[~last], *rest[1:])), case=bf16)[1] == "unexpected_quantization"


def test_a_format_that_was_not_asked_for_and_nobody_promised() -> None:
    assert cause(make_receipts("fp8"), promised={})[1] == "quantized_path_not_run"


B200 = frozenset({"bf16", "fp8", "nvfp4"})
REFUSED = "native nvfp4 refused: relative error 0.9 against dequantized operands"


def test_a_native_format_that_was_dequantized() -> None:
    """The profile says that this device multiplies NVFP4; weight-only matmuls in BF16 are another product."""
    refused = Receipts(
        modules=tuple(one.model_copy(update={"note": REFUSED, "fallback": "device"}) for one in make_receipts().modules)
    )
    evidence = make_evidence(generation=make_generation(receipts=refused), native_formats=B200)
    verdict, _ = observe(evidence, "b200")
    assert (verdict.outcome, verdict.cause) == (Outcome.REGRESSION, "native_path_not_run")
    assert verdict.summary.count(REFUSED) == 1
    assert "2 Linears of transformer were dequantized (blocks.1.attn1.to_q, blocks.1.ffn.net.2)" in verdict.summary
    first = observe(evidence.plus(golden=None, comparison=None), "b200")[0]
    assert first.cause == "native_path_not_run", "no first golden is cut from the fallback"


def test_a_fallback_that_nobody_explains_is_no_excuse() -> None:
    assert cause(make_receipts(), native_formats=B200) == (Outcome.REGRESSION, "native_path_not_run")


def test_one_dequantized_call_among_native_ones() -> None:
    native = [one.model_copy(update={"kernel": "torch._scaled_mm"}) for one in make_receipts().modules]
    assert cause(Receipts(modules=tuple(native)), native_formats=B200) == (Outcome.PASS, "none")
    odd = native[0].model_copy(update={"kernel": "dequantize+linear", "calls": 1})
    assert cause(Receipts(modules=(odd, *native)), native_formats=B200)[1] == "native_path_not_run"


def test_a_module_that_the_kernel_does_not_take_is_healthy() -> None:
    note = "native nvfp4 needs a stored input_scale"
    first, *rest = make_receipts().modules
    known = first.model_copy(update={"note": note, "fallback": "module"})
    native = [one.model_copy(update={"kernel": "torch._scaled_mm"}) for one in rest]
    assert cause(Receipts(modules=(known, *native)), native_formats=B200) == (Outcome.PASS, "none")


def test_where_nobody_asked_for_the_native_product() -> None:
    assert cause(make_receipts(), native_formats=frozenset({"bf16", "fp8"})) == (Outcome.PASS, "none")
    case = quantized_case(execution={"matmul": "dequantize"})
    assert cause(make_receipts(), native_formats=B200, case=case) == (Outcome.PASS, "none")


def test_unquantized_linears_beside_quantized_ones_are_fine() -> None:
    extra = ModuleReceipt(expert="transformer", module="blocks.0.attn1.to_q", format="bf16", kernel="linear", calls=2)
    assert cause(Receipts(modules=(*make_receipts().modules, extra))) == (Outcome.PASS, "none")


def test_no_committed_golden_was_cut_from_a_fallback() -> None:
    root = Path(__file__).parents[2]
    runners, store = load_runners(root / "runners"), FolderStore(root / "goldens")
    looked = 0
    for runner, case in store.cases():
        for golden in store.find(runner, case):
            identity = golden.manifest.identity
            for expert in ("transformer", "transformer_2"):
                wanted = identity.weights[f"quantization.{expert}"]
                if wanted != "bf16" and wanted in runners[runner].native_formats:
                    looked += 1
                    assert f"receipts.{expert}.{wanted}/{DEQUANTIZE}" not in identity.subject, (runner, case)
    assert looked


@pytest.mark.parametrize(("form", "outcome"), [("nvfp4", "pass"), ("bf16", "regression")])
def test_a_fused_product_counts_for_those_that_it_replaces(form: Any, outcome: str) -> None:
    modules = tuple(
        one.model_copy(update={"module": "blocks.1.attn1.to_qkv", "format": form})
        if one.module.endswith("to_q")
        else one
        for one in make_receipts().modules
    )
    receipts = make_receipts().model_copy(update={"modules": modules})
    verdict, _ = observe(make_evidence(generation=make_generation(receipts=receipts)), "cpu")
    assert verdict.outcome.value == outcome
