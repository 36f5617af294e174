"""Measure the real scale of attention scores, at the first call of each expert."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch.overrides import TorchFunctionMode

from harness.records.generation import Expert

PRODUCT = torch.nn.functional.scaled_dot_product_attention


class AttentionScales(TorchFunctionMode):
    """Observes ``scaled_dot_product_attention`` inside self-attention modules with query and key norms.

    Rotary embedding turns query and key and keeps their length. So the scale passed to the product, times the lengths
    that reach the product over the lengths behind the norms, is 1 / sqrt(head size), unless a factor was inserted
    anywhere between. A kernel that is not called through torch is not measured.
    """

    def __init__(self) -> None:
        super().__init__()
        self._expert: Expert | None = None
        self._norms: list[torch.Tensor] = []
        self._inside = False
        self._scales: dict[Expert, list[torch.Tensor]] = {}

    @contextmanager
    def watching(self, experts: Mapping[str, torch.nn.Module]) -> Iterator[None]:
        """Observe the first call of each of ``experts`` while the context lasts."""
        handles = []
        for expert, model in experts.items():
            handles.append(model.register_forward_pre_hook(self._enter(cast("Expert", expert))))
            handles.append(model.register_forward_hook(self._leave, always_call=True))
            for name, module in model.named_modules():
                if name.endswith("attn1"):
                    handles.append(module.register_forward_pre_hook(self._begin))
                    handles.append(module.register_forward_hook(self._end, always_call=True))
                elif name.endswith(("attn1.norm_q", "attn1.norm_k")):
                    handles.append(module.register_forward_hook(self._norm))
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def worst(self) -> dict[Expert, float]:
        """Return the factor relative to 1 / sqrt(head size) by expert, of the self-attention furthest from 1.

        NaN values are skipped: they carry no information about the scale, and the trace reports them separately.
        """
        values = {expert: [float(scale.detach()) for scale in scales] for expert, scales in self._scales.items()}
        finite = {expert: [value for value in row if math.isfinite(value)] for expert, row in values.items()}
        return {expert: max(row, key=lambda value: abs(value - 1.0)) for expert, row in finite.items() if row}

    def _enter(self, expert: Expert) -> Any:
        def hook(_module: torch.nn.Module, _inputs: Any) -> None:
            if expert not in self._scales:
                self._scales[expert] = []
                self._expert = expert

        return hook

    def _leave(self, *_: Any) -> None:
        self._expert = None

    def _begin(self, _module: torch.nn.Module, _inputs: Any) -> None:
        if self._expert is not None and not self._inside:
            self._norms, self._inside = [], True
            self.__enter__()  # type: ignore[no-untyped-call]

    def _end(self, *_: Any) -> None:
        if self._inside:
            self._inside = False
            self.__exit__(None, None, None)  # type: ignore[no-untyped-call]

    def _norm(self, _module: torch.nn.Module, _inputs: Any, output: torch.Tensor) -> None:
        if self._inside:
            self._norms.append(output.double().norm())

    def __torch_function__(
        self, function: Any, _types: Any, arguments: tuple[Any, ...] = (), options: dict[str, Any] | None = None
    ) -> Any:
        """Call ``function`` unchanged, and take its scale if it is the attention product."""
        options = options or {}
        # two norms, of query and key: otherwise the lengths cannot be compared
        if function is PRODUCT and self._expert is not None and len(self._norms) == 2:
            query, key = (
                arguments[place] if len(arguments) > place else options[name]
                for place, name in enumerate(("query", "key"))
            )
            scale = options.get("scale")
            # torch's default scale is 1 / sqrt(head size), which is factor 1
            factor = 1.0 if scale is None else float(scale) * float(query.shape[-1]) ** 0.5
            length = query.double().norm() * key.double().norm() / (self._norms[0] * self._norms[1])
            self._scales[self._expert].append(length * factor)
        return function(*arguments, **options)
