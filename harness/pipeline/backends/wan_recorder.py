"""Watches a WanPipeline denoise: what each step saw, on which expert, with which guidance."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast

import torch

from harness.pipeline.backend import Emit
from harness.pipeline.sketch import sketch
from harness.records.base import Json
from harness.records.generation import Expert, Step


@dataclass(frozen=True, eq=False)
class Moment:
    """One finished denoising step, with its tensors, for whoever wants more than the trace holds."""

    index: int
    timestep: float
    expert: Expert
    latents_before: torch.Tensor
    """[1, C, T, H, W], float32: what the expert was fed (after a cast to its dtype)."""
    velocity: torch.Tensor
    """[1, C, T, H, W]: the prediction after guidance."""
    latents_after: torch.Tensor


Observer = Callable[[Moment], None]
"""Looks at a step. It must leave the tensors as they are."""


class Recorder:
    """Collects the trace of one generation. The pipeline's arithmetic is left as it is."""

    def __init__(self, pipe: Any, steps: int, emit: Emit, observers: Sequence[Observer] = ()) -> None:
        self._pipe, self._count, self._emit, self._observers = pipe, steps, emit, tuple(observers)
        self._predictions: list[tuple[str, torch.Tensor]] = []
        self._last = time.perf_counter()
        self.steps: list[Step] = []
        self.text_embedding_sketch: tuple[float, ...] = ()
        self.text: dict[str, Json] = {}
        self._text_inputs: list[torch.Tensor] = []
        self._masks: list[torch.Tensor | None] = []

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Hook the experts, the scheduler and the prompt encoder while the context lasts."""
        pipe, scheduler = self._pipe, self._pipe.scheduler
        handles = [
            getattr(pipe, role).register_forward_hook(self._expert_hook(role))
            for role in ("transformer", "transformer_2")
            if getattr(pipe, role) is not None
        ]
        if pipe.text_encoder is not None:
            handles.append(pipe.text_encoder.register_forward_pre_hook(self._reading, with_kwargs=True))
        step, encode = scheduler.step, pipe.encode_prompt
        scheduler.step, pipe.encode_prompt = self._stepping(step), self._encoding(encode)
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()
            # The wrappers hide methods of the classes; taking them away uncovers those.
            del scheduler.step, pipe.encode_prompt

    def _expert_hook(self, role: str) -> Any:
        def hook(_module: torch.nn.Module, _inputs: Any, output: Any) -> None:
            self._predictions.append((role, output[0] if isinstance(output, tuple) else output.sample))

        return hook

    def _reading(self, _module: torch.nn.Module, inputs: tuple[Any, ...], options: dict[str, Any]) -> None:
        """Take what the tokenizer made of a prompt: ids, and which of them are not padding."""
        ids = inputs[0] if inputs else options.get("input_ids")
        mask = inputs[1] if len(inputs) > 1 else options.get("attention_mask")
        if isinstance(ids, torch.Tensor):
            self._text_inputs.append(ids)
            self._masks.append(mask)

    def _encoding(self, encode: Any) -> Any:
        def wrapped(*arguments: Any, **options: Any) -> Any:
            embeds = encode(*arguments, **options)
            whole = torch.cat([part.float() for part in embeds if part is not None])
            self.text_embedding_sketch = tuple(map(_finite, sketch(whole)))
            self.text = _text_facts(embeds[0], self._text_inputs, self._masks)
            self._emit({"stage": "encode", "step": 1, "steps": 1, "seconds": self._lap()})
            return embeds

        return wrapped

    def _stepping(self, step: Any) -> Any:
        def wrapped(velocity: torch.Tensor, timestep: Any, latents: torch.Tensor, **options: Any) -> Any:
            result = step(velocity, timestep, latents, **options)
            expert = self._record(velocity, float(timestep), result[0])
            for observer in self._observers:
                observer(Moment(len(self.steps) - 1, float(timestep), expert, latents, velocity, result[0]))
            return result

        return wrapped

    def _record(self, velocity: torch.Tensor, timestep: float, latents: torch.Tensor) -> Expert:
        expert = cast("Expert", self._predictions[-1][0])
        low = expert == "transformer_2" and self._pipe._guidance_scale_2 is not None
        measured = _guidance(velocity, [prediction for _, prediction in self._predictions])
        self._predictions.clear()
        # The sketches wait for the device, so the lap is measured after them.
        norm = float(latents.double().norm())
        latent_sketch, velocity_sketch = sketch(latents), sketch(velocity)
        record = Step(
            index=len(self.steps),
            timestep=timestep,
            expert=expert,
            guidance_scale=float(self._pipe._guidance_scale_2 if low else self._pipe._guidance_scale),
            guidance_measured=measured,
            latent_norm=_finite(norm),
            latent_sketch=tuple(map(_finite, latent_sketch)),
            velocity_sketch=tuple(map(_finite, velocity_sketch)),
            seconds=self._lap(),
        )
        self.steps.append(record)
        self._emit({"stage": "denoise", "step": len(self.steps), "steps": self._count, "seconds": record.seconds})
        return expert

    def _lap(self) -> float:
        now = time.perf_counter()
        lap, self._last = now - self._last, now
        return lap


def _text_facts(embeds: Any, ids: list[torch.Tensor], masks: list[torch.Tensor | None]) -> dict[str, Json]:
    """What the prompt became, as exact facts: length and dtype of the embedding, digests of tokens and mask."""
    if not isinstance(embeds, torch.Tensor):
        return {}
    return {
        "length": embeds.shape[1],
        "dtype": str(embeds.dtype).removeprefix("torch."),
        "tokens": _digest(ids),
        "mask": _digest([torch.zeros(0) if mask is None else mask for mask in masks]),
    }


def _digest(parts: list[torch.Tensor]) -> str:
    """16 hex digits of sha256 over the values without trailing zeros (padding), which a longer limit only adds to."""
    digest = hashlib.sha256()
    for part in parts:
        for row in part.reshape(-1, part.shape[-1]).to(device="cpu", dtype=torch.int64).tolist():
            while row and row[-1] == 0:
                row.pop()
            digest.update(repr(row).encode())
    return digest.hexdigest()[:16]


def _guidance(velocity: torch.Tensor, predictions: list[torch.Tensor]) -> float | None:
    """The scale g that best explains ``v = u + g (c - u)``, by least squares over all values; 4 decimals.

    ``None`` without an unconditional prediction, or where it equals the conditional one.
    """
    if len(predictions) != 2:
        return None
    conditional, unconditional = (prediction.double() for prediction in predictions)
    direction = conditional - unconditional
    length = float((direction * direction).sum())
    if not 0 < length < float("inf"):
        return None
    return _finite(round(float(((velocity.double() - unconditional) * direction).sum()) / length, 4))


def _finite(value: float) -> float:
    """NaN and infinities as the largest float: records are JSON, and what broke is told by the float statistics."""
    return value if abs(value) <= 1e300 else 1e300
