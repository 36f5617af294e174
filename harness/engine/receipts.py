"""Receipts: records of each multiplication, written at its place by the module that multiplies."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch.utils.hooks import RemovableHandle

from harness.engine.quantized.linear import QuantizedLinear, ReceiptHandle
from harness.records.generation import Expert, ModuleReceipt, Receipts

_FORMATS = {torch.bfloat16: "bf16", torch.float16: "fp16", torch.float32: "fp32"}


class ReceiptBook:
    """Counts calls by (expert, module, format, kernel, note, fallback)."""

    def __init__(self) -> None:
        self._calls: Counter[tuple[str, str, str, str, str, str]] = Counter()

    def write(self, expert: str, module: str, form: str, kernel: str, note: str = "", fallback: str = "") -> None:
        """Count one call. Call this only from inside a forward."""
        self._calls[expert, module, form, kernel, note, fallback] += 1

    def receipts(self) -> Receipts:
        """Return all receipts written so far, in a stable order."""
        return Receipts(
            modules=tuple(
                ModuleReceipt(
                    expert=cast("Expert", expert),
                    module=module,
                    format=cast("Any", form),
                    kernel=kernel,
                    calls=calls,
                    note=note,
                    fallback=cast("Any", fallback),
                )
                for (expert, module, form, kernel, note, fallback), calls in sorted(self._calls.items())
            )
        )


@contextmanager
def keep_receipts(experts: dict[str, torch.nn.Module]) -> Iterator[ReceiptBook]:
    """Make every Linear of ``experts`` write its receipts while the context lasts.

    The modules are looked up each time, so that a Linear that was replaced after the load is recorded as it is now.

    Args:
        experts: module by expert name.
    """
    book = ReceiptBook()
    handles: list[ReceiptHandle | RemovableHandle] = []
    for expert, model in experts.items():
        for name, module in model.named_modules():
            if isinstance(module, QuantizedLinear):
                handles.append(module.register_receipts(_writer(book, expert, name)))
            elif isinstance(module, torch.nn.Linear):
                handles.append(module.register_forward_hook(_hook(book, expert, name)))
    try:
        yield book
    finally:
        for handle in handles:
            handle.remove()


def _writer(book: ReceiptBook, expert: str, name: str) -> Any:
    def write(form: str, kernel: str, note: str, fallback: str) -> None:
        book.write(expert, name, form, kernel, note, fallback)

    return write


def _hook(book: ReceiptBook, expert: str, name: str) -> Any:
    def write(module: torch.nn.Module, _inputs: Any, _output: Any) -> None:
        dtype = cast("torch.Tensor", module.weight).dtype
        book.write(expert, name, _FORMATS.get(dtype, str(dtype)), "linear")

    return write
