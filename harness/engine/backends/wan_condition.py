"""Check how a picture reached the model: the encoded pixels, and the mask and latents that the experts received.

Each stage is compared with the correct output of the stage before, computed here from the picture and from the VAE's
own output. So a difference has a place, and simple mistakes (another range of values, exchanged channels, missing
statistics, an inverted mask, a picture that never arrived) are recognized by trying them.

Source of the rules: diffusers, pipelines/wan. I2V-A14B: 4 mask channels (one per frame that a latent frame represents,
1 if a frame is given) and the encoded video, grey except for the given frames, follow the noisy latents. TI2V-5B:
the first latent frame is the encoded picture itself, and its tokens have timestep 0.

The code needs numpy and torch only, since the sglang backend runs it under the runtime's own interpreter.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from harness.engine.backends.wan_received import Pass, finite
from harness.engine.sketch import sketch

if TYPE_CHECKING:
    from PIL.Image import Image

LIKE = 0.02
"""Largest relative distance at which a mistake, made on purpose, explains a wrong value."""
SAME = 0.008
"""Relative distance up to which values count as equal: four times the error of a cast to bfloat16, as in the judge."""


class ConditionWatch:
    """Collects the conditioning of one generation. Inactive without pictures.

    Args:
        pipe: has ``vae`` with ``config`` (``z_dim``, ``latents_mean``, ``latents_std``), ``vae_scale_factor_temporal``,
            and ``config``, a mapping with ``expand_timesteps``.
        pictures: the decoded pictures by role, RGB, in the size of the video.
        frames: number of frames of the video.
    """

    def __init__(self, pipe: Any, pictures: Mapping[str, Image], frames: int) -> None:
        self._vae, self._frames = pipe.vae, frames
        self._per_latent = int(getattr(pipe, "vae_scale_factor_temporal", 4))
        self._expand = bool(pipe.config.get("expand_timesteps", False))
        self._pictures = {role: _pixels(picture) for role, picture in pictures.items()}
        self._pixels: dict[str, tuple[float, str]] = {}
        self._others = 0.0
        self._mode: torch.Tensor | None = None
        self._expected_latents: torch.Tensor | None = None
        self._encoder: tuple[float, ...] = ()
        self._first_condition: torch.Tensor | None = None
        self._latents: tuple[float | None, str] = (None, "")
        self._mask: tuple[float | None, str] = (None, "")
        self._sketch: tuple[float, ...] = ()
        self._drift = 0.0

    @property
    def active(self) -> bool:
        """Return whether the request has a picture."""
        return bool(self._pictures)

    def watch(self, vae: Any) -> Callable[[], None]:
        """Take every call of ``vae.encode`` until the returned function is called. Without pictures nothing is done."""
        if vae is None or not self.active:
            return lambda: None
        hidden, encode = vars(vae).get("encode"), vae.encode

        def wrapped(video: torch.Tensor, *arguments: Any, **options: Any) -> Any:
            answer = encode(video, *arguments, **options)
            self.encoded(video, answer)
            return answer

        def end() -> None:
            # the wrapper is an instance attribute that hides the class's method; deleting it restores the method
            if hidden is None:
                del vae.encode
            else:
                vae.encode = hidden

        vae.encode = wrapped
        return end

    def encoded(self, video: torch.Tensor, answer: Any) -> None:
        """Take a call of the VAE's encoder: its input [1, 3, T, H, W] and its output. Only the first call counts."""
        if not self.active or self._mode is not None:
            return
        places = {"image": 0, "last_image": video.shape[2] - 1}
        for role, picture in self._pictures.items():
            self._pixels[role] = _explain_pixels(video[0, :, places[role]].float().cpu(), picture)
        # all other frames of an I2V request must be grey, which is 0 in [-1, 1]
        grey = [index for index in range(video.shape[2]) if index not in {places[role] for role in self._pictures}]
        self._others = finite(float(video[0, :, grey].float().square().mean().sqrt())) if grey else 0.0
        distribution: Any = getattr(answer, "latent_dist", answer[0] if isinstance(answer, tuple) else answer)
        # Wan's pipelines condition on the mode, which needs no random numbers
        mode = distribution.mode() if hasattr(distribution, "mode") else None
        if isinstance(mode, torch.Tensor):
            self._mode = mode[0].detach().double().cpu()
            self._encoder = tuple(map(finite, sketch(self._mode)))
            mean, spread = self._statistics()
            self._expected_latents = (self._mode - mean) / spread

    def received(self, call: Pass) -> None:
        """Take one pass of an expert."""
        if not self.active or call.latents is None:
            return
        size = int(self._vae.config.z_dim)
        if self._expand:
            self._take(call.latents[:, :1], _frames_mask(call, call.latents.shape[1]), first_only=True)
        else:
            self._take(call.latents[size:], None, first_only=False)

    def carried(self, latents: torch.Tensor) -> torch.Tensor:
        """Return the latents [1, C, T, H, W] that the decoder must get: with TI2V's clean first frame put back."""
        if not (self.active and self._expand) or self._expected_latents is None:
            return latents
        first = self._expected_latents[:, :1].to(latents.device, latents.dtype)
        if first.shape[2:] != latents.shape[3:]:
            return latents
        return torch.cat([first[None], latents[:, :, 1:]], dim=2)

    def facts(self) -> dict[str, Any] | None:
        """Return the fields of ``harness.records.generation.Condition``; ``None`` without a picture."""
        if not self.active:
            return None
        return {
            "kind": "first_frame" if self._expand else "channels",
            "encoded": self._mode is not None,
            "pixels_error": {role: error for role, (error, _) in self._pixels.items()},
            "pixels_cause": {role: cause for role, (_, cause) in self._pixels.items() if cause},
            "other_frames": self._others,
            "encoder": self._encoder,
            "latents_error": self._latents[0],
            "latents_cause": self._latents[1],
            "mask_error": self._mask[0],
            "mask_cause": self._mask[1],
            "given": self._sketch,
            "drift": self._drift,
        }

    def _statistics(self) -> tuple[torch.Tensor, torch.Tensor]:
        config = self._vae.config
        shape = (-1, 1, 1, 1)
        mean = torch.tensor(config.latents_mean, dtype=torch.float64).view(shape)
        return mean, torch.tensor(config.latents_std, dtype=torch.float64).view(shape)

    def _take(self, condition: torch.Tensor, mask: torch.Tensor | None, *, first_only: bool) -> None:
        values = condition.detach().double().cpu()
        whole = values if mask is None else torch.cat([values.flatten(), mask.double()])
        # the first pass is compared in full; later passes must get the same values, so only their distance is kept
        if self._first_condition is not None:
            if whole.shape == self._first_condition.shape:
                self._drift = max(self._drift, _distance(whole, self._first_condition))
            return
        self._first_condition = whole
        self._sketch = tuple(map(finite, sketch(whole)))
        if first_only:
            self._mask = _explain_first(mask)
            self._latents = self._explain_latents(values, self._expected_latents, self._mode)
            return
        expected = self._expected_mask(values.shape[-2:])
        count = expected.shape[0]
        if self._expected_latents is not None and values.shape[0] == count + self._expected_latents.shape[0]:
            size = self._expected_latents.shape[0]
            # the mask is correct, but behind the latents: the two parts were concatenated in the wrong order
            if torch.equal(values[size:], expected) and not torch.equal(values[:count], expected):
                self._mask = (1.0, "mask and image latents are exchanged")
                self._latents = self._explain_latents(values[:size], self._expected_latents, self._mode)
                return
        self._mask = _explain_mask(values[:count], expected, self._expected_mask(values.shape[-2:], other=True))
        self._latents = self._explain_latents(values[count:], self._expected_latents, self._mode)

    def _expected_mask(self, size: torch.Size, *, other: bool = False) -> torch.Tensor:
        """Return the mask [4, T, H, W]. With ``other``, return the mask of a request with a last picture if this
        request has none, and the reverse.
        """
        frames = torch.zeros(self._frames, dtype=torch.float64)
        frames[0] = 1.0
        if ("last_image" in self._pictures) != other:
            frames[-1] = 1.0
        # the first latent frame represents one video frame, so its flag is repeated to fill the four channels
        whole = torch.cat([frames[:1].repeat(self._per_latent), frames[1:]])
        mask = whole.view(-1, self._per_latent).T
        return mask[:, :, None, None].expand(-1, -1, *size).contiguous()

    def _explain_latents(
        self, received: torch.Tensor, reference: torch.Tensor | None, mode: torch.Tensor | None
    ) -> tuple[float | None, str]:
        if reference is None or mode is None:
            return None, ""
        if received.shape != reference.shape:
            return 1.0, f"they have shape {list(received.shape)}, not {list(reference.shape)}"
        error = _distance(received, reference)
        if error <= SAME:
            return error, ""
        mean, spread = self._statistics()
        mistakes = {
            "they are zero: the image is lost": torch.zeros_like(reference),
            "the VAE's mean and standard deviation are left out": mode,
            "multiplied by the standard deviation and not divided": (mode - mean) * spread,
            "denormalised instead of normalised": mode * spread + mean,
            "the VAE's mean is left out": mode / spread,
            "the VAE's standard deviation is left out": mode - mean,
            "their sign is turned round": -reference,
            "their frames are in reverse order": reference.flip(1),
        }
        return error, _best(received, mistakes)


def _pixels(picture: Image) -> torch.Tensor:
    """Return a picture as [3, H, W] in [-1, 1]."""
    values = torch.from_numpy(np.asarray(picture, dtype=np.float32).copy())
    return values.permute(2, 0, 1) / 127.5 - 1.0


def _explain_pixels(received: torch.Tensor, reference: torch.Tensor) -> tuple[float, str]:
    if received.shape != reference.shape:
        return 1.0, f"it is {received.shape[-1]}x{received.shape[-2]}, not {reference.shape[-1]}x{reference.shape[-2]}"
    error = _distance(received, reference)
    if error <= SAME:
        return error, ""
    mistakes = {
        "it is grey: the image is lost": torch.zeros_like(reference),
        "its values lie in 0..1 and not in -1..1": (reference + 1) / 2,
        "its values lie in 0..255 and not in -1..1": (reference + 1) * 127.5,
        "red and blue are exchanged": reference.flip(0),
        "it is mirrored": reference.flip(2),
        "it is upside down": reference.flip(1),
        "its values are inverted": -reference,
    }
    return error, _best(received, mistakes) or "it was resized or cropped otherwise, or is another image"


MASK_ROUNDING = 2.0**-7
"""Largest difference of a value of the mask, which is 0 or 1, that rounding explains: a unit of BF16 at 1."""


def _explain_mask(received: torch.Tensor, reference: torch.Tensor, other: torch.Tensor) -> tuple[float, str]:
    if received.shape != reference.shape:
        return 1.0, f"it has shape {list(received.shape)}, not {list(reference.shape)}"
    apart = (received - reference).abs()
    # `<=` of all instead of `>` of any, so that NaN counts as apart
    if bool((apart <= MASK_ROUNDING).all()):
        return 0.0, ""
    mistakes = {
        "it is all zero: the image is lost": torch.zeros_like(reference),
        "it is inverted": 1 - reference,
        "it is all one": torch.ones_like(reference),
        "the last frame is marked otherwise than in the request": other,
        "its frames are in reverse order": reference.flip(1),
        "its channels are in reverse order": reference.flip(0),
    }
    # the mask of one picture is the same with its channels reversed: that is no mistake then
    others = {name: made for name, made in mistakes.items() if not torch.equal(made, reference)}
    return finite(float(apart.mean())), _best(received, others)


def _explain_first(mask: torch.Tensor | None) -> tuple[float, str]:
    """Compare ``mask`` with the correct one: per latent frame 1 if it is to be denoised (timestep above 0)."""
    if mask is None:
        return 1.0, "one timestep is given for all tokens: the first frame is not marked as clean"
    reference = torch.ones_like(mask)
    reference[0] = 0
    error = float((mask - reference).abs().mean())
    if error == 0:
        return 0.0, ""
    if bool((mask == 1).all()):
        return finite(error), "no frame is marked as clean: the image is lost"
    return finite(error), "it is inverted" if torch.equal(mask, 1 - reference) else "other frames are marked as clean"


def _frames_mask(call: Pass, frames: int) -> torch.Tensor | None:
    """Return 1 per latent frame, or 0 if all its tokens have timestep 0; ``None`` with one timestep for all."""
    tokens = call.timesteps
    if tokens is None or tokens.numel() % frames:
        return None
    return (tokens.reshape(frames, -1) != 0).any(dim=1).double().cpu()


def _best(received: torch.Tensor, mistakes: Mapping[str, torch.Tensor]) -> str:
    """Return the mistake that results in ``received``; empty if none does."""
    errors = {name: _distance(received, made) for name, made in mistakes.items()}
    name = min(errors, key=lambda key: errors[key])
    return name if errors[name] <= LIKE else ""


def _distance(received: torch.Tensor, reference: torch.Tensor) -> float:
    """Return the relative L2 distance; for a reference of zeros the root mean square of ``received``."""
    values, expected = received.double(), reference.double()
    length = float(expected.square().sum())
    if length == 0:
        return finite(float(values.square().mean().sqrt()))
    return finite(float(((values - expected).square().sum() / length).sqrt()))
