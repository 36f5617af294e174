"""Feed scheduler and VAE alone with a fixed signal, so that neither errors of the denoiser nor chaos affect them.

The scheduler gets seeded latents and seeded velocities instead of the experts' predictions; the VAE decodes a small
seeded latent. Their outputs are sketched and compared with the golden's.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load, save

from harness.engine.backends.wan_received import finite
from harness.engine.noise import initial_noise
from harness.engine.sketch import sketch
from harness.records.base import write_bytes_atomic

SHAPE = (1, 4, 2, 8, 8)
"""Latents for the scheduler. Its arithmetic is the same for every value, so a few hundred represent all."""
LATENT = (2, 6, 6)
"""Latent frames, height and width for the VAE: two frames, so that its cache between frames is used."""


def scheduler_alone(scheduler: Any, steps: int, device: torch.device) -> tuple[tuple[float, ...], ...]:
    """Make a fresh scheduler do ``steps`` steps on seeded velocities. Return a sketch of the latents after each step.

    Args:
        scheduler: a scheduler prepared for the case; it cannot be used afterwards.
        steps: denoising steps.
        device: device of its arithmetic in a generation.
    """
    scheduler.set_timesteps(steps, device=device)
    scheduler.set_begin_index(0)
    latents = initial_noise(SHAPE, 1).to(device)
    answers = []
    for index, timestep in enumerate(scheduler.timesteps):
        velocity = initial_noise(SHAPE, 2 + index).to(device)
        latents = scheduler.step(velocity, timestep, latents, return_dict=False)[0]
        answers.append(tuple(map(finite, sketch(latents))))
    return tuple(answers)


def save_latents(path: Path, latents: torch.Tensor | None) -> str:
    """Write the last latents [1, C, T, H, W] to ``path`` in float32; return the file's name, empty without latents."""
    if latents is None:
        return ""
    values = latents.detach().to(device="cpu", dtype=torch.float32).contiguous()
    write_bytes_atomic(path, save({"latents": values}))
    return path.name


def decode_latents(pipe: Any, path: Path, device: torch.device) -> torch.Tensor:
    """Decode stored latents with the pipeline's VAE, and return the video [T, 3, H, W] in [0, 1].

    The statistics are those that the VAE's configuration states, so that the pipeline's own handling stays out.

    Raises:
        ValueError: the file holds no latents of this VAE.
    """
    latents = load(path.read_bytes()).get("latents")
    config = pipe.vae.config
    if latents is None or latents.dim() != 5 or latents.shape[1] != len(config.latents_mean):
        raise ValueError(f"{path} holds no latents of this VAE")
    shape = (1, -1, 1, 1, 1)
    spread, mean = (
        torch.tensor(row, dtype=torch.float32).view(shape) for row in (config.latents_std, config.latents_mean)
    )
    scaled = (latents * spread + mean).to(device=device, dtype=pipe.vae.dtype)
    with torch.no_grad():
        video = pipe.vae.decode(scaled, return_dict=False)[0]
    frames: torch.Tensor = video[0].permute(1, 0, 2, 3).float().div(2).add(0.5)
    return frames


def vae_alone(vae: Any, device: torch.device) -> tuple[float, ...]:
    """Decode a seeded latent [1, C, 2, 6, 6] and return a sketch of the video.

    Args:
        vae: an ``AutoencoderKLWan``.
        device: device of the VAE.
    """
    latents = initial_noise((1, int(vae.config.z_dim), *LATENT), 1).to(device, vae.dtype)
    with torch.no_grad():
        video = vae.decode(latents, return_dict=False)[0]
    return tuple(map(finite, sketch(video)))
