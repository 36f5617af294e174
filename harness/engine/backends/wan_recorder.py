"""Record a WanPipeline's denoising: the inputs, expert and guidance of each step."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

import torch

from harness.engine.backend import Emit
from harness.engine.backends.wan_condition import ConditionWatch
from harness.engine.backends.wan_received import (
    Pass,
    Texts,
    call_facts,
    combination_error,
    finite,
    fit,
    guidance,
    passes,
)
from harness.engine.observed import FloatRange, numbers, repeated_frames, text_facts
from harness.engine.sketch import sketch
from harness.frames.clip import Clip
from harness.records.base import Json
from harness.records.generation import Alone, Expert, FloatStats, ModelCall, Step

KEPT = 0.02
"""Relative error up to which predictions make a velocity: a combination in bfloat16 is about .005 off."""


class Recorder:
    """Collects the trace of one generation. Does not change the pipeline's arithmetic."""

    def __init__(
        self,
        pipe: Any,
        steps: int,
        emit: Emit,
        initial: torch.Tensor | None = None,
        condition: ConditionWatch | None = None,
    ) -> None:
        """Prepare to watch ``pipe`` for ``steps`` steps; ``initial`` are the latents passed to it."""
        self._condition = condition
        self._pipe, self._count, self._emit = pipe, steps, emit
        self._passes: list[Pass] = []
        self._earlier: tuple[int, list[Pass]] = (0, [])
        self._expert = "transformer"
        self._carried = initial
        self._texts = Texts()
        self._rope: dict[Expert, tuple[float, ...]] = {}
        self.alone = Alone()
        self.repeated_frames = 0
        self.sigmas: tuple[float, ...] = ()
        self.timesteps: tuple[float, ...] = ()
        self.vae_input_error: float | None = None
        self._last = time.perf_counter()
        self.steps: list[Step] = []
        self.text_embedding_sketch: tuple[float, ...] = ()
        self.text: dict[str, Json] = {}
        self._text_inputs: list[torch.Tensor] = []
        self._masks: list[torch.Tensor | None] = []

    @property
    def last_latents(self) -> torch.Tensor | None:
        """The result of the last step, [1, C, T, H, W], of TI2V with the given frame put in."""
        if self._carried is None or not self.steps:
            return None
        return self._carried if self._condition is None else self._condition.carried(self._carried)

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Hook the experts, the scheduler and the prompt encoder while the context lasts."""
        pipe, scheduler = self._pipe, self._pipe.scheduler
        handles = [
            getattr(pipe, role).register_forward_hook(self._expert_hook(role), with_kwargs=True)
            for role in ("transformer", "transformer_2")
            if getattr(pipe, role) is not None
        ]
        handles += [
            model.rope.register_forward_hook(self._rope_hook(role))
            for role in ("transformer", "transformer_2")
            if isinstance(getattr(model := getattr(pipe, role), "rope", None), torch.nn.Module)
        ]
        if pipe.text_encoder is not None:
            handles.append(pipe.text_encoder.register_forward_pre_hook(self._reading, with_kwargs=True))
        step, encode, vae = scheduler.step, pipe.encode_prompt, getattr(pipe, "vae", None)
        scheduler.step, pipe.encode_prompt = self._stepping(step), self._encoding(encode)
        # a method that an instance already overrides must be put back, not deleted
        decode, hidden = getattr(vae, "decode", None), vae is not None and "decode" in vars(vae)
        if vae is not None:
            vae.decode = self._decoding(decode)
        end_condition = self._condition.watch(vae) if self._condition is not None else None
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()
            # the wrappers are instance attributes that hide the class's methods; deleting them restores the methods
            del scheduler.step, pipe.encode_prompt
            if vae is not None and hidden:
                vae.decode = decode
            elif vae is not None:
                del vae.decode
            if end_condition is not None:
                end_condition()
            self.alone = self.alone.model_copy(update={"rope": self._rope})

    def _expert_hook(self, role: str) -> Any:
        def hook(_module: torch.nn.Module, inputs: tuple[Any, ...], options: dict[str, Any], output: Any) -> None:
            prediction = output[0] if isinstance(output, tuple) else output.sample
            calls = passes(role, inputs, options, prediction)
            self._passes += calls
            if self._condition is not None:
                for call in calls:
                    self._condition.received(call)

        return hook

    def _rope_hook(self, role: str) -> Any:
        def hook(_module: torch.nn.Module, _inputs: Any, output: Any) -> None:
            tables = output if isinstance(output, tuple | list) else (output,)
            if cast("Expert", role) not in self._rope:
                flat = [torch.view_as_real(table) if table.is_complex() else table for table in tables]
                whole = torch.cat([table.double().flatten() for table in flat])
                self._rope[cast("Expert", role)] = tuple(map(finite, sketch(whole)))

        return hook

    def _decoding(self, decode: Any) -> Any:
        def wrapped(latents: torch.Tensor, *arguments: Any, **options: Any) -> Any:
            config = self._pipe.vae.config
            if self._carried is not None and self.vae_input_error is None and self._carried.shape == latents.shape:
                # the correct input of the decoder: the last latents, without the normalization by the VAE's statistics
                shape = (1, -1, 1, 1, 1)
                spread = torch.tensor(config.latents_std, dtype=torch.float64, device=latents.device).view(shape)
                mean = torch.tensor(config.latents_mean, dtype=torch.float64, device=latents.device).view(shape)
                carried = self._carried if self._condition is None else self._condition.carried(self._carried)
                wanted = carried.to(latents.device).double() * spread + mean
                _, error = fit(latents[0], wanted[0])
                self.vae_input_error = error if error is not None and math.isfinite(error) else None
            return decode(latents, *arguments, **options)

        return wrapped

    def _reading(self, _module: torch.nn.Module, inputs: tuple[Any, ...], options: dict[str, Any]) -> None:
        """Take the tokenizer's output for a prompt: ids, and the mask of those that are not padding."""
        ids = inputs[0] if inputs else options.get("input_ids")
        mask = inputs[1] if len(inputs) > 1 else options.get("attention_mask")
        if isinstance(ids, torch.Tensor):
            self._text_inputs.append(ids)
            self._masks.append(mask)

    def _encoding(self, encode: Any) -> Any:
        def wrapped(*arguments: Any, **options: Any) -> Any:
            embeds = encode(*arguments, **options)
            whole = torch.cat([part.float() for part in embeds if part is not None])
            self.text_embedding_sketch = tuple(map(finite, sketch(whole)))
            self._texts = Texts(*embeds[:2])
            parts = {
                name: tuple(map(finite, sketch(part)))
                for name, part in zip(("prompt", "negative"), embeds, strict=False)
                if isinstance(part, torch.Tensor)
            }
            self.alone = self.alone.model_copy(update=parts)
            self.text = text_facts(embeds[0], self._text_inputs, self._masks)
            self._emit({"stage": "encode", "step": 1, "steps": 1, "seconds": self._lap()})
            return embeds

        return wrapped

    def _stepping(self, step: Any) -> Any:
        def wrapped(velocity: torch.Tensor, timestep: Any, latents: torch.Tensor, **options: Any) -> Any:
            if not self.steps:
                self._first(latents)
            result = step(velocity, timestep, latents, **options)
            self._record(velocity, float(timestep), latents, result[0])
            return result

        return wrapped

    def _first(self, latents: torch.Tensor) -> None:
        """Take the scheduler's settings, and check whether frames repeat the noise of the previous frame."""
        scheduler = self._pipe.scheduler
        self.sigmas, self.timesteps = (numbers(getattr(scheduler, name, None)) for name in ("sigmas", "timesteps"))
        self.repeated_frames = repeated_frames(latents)

    def _record(self, velocity: torch.Tensor, timestep: float, before: torch.Tensor, after: torch.Tensor) -> None:
        # a cache may leave out the experts for a whole step: the step is then the last expert's, without a call
        expert = cast("Expert", self._passes[-1].expert if self._passes else self._expert)
        self._expert = expert
        low = expert == "transformer_2" and self._pipe._guidance_scale_2 is not None
        calls = tuple(ModelCall(**call_facts(model_pass, self._texts, before)) for model_pass in self._passes)
        measured = guidance(velocity, self._passes, self._texts)
        error, source = self._velocity_source(velocity)
        carried = None if self._carried is None else self._carried.to(before.device)
        gain, apart = (None, None) if carried is None else fit(before[0], carried[0])
        self._carried = after
        # the sketches wait for the device, so measure the lap after them
        norm = float(after.double().norm())
        latent_sketch, velocity_sketch = sketch(after), sketch(velocity)
        record = Step(
            index=len(self.steps),
            timestep=timestep,
            expert=expert,
            guidance_scale=float(self._pipe._guidance_scale_2 if low else self._pipe._guidance_scale),
            guidance_measured=measured,
            velocity_error=error,
            velocity_of=source,
            latent_norm=finite(norm),
            latent_sketch=tuple(map(finite, latent_sketch)),
            velocity_sketch=tuple(map(finite, velocity_sketch)),
            calls=calls,
            carried_error=apart,
            carried_gain=gain,
            seconds=self._lap(),
        )
        self.steps.append(record)
        self._emit({"stage": "denoise", "step": len(self.steps), "steps": self._count, "seconds": record.seconds})

    def _velocity_source(self, velocity: torch.Tensor) -> tuple[float | None, int | None]:
        """Return the velocity's distance from this step's predictions, and the earlier step that made it, if one did.

        Only the predictions of the last step with a call are kept: a step cache reuses those.
        """
        passes, self._passes = self._passes, []
        error, source = combination_error(velocity, passes), None
        index, earlier = self._earlier
        if earlier and (error is None or error > KEPT):
            combined_error = combination_error(velocity, earlier)
            source = index if combined_error is not None and combined_error <= KEPT else None
        if passes and source is None:
            self._earlier = (len(self.steps), passes)
        return error, source

    def _lap(self) -> float:
        now = time.perf_counter()
        lap, self._last = now - self._last, now
        return lap


# Output of the decoder: its floats before they are clamped, and the frames that they are rounded to.


def rounded(video: torch.Tensor) -> Clip:
    """Round video [T, 3, H, W] in [0, 1] to a clip, bit by bit as `round_video` does, on the video's device.

    So a quarter of the bytes leaves the device, and no CPU core computes every pixel.
    """
    healthy = video.float().nan_to_num(nan=0.0, posinf=1.0, neginf=0.0).clamp_(0.0, 1.0)
    frames = healthy.mul_(255).round_().to(torch.uint8).permute(0, 2, 3, 1).contiguous()
    return Clip(frames.cpu().numpy())


class FloatWatch(FloatRange):
    """Observes the output of the VAE's decoder, before diffusers clamps and rounds it.

    ``AutoencoderKLWan`` decodes a few frames at a time and clamps their concatenation to [-1, 1], so the watch is a
    forward hook on the decoder itself.
    """

    def __init__(self) -> None:
        super().__init__()
        self._sum, self._values = 0.0, 0

    def add_finite(self, frames: torch.Tensor) -> None:
        """Sum the frames as `rounded` rounds them: otherwise the fraction of a level in a flat frame would look like a
        bias.
        """
        levels = frames.float().clamp(-1.0, 1.0).div_(2).add_(0.5).mul_(255).round_()
        self._sum += float(levels.sum(dtype=torch.float64))
        self._values += frames.numel()

    def rounding_bias(self, clip: Clip) -> float | None:
        """Return the mean of the frames' 8-bit values minus the mean of the rounded decoded values: 0, or -0.5 if the
        frames were truncated.

        ``None`` if the decoder produced another number of values than the clip has (overlapping tiles), or a NaN.
        """
        if self._values != clip.frames.size:
            return None
        bias = float(clip.frames.mean(dtype="float64")) - self._sum / self._values
        return bias if math.isfinite(bias) else None

    def stats(self) -> FloatStats:
        """Return the statistics."""
        return FloatStats(**self.facts())
