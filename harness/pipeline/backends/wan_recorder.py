"""Watches a WanPipeline denoise: what each step saw, on which expert, with which guidance."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

import torch

from harness.pipeline.backend import Emit
from harness.pipeline.sketch import sketch
from harness.records.generation import Expert, Step


class Recorder:
    """Collects the trace of one generation. The pipeline's arithmetic is left as it is."""

    def __init__(self, pipe: Any, steps: int, emit: Emit) -> None:
        self._pipe, self._count, self._emit = pipe, steps, emit
        self._predictions: list[tuple[str, torch.Tensor]] = []
        self._last = time.perf_counter()
        self.steps: list[Step] = []
        self.text_embedding_sketch: tuple[float, ...] = ()

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Hook the experts, the scheduler and the prompt encoder while the context lasts."""
        pipe, scheduler = self._pipe, self._pipe.scheduler
        handles = [
            getattr(pipe, role).register_forward_hook(self._expert_hook(role))
            for role in ("transformer", "transformer_2")
            if getattr(pipe, role) is not None
        ]
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

    def _encoding(self, encode: Any) -> Any:
        def wrapped(*arguments: Any, **options: Any) -> Any:
            embeds = encode(*arguments, **options)
            self.text_embedding_sketch = sketch(torch.cat([part.float() for part in embeds if part is not None]))
            self._emit({"stage": "encode", "step": 1, "steps": 1, "seconds": self._lap()})
            return embeds

        return wrapped

    def _stepping(self, step: Any) -> Any:
        def wrapped(velocity: torch.Tensor, timestep: Any, latents: torch.Tensor, **options: Any) -> Any:
            result = step(velocity, timestep, latents, **options)
            self._record(velocity, float(timestep), result[0])
            return result

        return wrapped

    def _record(self, velocity: torch.Tensor, timestep: float, latents: torch.Tensor) -> None:
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

    def _lap(self) -> float:
        now = time.perf_counter()
        lap, self._last = now - self._last, now
        return lap


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
