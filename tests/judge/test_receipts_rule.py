"""A case that asks for NVFP4 and runs BF16 fails, however good its frames are."""

from __future__ import annotations

from typing import Any

from harness.judge.verdict import observe
from harness.records.generation import ModuleReceipt, Receipts
from harness.records.verdict import Outcome


def swap(make: Any, **changes: Any) -> Receipts:
    first, *rest = make.receipts().modules
    return Receipts(modules=(first.model_copy(update=changes), *rest))


def cause(make: Any, receipts: Receipts, **more: Any) -> tuple[Outcome, str]:
    verdict, _ = observe(make.healthy(generation=make.generation(receipts=receipts), **more), "cpu")
    return verdict.outcome, verdict.cause


def test_one_linear_in_bf16(make: Any) -> None:
    assert cause(make, swap(make, format="bf16", kernel="linear")) == (Outcome.REGRESSION, "quantized_path_not_run")


def test_one_linear_in_another_format(make: Any) -> None:
    assert cause(make, swap(make, format="fp8")) == (Outcome.REGRESSION, "quantized_path_not_run")


def test_a_module_that_was_never_called(make: Any) -> None:
    assert cause(make, swap(make, calls=0)) == (Outcome.REGRESSION, "quantized_path_not_run")


def test_a_receipt_that_is_missing(make: Any) -> None:
    assert cause(make, Receipts(modules=make.receipts().modules[1:]))[1] == "quantized_path_not_run"


def test_no_receipts_at_all(make: Any) -> None:
    assert cause(make, Receipts(modules=())) == (Outcome.REGRESSION, "no_receipts")


def test_everything_in_bf16_without_a_promise(make: Any) -> None:
    """A checkpoint that was read as unquantized promises nothing: the case's own request still stands."""
    assert cause(make, make.receipts("bf16"), promised={})[1] == "quantized_path_not_run"


def test_bf16_that_runs_quantized(make: Any) -> None:
    case = make.case(quantization={"transformer": "bf16", "transformer_2": "nvfp4"})
    assert cause(make, make.receipts(), case=case)[1] == "unexpected_quantization"


def test_an_expert_that_no_step_used_owes_no_receipts(make: Any) -> None:
    only = [receipt for receipt in make.receipts().modules if receipt.expert == "transformer_2"]
    trace = make.trace()
    steps = tuple(step.model_copy(update={"expert": "transformer_2"}) for step in trace.steps)
    generation = make.generation(
        receipts=Receipts(modules=tuple(only)), trace=trace.model_copy(update={"steps": steps})
    )
    verdict, _ = observe(make.healthy(generation=generation), "cpu")
    assert verdict.cause == "expert"  # the trace differs from the golden's; the receipts have nothing to say


def test_a_command_backend_may_have_no_receipts(make: Any) -> None:
    case = make.case(backend="command", command=("run",))
    assert cause(make, Receipts(modules=()), case=case) == (Outcome.PASS, "none")


def test_unquantized_linears_beside_quantized_ones_are_fine(make: Any) -> None:
    extra = ModuleReceipt(expert="transformer", module="blocks.0.attn1.to_q", format="bf16", kernel="linear", calls=2)
    assert cause(make, Receipts(modules=(*make.receipts().modules, extra))) == (Outcome.PASS, "none")
