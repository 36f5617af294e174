"""Another implementation of Wan2.2's denoising loop, with the places at which runtimes differ."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import torch

from benchmarks.unseen.patch import Patch

Tensor = torch.Tensor


def _same(value: Any, *_: Any) -> Any:
    return value


def two_passes(model: Any, latents: Tensor, timestep: Tensor, positive: Tensor, negative: Tensor) -> list[Tensor]:
    """Velocities [1, C, T, H, W] with and without the prompt, one call after the other, as diffusers does."""
    return [
        model(hidden_states=latents, timestep=timestep, encoder_hidden_states=text, return_dict=False)[0]
        for text in (positive, negative)
    ]


def guided(positive: Tensor, negative: Tensor, scale: float, _index: int) -> Tensor:
    """Classifier-free guidance: ``u + g (c - u)``."""
    return negative + scale * (positive - negative)


def plain_decode(pipe: Any, latents: Tensor) -> Tensor:
    """Frames [1, 3, T, H, W] in [-1, 1] of normalised latents."""
    mean, spread = statistics(pipe)
    return decoded(pipe, latents / (1.0 / spread) + mean)


def statistics(pipe: Any) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of the VAE's latents, [1, C, 1, 1, 1] each."""
    config, dtype = pipe.vae.config, pipe.vae.dtype
    mean, spread = (
        torch.tensor(row).view(1, -1, 1, 1, 1).to(dtype) for row in (config.latents_mean, config.latents_std)
    )
    return mean, spread


def decoded(pipe: Any, latents: Tensor) -> Tensor:
    """What the VAE makes of latents in its own units."""
    video: Tensor = pipe.vae.decode(latents.to(pipe.vae.dtype), return_dict=False)[0]
    return video


@dataclass
class Loop:
    """What happens at each place; by default what diffusers does, to the bit."""

    texts: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]] = lambda positive, negative: (positive, negative)
    initial: Callable[[Tensor], Tensor] = _same
    timestep: Callable[[Tensor, int], Tensor] = _same
    fed: Callable[[Tensor, int], Tensor] = _same
    """Of the latents, just before the experts get them."""
    expert: Callable[[Any, int], Any] = _same
    predict: Callable[[Any, Tensor, Tensor, Tensor, Tensor], list[Tensor]] = two_passes
    combine: Callable[[Tensor, Tensor, float, int], Tensor] = guided
    after: Callable[[Tensor, int], Tensor] = _same
    last: Callable[[Tensor], Tensor] = _same
    decode: Callable[[Any, Tensor], Tensor] = plain_decode
    shown: Callable[[Tensor], Tensor] = _same
    """Of the frames [T, 3, H, W] in [0, 1]."""

    def install(self, patch: Patch) -> None:
        """Run the pipeline in this way until the call ends."""
        patch.override(patch.pipe, "__call__", lambda original, **asked: self.run(original.__self__, **asked))

    def run(self, pipe: Any, **asked: Any) -> Any:
        """One video; the arguments are those of ``WanPipeline``."""
        pipe._guidance_scale, pipe._guidance_scale_2 = asked["guidance_scale"], asked["guidance_scale_2"]
        pipe._interrupt, pipe._attention_kwargs = False, None
        positive, negative = pipe.encode_prompt(
            prompt=asked["prompt"],
            negative_prompt=asked["negative_prompt"],
            do_classifier_free_guidance=True,
            max_sequence_length=asked["max_sequence_length"],
            device=torch.device("cpu"),
        )
        dtype = pipe.transformer.dtype
        positive, negative = self.texts(positive.to(dtype), negative.to(dtype))
        pipe.scheduler.set_timesteps(asked["num_inference_steps"], device="cpu")
        timesteps = pipe.scheduler.timesteps
        pipe._num_timesteps = len(timesteps)
        latents = self.initial(asked["latents"].to(torch.float32))
        pipe.scheduler.set_begin_index(0)
        boundary = pipe.config.boundary_ratio * pipe.scheduler.config.num_train_timesteps
        for index, moment in enumerate(timesteps):
            pipe._current_timestep = moment
            high = bool(moment >= boundary)
            model = self.expert(pipe.transformer if high else pipe.transformer_2, index)
            scale = asked["guidance_scale"] if high else asked["guidance_scale_2"]
            given = self.timestep(moment, index).expand(latents.shape[0])
            fed = self.fed(latents, index).to(dtype)
            with_text, without = self.predict(model, fed, given, positive, negative)
            velocity = self.combine(with_text, without, scale, index)
            latents = pipe.scheduler.step(velocity, moment, latents, return_dict=False)[0]
            latents = self.after(latents, index)
        pipe._current_timestep = None
        latents = self.last(latents)
        if asked["output_type"] == "latent":
            return SimpleNamespace(frames=latents)
        video = self.decode(pipe, latents.to(dtype=pipe.vae.dtype))
        frames = pipe.video_processor.postprocess_video(video, output_type="pt")
        return SimpleNamespace(frames=[self.shown(frames[0])])
