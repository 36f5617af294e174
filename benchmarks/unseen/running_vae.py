"""Injections into the VAE and what feeds it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from diffusers.models.autoencoders import autoencoder_kl_wan

from benchmarks.unseen.injections import Injection, decoder_modules, loop, vae_decode
from benchmarks.unseen.loop import decoded, plain_decode, statistics
from benchmarks.unseen.patch import Patch

Tensor = torch.Tensor


def _unnormalised(pipe: Any, latents: Tensor) -> Tensor:
    return decoded(pipe, latents)


def _mean_lost(pipe: Any, latents: Tensor) -> Tensor:
    return decoded(pipe, latents * statistics(pipe)[1])


def _spread_inverted(pipe: Any, latents: Tensor) -> Tensor:
    mean, spread = statistics(pipe)
    return decoded(pipe, latents / spread + mean)


def _channels_rolled(pipe: Any, latents: Tensor) -> Tensor:
    mean, spread = statistics(pipe)
    return decoded(pipe, latents * spread.roll(1, 1) + mean.roll(1, 1))


def _plain(original: Any, latents: Tensor) -> Tensor:
    made: Tensor = original(latents, return_dict=False)[0]
    return made


def _halves(overlap: int, blend: bool) -> Callable[[Any, Tensor], Tensor]:
    """Left and right half decoded apart."""

    def change(original: Any, latents: Tensor) -> Tensor:
        half = latents.shape[-1] // 2
        left = _plain(original, latents[..., : half + overlap])
        right = _plain(original, latents[..., half - overlap :])
        edge = half * 8
        if not blend:
            return torch.cat([left[..., :edge], right[..., overlap * 8 :]], dim=-1)
        width = 2 * overlap * 8
        ramp = torch.linspace(0, 1, width)
        mixed = left[..., -width:] * (1 - ramp) + right[..., :width] * ramp
        return torch.cat([left[..., :-width], mixed, right[..., width:]], dim=-1)

    return change


def _in_time_chunks(original: Any, latents: Tensor) -> Tensor:
    """The temporal cache is dropped: every latent frame is decoded as if it were the first of two."""
    first = _plain(original, latents[:, :, :1])
    rest = [_plain(original, latents[:, :, index - 1 : index + 1])[:, :, 1:] for index in range(1, latents.shape[2])]
    return torch.cat([first, *rest], dim=2)


def _reordered(original: Any, latents: Tensor) -> Tensor:
    order = list(range(latents.shape[2]))
    first = min(2, len(order) - 2)  # frames 2 and 3, or the last two of fewer
    order[first : first + 2] = order[first : first + 2][::-1]
    return _plain(original, latents[:, :, order])


def _last_latent_repeated(original: Any, latents: Tensor) -> Tensor:
    count = latents.shape[2]
    return _plain(original, latents[:, :, [*range(count - 1), max(count - 2, 0)]])


def _cache_one_late(patch: Patch) -> None:
    """Causal convolutions read the frame before the last one from their cache."""
    plain = autoencoder_kl_wan.WanCausalConv3d.forward

    def forward(self: Any, x: Tensor, cache_x: Tensor | None = None) -> Any:
        if cache_x is not None and cache_x.shape[2] > 1:
            cache_x = torch.cat([cache_x[:, :, :1], cache_x[:, :, :-1]], dim=2)
        return plain(self, x, cache_x)

    patch.put(autoencoder_kl_wan.WanCausalConv3d, "forward", forward)


def _channels_last(patch: Patch) -> None:
    decoder = patch.pipe.vae.decoder
    for module in decoder.modules():
        if isinstance(module, torch.nn.Conv3d):
            before = module.weight.data
            module.weight.data = before.contiguous(memory_format=torch.channels_last_3d)
            patch.later(lambda module=module, before=before: setattr(module.weight, "data", before))  # type: ignore[misc]
    patch.override(
        patch.pipe.vae,
        "_decode",
        lambda original, latents, *rest, **options: original(
            latents.contiguous(memory_format=torch.channels_last_3d), *rest, **options
        ),
    )


INJECTIONS: dict[str, Injection] = {
    "vae_latents_not_denormalised": loop(decode=_unnormalised),
    "vae_mean_lost": loop(decode=_mean_lost),
    "vae_spread_inverted": loop(decode=_spread_inverted),
    "vae_statistics_rolled": loop(decode=_channels_rolled),
    "vae_halves_seam": vae_decode(_halves(0, blend=False)),
    "vae_halves_overlap_seam": vae_decode(_halves(1, blend=False)),
    "vae_time_cache_dropped": vae_decode(_in_time_chunks),
    "vae_latent_frames_exchanged": vae_decode(_reordered),
    "vae_last_latent_repeated": vae_decode(_last_latent_repeated),
    "vae_cache_one_late": _cache_one_late,
    "vae_no_nonlinearity": decoder_modules("SiLU", lambda _original, states: states.relu()),
    "vae_norm_gain": decoder_modules("WanRMS_norm", lambda original, states: original(states) * 1.03),
    "vae_attention_off": decoder_modules("WanAttentionBlock", lambda _original, states: states),
    "vae_upsample_bilinear": decoder_modules(
        "WanUpsample",
        lambda _original, states: torch.nn.functional.interpolate(states, scale_factor=2.0, mode="bilinear"),
    ),
    "vae_latents_clamped": loop(last=lambda latents: latents.clamp(-1, 1)),
    "vae_output_scaled": loop(decode=lambda pipe, latents: plain_decode(pipe, latents) * 0.9),
    "vae_latents_noisy": loop(
        last=lambda latents: latents + 0.15 * torch.randn(latents.shape, generator=torch.Generator().manual_seed(3))
    ),
    "vae_output_0_to_1": loop(decode=lambda pipe, latents: plain_decode(pipe, latents) / 2 + 0.5),
    # healthy
    "vae_channels_last": _channels_last,
    "vae_double": loop(last=lambda latents: latents.double().float()),
    "vae_ramp_blend_off": loop(decode=plain_decode),
}
