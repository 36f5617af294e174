# mypy: disable-error-code="no-untyped-call"
"""Stage 1: the VAE. Reconstruction of drawn videos; afterwards the latents' mean and deviation go into its config."""

from __future__ import annotations

import time
from pathlib import Path

import torch
from diffusers.models.autoencoders.autoencoder_kl_wan import patchify, unpatchify
from torch import Tensor

from tiny.build import build_vae
from tiny.draw import draw, sample_labels
from tiny.modules import Vae
from tiny.training.checkpoint import load_state, save_state
from tiny.training.loop import Schedule, log, run
from tiny.training.optimizer import Average, MuonAdamW

_PEAK_RATE = 2e-3
_KL_WEIGHT = 1e-4
_POOL = 4096


def encode(vae: Vae, video: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and log-variance [B, 16, F', H', W'] of the posterior.

    The same function as `AutoencoderKLWan.encode`, in two chunks (the first frame, all others) instead of one for
    every four frames: the convolutions are causal, so longer chunks change nothing but the number of launches.
    """
    vae.clear_cache()
    x = patchify(video, patch_size=vae.config.patch_size)
    parts = []
    for chunk in (x[:, :, :1], x[:, :, 1:]):
        vae._enc_conv_idx = [0]
        parts.append(vae.encoder(chunk, feat_cache=vae._enc_feat_map, feat_idx=vae._enc_conv_idx))
    moments = vae.quant_conv(torch.cat(parts, 2))
    vae.clear_cache()
    mean, log_variance = moments.float().chunk(2, dim=1)
    return mean, log_variance.clamp(-30, 20)


def decode(vae: Vae, latents: Tensor) -> Tensor:
    """Video [B, 3, F, H, W], NOT clamped (a clamp would stop gradients), in two chunks as in `encode`."""
    vae.clear_cache()
    x = vae.post_quant_conv(latents)
    parts = []
    for first, chunk in ((True, x[:, :, :1]), (False, x[:, :, 1:])):
        vae._conv_idx = [0]
        parts.append(vae.decoder(chunk, feat_cache=vae._feat_map, feat_idx=vae._conv_idx, first_chunk=first))
    video = unpatchify(torch.cat(parts, 2), patch_size=vae.config.patch_size)
    vae.clear_cache()
    result: Tensor = video.float()
    return result


def train(
    out: Path, device: torch.device, seconds: float, *, steps: int = 0, batch: int = 32, pool: int = _POOL,
    seed: int = 0, resume: bool = False,
) -> list[float]:  # fmt: skip
    """Trains for `seconds` (or `steps`, if given and reached first) and saves the averaged VAE to `out/vae`.

    Returns the logged losses. `out/vae_state.safetensors` holds what `resume` continues from.
    """
    torch.manual_seed(seed)
    vae = build_vae().to(device)
    schedule = Schedule(_PEAK_RATE, seconds, steps)
    generator = torch.Generator().manual_seed(seed + 1)
    videos = torch.cat(
        [draw(sample_labels(min(256, pool), generator), generator, device).half() for _ in range(max(1, pool // 256))]
    )
    log(f"vae: drew {len(videos)} videos in {schedule.used():.1f} s")

    if device.type == "cuda":
        _choose_layout(vae, videos[:batch].float())
    optimizer = MuonAdamW(vae.named_parameters(), plain=("conv_in", "conv_out", "quant_conv"))
    average = Average(vae.parameters())
    state_path = out / "vae_state.safetensors"
    if resume and state_path.exists():
        _restore(state_path, vae, optimizer, average, schedule)

    def step() -> Tensor:
        video = videos[torch.randint(len(videos), (batch,), device=device)].float()
        video = torch.where(torch.rand(batch, 1, 1, 1, 1, device=device) < 0.5, video, video.flip(2))
        with torch.autocast(device.type, torch.bfloat16, cache_enabled=False):
            mean, log_variance = encode(vae, video)
            latents = mean + torch.randn_like(mean) * (0.5 * log_variance).exp()
            output = decode(vae, latents)
        error = output - video
        divergence = 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).mean()
        loss = error.abs().mean() + 4 * error.square().mean() + _KL_WEIGHT * divergence
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss.detach()

    def checkpoint() -> None:
        tensors = {f"weight.{n}": p for n, p in vae.named_parameters()}
        tensors.update({f"mean.{i}": m for i, m in enumerate(average.mean)})
        tensors.update({f"optimizer.{n}": t for n, t in optimizer.state().items()})
        save_state(state_path, tensors, {"done": schedule.done, "used": schedule.used()})

    losses = run("vae", step, optimizer, average, schedule, checkpoint)
    average.swap()
    optimizer.zero_grad()
    _set_layout(vae, torch.contiguous_format)  # safetensors stores contiguous tensors only
    _store_statistics(vae, videos[: min(512, len(videos))])
    vae.save_pretrained(out / "vae", safe_serialization=True)
    log(f"vae: held-out PSNR {held_out_psnr(vae, 64 if device.type == 'cuda' else 8):.2f} dB")
    return losses


def _choose_layout(vae: Vae, video: Tensor) -> None:
    """Puts the 3D kernels into whichever memory layout makes forward and backward faster on this device."""
    seconds = {}
    for layout in (torch.channels_last_3d, torch.contiguous_format):
        _set_layout(vae, layout)
        for attempt in range(4):
            if attempt == 1:
                torch.cuda.synchronize()
                began = time.monotonic()
            with torch.autocast(video.device.type, torch.bfloat16, cache_enabled=False):
                decode(vae, encode(vae, video)[0]).square().mean().backward()
        torch.cuda.synchronize()
        seconds[layout] = time.monotonic() - began
        vae.zero_grad(set_to_none=True)
    best = min(seconds, key=lambda layout: seconds[layout])
    _set_layout(vae, best)
    log(f"vae: {best} is the faster layout: {', '.join(f'{k} {v / 3 * 1e3:.0f} ms' for k, v in seconds.items())}")


def _set_layout(vae: Vae, layout: torch.memory_format) -> None:
    """Must run before an optimizer or average takes hold of `parameter.data`, which this replaces."""
    for parameter in vae.parameters():
        if parameter.dim() == 5:
            parameter.data = parameter.data.contiguous(memory_format=layout)


@torch.no_grad()
def held_out_psnr(vae: Vae, count: int, seed: int = 987_654) -> float:
    """Mean PSNR in dB of `decode(encode(video).mode())`, fp32, over `count` videos never trained on (another seed)."""
    device = next(vae.parameters()).device
    generator = torch.Generator().manual_seed(seed)
    values = []
    for _ in range(count // 8):
        video = draw(sample_labels(8, generator), generator, device)
        output = vae.decode(vae.encode(video).latent_dist.mode()).sample
        error = ((output - video) / 2).square().mean(dim=(1, 2, 3, 4))
        values.append(-10 * error.log10())
    return float(torch.cat(values).mean())


@torch.no_grad()
def _store_statistics(vae: Vae, videos: Tensor) -> None:
    """Measures the latents' mean and deviation a channel and writes them into the config, where pipelines look."""
    means = torch.cat([encode(vae, chunk.float())[0] for chunk in videos.split(64)])
    mean = means.mean(dim=(0, 2, 3, 4)).tolist()
    deviation = means.std(dim=(0, 2, 3, 4)).clamp(min=1e-3).tolist()
    vae.register_to_config(latents_mean=[round(v, 6) for v in mean], latents_std=[round(v, 6) for v in deviation])


def _restore(path: Path, vae: Vae, optimizer: MuonAdamW, average: Average, schedule: Schedule) -> None:
    tensors, progress = load_state(path)
    with torch.no_grad():
        for name, parameter in vae.named_parameters():
            parameter.copy_(tensors[f"weight.{name}"])
        for index, mean in enumerate(average.mean):
            mean.copy_(tensors[f"mean.{index}"])
    optimizer.load_state({n.removeprefix("optimizer."): t for n, t in tensors.items() if n.startswith("optimizer.")})
    schedule.done, schedule.used_before = progress["done"], progress["used"]
    log(f"vae: resumed at step {schedule.done}, {schedule.used_before:.0f} s used")
