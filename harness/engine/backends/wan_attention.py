"""Measure attention at the first call of each expert: the factor on its scores, and the error of its result."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch.overrides import TorchFunctionMode

from harness.records.generation import SCALE_ROUNDING, Expert

PRODUCT = torch.nn.functional.scaled_dot_product_attention


@dataclass(frozen=True)
class _Squares:
    """Sum of the squares of some values, and how many they are."""

    sum: torch.Tensor
    count: int

    @classmethod
    def of(cls, values: torch.Tensor) -> _Squares:
        return cls(values.double().square().sum(), values.numel())

    @classmethod
    def together(cls, parts: Iterable[_Squares]) -> _Squares:
        items = list(parts)
        return cls(torch.stack([item.sum for item in items]).sum(), sum(item.count for item in items))

    def mean(self) -> torch.Tensor:
        return self.sum / self.count


class AttentionScales(TorchFunctionMode):
    """Observes ``scaled_dot_product_attention`` inside self-attention modules with query and key norms.

    Rotary embedding turns query and key and keeps their length. So the scale passed to the product, times the root
    mean squares that reach the product over those behind the norms, is 1 / sqrt(head size), unless a factor was
    inserted anywhere between. A runtime may compute the product in parts (some queries, heads or keys at a time): the
    parts of one module are taken together, and count only if they cover query and key a whole number of times. A
    kernel that is not called through torch is not measured.
    """

    def __init__(self) -> None:
        super().__init__()
        self._expert: Expert | None = None
        self._norms: list[_Squares] = []
        self._parts: list[tuple[_Squares, _Squares, float]] = []
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

    def first(self) -> dict[Expert, float]:
        """Return the factor of each expert's first self-attention, without those that are not finite."""
        values = {expert: float(scales[0].detach()) for expert, scales in self._scales.items() if scales}
        return {expert: value for expert, value in values.items() if math.isfinite(value)}

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
            self._norms, self._parts, self._inside = [], [], True
            self.__enter__()  # type: ignore[no-untyped-call]

    def _end(self, *_: Any) -> None:
        if self._inside:
            self._inside = False
            self.__exit__(None, None, None)  # type: ignore[no-untyped-call]
            if self._expert is not None and (scale := self._scale()) is not None:
                self._scales[self._expert].append(scale)

    def _scale(self) -> torch.Tensor | None:
        """Return the factor of the module that ends; ``None`` if its parts cannot be compared with its norms."""
        # two norms, of query and key: otherwise the lengths cannot be compared
        if len(self._norms) != 2 or not self._parts or len({factor for *_, factor in self._parts}) != 1:
            return None
        queries, keys, _ = zip(*self._parts, strict=True)
        wholes = [_Squares.together(queries), _Squares.together(keys)]
        if any(whole.count % norm.count for whole, norm in zip(wholes, self._norms, strict=True)):
            return None
        squares = torch.ones((), dtype=torch.float64)
        for whole, norm in zip(wholes, self._norms, strict=True):
            squares = squares.to(norm.sum.device) * (whole.mean() / norm.mean())
        return squares.sqrt() * self._parts[0][2]

    def _norm(self, _module: torch.nn.Module, _inputs: Any, output: torch.Tensor) -> None:
        if self._inside:
            self._norms.append(_Squares.of(output))

    def __torch_function__(
        self, function: Any, _types: Any, arguments: tuple[Any, ...] = (), options: dict[str, Any] | None = None
    ) -> Any:
        """Call ``function`` unchanged, and take its scale if it is the attention product."""
        options = options or {}
        if function is PRODUCT and self._expert is not None:
            query, key = (
                arguments[place] if len(arguments) > place else options[name]
                for place, name in enumerate(("query", "key"))
            )
            scale = options.get("scale")
            # torch's default scale is 1 / sqrt(head size), which is factor 1
            factor = 1.0 if scale is None else float(scale) * float(query.shape[-1]) ** 0.5
            self._parts.append((_Squares.of(query), _Squares.of(key), factor))
        return function(*arguments, **options)


QUERIES = 64
"""Query rows of a sample: attention is computed again for these only, so that long videos cost little."""
HEADS = 4


@dataclass(frozen=True)
class AttentionSample:
    """Attention computed again for some queries, compared with the result that reached the output projection."""

    scale: float
    """Least-squares factor on the scores, relative to 1 / sqrt(head size)."""
    error: float
    """Relative L2 distance of the result from attention with factor 1."""
    rest: float
    """The same distance from attention with the factor ``scale``, to first order."""


class AttentionCheck:
    """Computes the first self-attention of each expert again, in float64, from the query, key and value that it got.

    Unlike `AttentionScales`, this does not depend on the function that a runtime calls: inputs and result are taken
    from the norms of query and key, the value projection, the rotary tables, and the output projection.
    """

    def __init__(self) -> None:
        self._captured: dict[str, torch.Tensor] = {}
        self._tables: tuple[torch.Tensor, torch.Tensor] | None = None
        self._samples: dict[Expert, AttentionSample] = {}

    @property
    def samples(self) -> dict[Expert, AttentionSample]:
        """The sample per expert; an expert whose modules are not Wan's has none."""
        return dict(self._samples)

    @contextmanager
    def watching(self, experts: Mapping[str, torch.nn.Module]) -> Iterator[None]:
        """Observe the first call of each of ``experts`` while the context lasts."""
        handles = []
        for expert, model in experts.items():
            attention = next((part for name, part in model.named_modules() if name.endswith("attn1")), None)
            parts = {name: getattr(attention, name, None) for name in ("norm_q", "norm_k", "to_v", "to_out", "heads")}
            rope = getattr(model, "rope", None)
            if rope is None or any(part is None for part in parts.values()):
                continue
            role = cast("Expert", expert)
            handles.append(rope.register_forward_hook(self._turning))
            handles += [
                cast("torch.nn.Module", parts[name]).register_forward_hook(self._keep(role, name))
                for name in ("norm_q", "norm_k", "to_v")
            ]
            last = cast("Any", parts["to_out"])
            last = last[0] if isinstance(last, torch.nn.ModuleList | torch.nn.Sequential) else last
            handles.append(last.register_forward_pre_hook(self._close(role, int(cast("Any", parts["heads"])))))
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()
            self._captured, self._tables = {}, None

    def _turning(self, _module: torch.nn.Module, _inputs: Any, output: Any) -> None:
        if isinstance(output, tuple) and len(output) == 2:
            self._tables = output

    def _keep(self, expert: Expert, name: str) -> Any:
        def hook(_module: torch.nn.Module, _inputs: Any, output: Any) -> None:
            if expert not in self._samples and isinstance(output, torch.Tensor):
                self._captured[name] = output[:1]

        return hook

    def _close(self, expert: Expert, heads: int) -> Any:
        def hook(_module: torch.nn.Module, inputs: tuple[Any, ...]) -> None:
            caught, self._captured = self._captured, {}
            if expert in self._samples or len(caught) < 3 or self._tables is None:
                return
            result = inputs[0][:1] if inputs and isinstance(inputs[0], torch.Tensor) else None
            measured = sample(caught["norm_q"], caught["norm_k"], caught["to_v"], result, heads, self._tables)
            if measured is not None:
                self._samples[expert] = measured

        return hook


def sample(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    result: torch.Tensor | None,
    heads: int,
    tables: tuple[torch.Tensor, torch.Tensor],
) -> AttentionSample | None:
    """Compute attention for at most `QUERIES` queries and `HEADS` heads, and compare it with ``result``.

    Args:
        query, key: [1, S, H * D], behind their norms and before the rotary embedding.
        value: [1, S, H * D].
        result: [1, S, H * D], attention as the model computed it.
        heads: H.
        tables: rotary cosine and sine, [1, S, 1, D], each value for two neighbours of D.

    Returns:
        ``None`` if a shape does not fit or a value is not finite.
    """
    places, size = query.shape[1], query.shape[2] // max(heads, 1)
    shapes = {tuple(part.shape) for part in (query, key, value)}
    if result is None or tuple(result.shape) not in shapes or len(shapes) != 1 or tables[0].shape[-3] != places:
        return None
    chosen = torch.linspace(0, places - 1, min(QUERIES, places), device=query.device).round().long()
    cos, sin = (table.reshape(places, -1).double() for table in tables)
    q, k, v, out = (
        part[0].reshape(places, heads, size)[:, :HEADS].double().transpose(0, 1) for part in (query, key, value, result)
    )
    q, out = _turned(q, cos, sin)[:, chosen], out[:, chosen]
    scores = q @ _turned(k, cos, sin).transpose(1, 2) / math.sqrt(size)
    weights = scores.softmax(-1)
    wanted = weights @ v
    # derivative of the result by a factor on the scores, at factor 1
    slope = (weights * (scores - (weights * scores).sum(-1, keepdim=True))) @ v
    length, steep = float(wanted.square().sum()), float(slope.square().sum())
    off = out - wanted
    if not 0 < length < float("inf") or not 0 < steep < float("inf") or not bool(torch.isfinite(off).all()):
        return None
    factor = float((off * slope).sum()) / steep
    rest = off - factor * slope
    return AttentionSample(
        1.0 + factor, (float(off.square().sum()) / length) ** 0.5, (float(rest.square().sum()) / length) ** 0.5
    )


def _turned(heads: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Return [H, S, D] turned by the rotary tables [S, D], pairs of neighbours as complex numbers."""
    even, odd = heads[..., 0::2], heads[..., 1::2]
    c, s = cos[:, 0::2], sin[:, 1::2]
    return torch.stack((even * c - odd * s, even * s + odd * c), dim=-1).flatten(-2)


PURE = 0.02
"""Largest distance that a factor on the scores may leave: beyond it, attention differs in another way."""


def measured_scales(scales: AttentionScales, check: AttentionCheck) -> dict[Expert, float]:
    """Return the factor on the scores by expert: the one furthest from 1, of the called products and of the sample.

    The sample is of the first self-attention, and right whatever the runtime computes on the way. If it shows the
    factor 1 there and the product does not, the runtime changes query and key before the product (subtracts the mean
    of the keys, for example), and its products cannot be compared.
    """
    worst, first = scales.worst(), scales.first()
    for expert, attention in check.samples.items():
        if attention.rest > PURE:
            continue
        off, product = abs(attention.scale - 1.0), first.get(expert)
        changed_before = off < SCALE_ROUNDING and product is not None and abs(product - 1.0) >= SCALE_ROUNDING
        if changed_before or off > abs(worst.get(expert, 1.0) - 1.0):
            worst[expert] = attention.scale
    return worst
