"""Faults of a picture's way to the model: in what a pipeline prepares, and in what its experts are given."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import torch

Patch = Callable[[Any], Any]
"""Takes a loaded pipeline, and gives a context in which it has the fault."""
Prepared = tuple[torch.Tensor, ...]


@dataclass(frozen=True)
class Conditioning:
    """One fault: in which models it can be, how it is made, and what must be said of it."""

    models: tuple[str, ...]
    patch: Patch
    place: str
    """Of the finding: ``pixels``, ``latents``, ``mask``, ``between steps``."""
    words: str
    """What its sentence must hold."""


@contextmanager
def replaced(holder: Any, name: str, make: Callable[[Any], Any]) -> Iterator[None]:
    """Hide a method of ``holder`` behind another one while the context lasts."""
    setattr(holder, name, make(getattr(holder, name)))
    try:
        yield
    finally:
        delattr(holder, name)


def pixels(change: Callable[[torch.Tensor], torch.Tensor]) -> Patch:
    """Change what the pipeline makes of the picture, [1, 3, H, W] in -1..1."""

    def patch(pipe: Any) -> Any:
        return replaced(pipe.video_processor, "preprocess", lambda old: lambda *a, **k: change(old(*a, **k)))

    return patch


def prepared(change: Callable[[Any, Prepared], Prepared]) -> Patch:
    """Change noise, condition and (TI2V) mask as the pipeline prepares them."""

    def patch(pipe: Any) -> Any:
        return replaced(pipe, "prepare_latents", lambda old: lambda *a, **k: change(pipe, old(*a, **k)))

    return patch


def joined(change: Callable[[Any, torch.Tensor, torch.Tensor], tuple[torch.Tensor, torch.Tensor]]) -> Patch:
    """Change I2V's mask [1, 4, T, H, W] and image latents [1, 16, T, H, W] before they are joined."""

    def both(pipe: Any, out: Prepared) -> Prepared:
        return out[0], torch.cat(change(pipe, out[1][:, :4], out[1][:, 4:]), 1)

    return prepared(both)


def unnormalised(pipe: Any, latents: torch.Tensor) -> torch.Tensor:
    """Latents as the VAE gives them, before its statistics."""
    shape = (1, -1, 1, 1, 1)
    mean = torch.tensor(pipe.vae.config.latents_mean, device=latents.device).view(shape)
    return latents * torch.tensor(pipe.vae.config.latents_std, device=latents.device).view(shape) + mean


def coarse(image: torch.Tensor) -> torch.Tensor:
    """Another resize: half the size and back, one pixel aside."""
    size = [image.shape[-2] // 2, image.shape[-1] // 2]
    small = torch.nn.functional.interpolate(image, size=size, mode="nearest")
    whole: torch.Tensor = torch.nn.functional.interpolate(small.roll(1, 3), size=image.shape[-2:], mode="bilinear")
    return whole


@contextmanager
def forgotten(pipe: Any) -> Iterator[None]:
    """The condition is lost when the low-noise expert takes over."""

    def hook(_module: Any, arguments: Any, options: dict[str, Any]) -> Any:
        noise, condition = options["hidden_states"][:, :16], options["hidden_states"][:, 16:]
        return arguments, {**options, "hidden_states": torch.cat([noise, condition * 0], 1)}

    handle = pipe.transformer_2.register_forward_pre_hook(hook, with_kwargs=True)
    try:
        yield
    finally:
        handle.remove()


BOTH, I2V, TI2V = ("i2v", "ti2v"), ("i2v",), ("ti2v",)
CONDITIONING: dict[str, Conditioning] = {
    "resized otherwise": Conditioning(BOTH, pixels(coarse), "pixels", "resized or cropped otherwise"),
    "range 0..1": Conditioning(BOTH, pixels(lambda x: (x + 1) / 2), "pixels", "0..1"),
    "BGR": Conditioning(BOTH, pixels(lambda x: x.flip(1)), "pixels", "red and blue"),
    "mirrored": Conditioning(BOTH, pixels(lambda x: x.flip(3)), "pixels", "mirrored"),
    "lost before the VAE": Conditioning(BOTH, pixels(torch.zeros_like), "pixels", "the image is lost"),
    "not normalised": Conditioning(
        I2V, joined(lambda pipe, mask, image: (mask, unnormalised(pipe, image))), "latents",
        "mean and standard deviation are left out",
    ),
    "lost after the VAE": Conditioning(
        I2V, joined(lambda _, mask, image: (mask, image * 0)), "latents", "the image is lost"
    ),
    "inverted mask": Conditioning(I2V, joined(lambda _, mask, image: (1 - mask, image)), "mask", "inverted"),
    "mask behind the latents": Conditioning(I2V, joined(lambda _, mask, image: (image, mask)), "mask", "exchanged"),
    "forgotten between steps": Conditioning(I2V, forgotten, "between steps", "changes between steps"),
    "first frame not normalised": Conditioning(
        TI2V, prepared(lambda pipe, out: (out[0], unnormalised(pipe, out[1]), out[2])), "latents",
        "mean and standard deviation are left out",
    ),
    "first frame lost after the VAE": Conditioning(
        TI2V, prepared(lambda _, out: (out[0], out[1] * 0, out[2])), "latents", "the image is lost"
    ),
    "first frame not clean": Conditioning(
        TI2V, prepared(lambda _, out: (out[0], out[1], torch.ones_like(out[2]))), "mask",
        "no frame is marked as clean",
    ),
}  # fmt: skip


def alters(fault: Conditioning, picture: torch.Tensor) -> bool:
    """Return whether a fault changes anything for this picture, [1, 3, H, W] in -1..1.

    In a picture whose red and blue are equal nobody can exchange them. Faults behind the pixels always count.
    """
    if fault.place != "pixels":
        return True
    pipe = SimpleNamespace(video_processor=SimpleNamespace(preprocess=lambda: picture))
    with fault.patch(pipe):
        return not torch.equal(pipe.video_processor.preprocess(), picture)
