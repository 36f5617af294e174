"""Each mistake with a request's picture has its own words, from tensors made by hand: no model runs."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from harness.engine.backends.wan_condition import ConditionWatch
from harness.engine.backends.wan_received import Pass
from harness.records.generation import Condition

FRAMES, HEIGHT, WIDTH, CHANNELS = 9, 16, 24, 4
LATENT_FRAMES, SMALL = 3, (2, 3)
MEAN, SPREAD = [0.5, -0.25, 1.0, 2.0], [2.0, 3.0, 0.5, 1.5]


def picture(seed: int = 0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8))


def pixels(image: Image.Image) -> torch.Tensor:
    """[3, H, W] in [-1, 1]."""
    return torch.from_numpy(np.asarray(image, np.float32)).permute(2, 0, 1) / 127.5 - 1


def watch(*roles: str, expand: bool = False) -> ConditionWatch:
    config = SimpleNamespace(latents_mean=MEAN, latents_std=SPREAD, z_dim=CHANNELS)
    pipe = SimpleNamespace(vae=SimpleNamespace(config=config), config={"expand_timesteps": expand})
    return ConditionWatch(pipe, {role: picture() for role in roles or ("image",)}, FRAMES)


def video(first: torch.Tensor | None = None) -> torch.Tensor:
    """The encoder's input [1, 3, T, H, W]: the picture, then grey frames."""
    out = torch.zeros(1, 3, FRAMES, HEIGHT, WIDTH)
    out[0, :, 0] = pixels(picture()) if first is None else first
    return out


MODE = torch.randn(CHANNELS, LATENT_FRAMES, *SMALL, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
COLUMN = (-1, 1, 1, 1)
NORMAL = (MODE - torch.tensor(MEAN).view(COLUMN)) / torch.tensor(SPREAD).view(COLUMN)
ANSWER = SimpleNamespace(latent_dist=SimpleNamespace(mode=lambda: MODE[None]))


def mask(*frames: int) -> torch.Tensor:
    """Diffusers' mask [4, T, H, W]: a flag per video frame, four for the first latent frame."""
    flags = torch.zeros(FRAMES, dtype=torch.float64)
    flags[list(frames)] = 1
    whole = torch.cat([flags[:1].repeat(4), flags[1:]])
    return whole.view(-1, 4).T[:, :, None, None].expand(-1, -1, *SMALL)


def seen(latents: torch.Tensor, timesteps: torch.Tensor | None = None) -> Pass:
    """One pass of an expert."""
    return Pass("transformer", latents, 999.0, None, torch.zeros_like(latents), timesteps)


def given(*parts: torch.Tensor) -> Pass:
    """A pass whose latents are noise, and behind it ``parts``."""
    noise = torch.zeros(CHANNELS, LATENT_FRAMES, *SMALL, dtype=torch.float64)
    return seen(torch.cat([noise, *parts]))


def record(one: ConditionWatch) -> Condition:
    condition = Condition.model_validate(one.facts())
    assert condition is not None
    return condition


def run(encoder: torch.Tensor, *parts: torch.Tensor) -> Condition:
    one = watch()
    one.encoded(encoder, ANSWER)
    one.received(given(*parts))
    return record(one)


def test_the_right_conditioning_has_no_words() -> None:
    condition = run(video(), mask(0), NORMAL)
    assert condition.encoded
    assert condition.pixels_error["image"] < 1e-6
    assert (condition.pixels_cause, condition.mask_error, condition.mask_cause) == ({}, 0, "")
    assert condition.latents_error == pytest.approx(0, abs=1e-6)
    assert (condition.latents_cause, condition.other_frames, condition.drift) == ("", 0, 0)


PIXELS: dict[str, Any] = {
    "it is grey: the image is lost": torch.zeros_like,
    "its values lie in 0..1 and not in -1..1": lambda x: (x + 1) / 2,
    "its values lie in 0..255 and not in -1..1": lambda x: (x + 1) * 127.5,
    "red and blue are exchanged": lambda x: x.flip(0),
    "it is mirrored": lambda x: x.flip(2),
    "it is upside down": lambda x: x.flip(1),
    "its values are inverted": lambda x: -x,
    "it was resized or cropped otherwise, or is another image": lambda _: pixels(picture(1)),
}


@pytest.mark.parametrize("words", PIXELS)
def test_each_mistake_with_the_pixels_is_named(words: str) -> None:
    condition = run(video(PIXELS[words](pixels(picture()))), mask(0), NORMAL)
    assert condition.pixels_cause == {"image": words}
    assert condition.pixels_error["image"] > 0.1


def test_pixels_of_another_size_and_frames_that_are_not_grey_are_told() -> None:
    condition = run(video()[..., :12], mask(0), NORMAL)
    assert condition.pixels_cause == {"image": "it is 12x16, not 24x16"}
    loud = video()
    loud[0, :, 4] = 0.5
    assert run(loud, mask(0), NORMAL).other_frames == pytest.approx(0.5 / 8**0.5)


LATENTS: dict[str, torch.Tensor] = {
    "they are zero: the image is lost": NORMAL * 0,
    "the VAE's mean and standard deviation are left out": MODE,
    "multiplied by the standard deviation and not divided": (
        (MODE - torch.tensor(MEAN).view(COLUMN)) * torch.tensor(SPREAD).view(COLUMN)
    ),
    "denormalised instead of normalised": MODE * torch.tensor(SPREAD).view(COLUMN) + torch.tensor(MEAN).view(COLUMN),
    "the VAE's mean is left out": MODE / torch.tensor(SPREAD).view(COLUMN),
    "the VAE's standard deviation is left out": MODE - torch.tensor(MEAN).view(COLUMN),
    "their sign is turned round": -NORMAL,
    "their frames are in reverse order": NORMAL.flip(1),
    "they have shape [3, 3, 2, 3], not [4, 3, 2, 3]": NORMAL[:3],
    "": NORMAL.flip(0),  # wrong, and none of the simple mistakes
}


@pytest.mark.parametrize("words", LATENTS)
def test_each_mistake_with_the_latents_is_named(words: str) -> None:
    condition = run(video(), mask(0), LATENTS[words])
    assert condition.latents_error is not None
    assert condition.latents_error > 0.1
    assert condition.latents_cause == words


MASKS: dict[str, torch.Tensor] = {
    "it is all zero: the image is lost": mask(0) * 0,
    "it is inverted": 1 - mask(0),
    "it is all one": torch.ones_like(mask(0)),
    "the last frame is marked otherwise than in the request": mask(0, 8),
    "its frames are in reverse order": mask(0).flip(1),
    "": mask(0, 3),
}


@pytest.mark.parametrize("words", MASKS)
def test_each_mistake_with_the_mask_is_named(words: str) -> None:
    condition = run(video(), MASKS[words], NORMAL)
    assert condition.mask_error
    assert condition.mask_cause == words


def test_a_mask_that_was_rounded_is_the_same_mask() -> None:
    """One unit of BF16: 1 becomes 1.0078, 0 the smallest number above it."""
    moved = torch.nextafter(mask(0).bfloat16(), torch.tensor(9.0).bfloat16()).double()
    assert not torch.equal(moved, mask(0))
    condition = run(video(), moved, NORMAL)
    assert (condition.mask_error, condition.mask_cause) == (0.0, "")


@pytest.mark.parametrize("value", [0.98, 1.02, float("nan"), float("inf")])
def test_a_mask_with_one_wrong_value_is_another_one(value: float) -> None:
    wrong = mask(0).clone()
    wrong[0, 0, 0, 0] = value
    condition = run(video(), wrong, NORMAL)
    assert condition.mask_error
    assert condition.mask_cause == "", "a picture's mask is the same with its channels reversed: that explains nothing"


def test_latents_of_fewer_frames_are_told_by_their_shapes() -> None:
    one = watch()
    one.encoded(video(), ANSWER)
    one.received(seen(torch.cat([NORMAL, mask(0), NORMAL])[:, :2]))
    assert record(one).mask_cause == "it has shape [4, 2, 2, 3], not [4, 3, 2, 3]"
    assert record(one).latents_cause == "they have shape [4, 2, 2, 3], not [4, 3, 2, 3]"


def test_a_mask_of_two_pictures_has_an_order_of_channels() -> None:
    one = watch("image", "last_image")
    both = video()
    both[0, :, -1] = pixels(picture())
    one.encoded(both, ANSWER)
    one.received(given(mask(0, 8).flip(0), NORMAL))
    assert record(one).mask_cause == "its channels are in reverse order"
    assert set(record(one).pixels_error) == {"image", "last_image"}


def test_mask_and_latents_in_the_wrong_order_are_one_mistake() -> None:
    condition = run(video(), NORMAL, mask(0))
    assert condition.mask_cause == "mask and image latents are exchanged"
    assert condition.latents_error == pytest.approx(0, abs=1e-6)


def test_a_later_pass_with_other_values_is_a_drift() -> None:
    one = watch()
    one.encoded(video(), ANSWER)
    for image in (NORMAL, NORMAL, NORMAL * 0):
        one.received(given(mask(0), image))
    assert record(one).drift > 0.5


FIRST: dict[str, torch.Tensor] = {
    "": torch.tensor([0.0, 999, 999]),
    "one timestep is given for all tokens: the first frame is not marked as clean": torch.tensor([999.0]),
    "no frame is marked as clean: the image is lost": torch.tensor([999.0, 999, 999]),
    "it is inverted": torch.tensor([999.0, 0, 0]),
    "other frames are marked as clean": torch.tensor([0.0, 0, 999]),
}


@pytest.mark.parametrize("words", FIRST)
def test_each_mistake_with_the_first_frame_is_named(words: str) -> None:
    """TI2V: the first latent frame is the picture, and its tokens have timestep 0."""
    one = watch(expand=True)
    one.encoded(video()[:, :, :1], SimpleNamespace(latent_dist=SimpleNamespace(mode=lambda: MODE[None, :, :1])))
    latents = torch.cat([NORMAL[:, :1], torch.ones(CHANNELS, LATENT_FRAMES - 1, *SMALL, dtype=torch.float64)], dim=1)
    one.received(seen(latents, FIRST[words]))
    condition = record(one)
    assert (condition.kind, condition.mask_cause) == ("first_frame", words)
    assert bool(condition.mask_error) is bool(words)
    assert condition.latents_error == pytest.approx(0, abs=1e-6)


def test_a_request_without_a_picture_is_not_watched() -> None:
    pipe = SimpleNamespace(vae=None, config={})
    one = ConditionWatch(pipe, {}, FRAMES)
    one.encoded(video(), ANSWER)
    one.received(given(mask(0), NORMAL))
    assert one.facts() is None


def test_a_picture_that_was_never_encoded_is_recorded_so() -> None:
    one = watch()
    one.received(given(mask(0), NORMAL))
    condition = record(one)
    assert not condition.encoded
    assert condition.latents_error is None
