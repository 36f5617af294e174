"""The measuring code against ground truth drawn here with Pillow, and against the training videos' labels."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw

from tiny.draw import draw, sample_labels
from tiny.measure import Seen, colour_name, measure
from tiny.spec import COLOURS, FRAMES, HEIGHT, WIDTH


def test_training_videos_show_what_their_captions_say() -> None:
    generator = torch.Generator().manual_seed(11)
    labels = sample_labels(32, generator)
    videos = ((draw(labels, generator) + 1) / 2).permute(0, 2, 3, 4, 1).numpy()
    assert videos.shape == (32, FRAMES, HEIGHT, WIDTH, 3)
    assert videos.min() >= 0
    assert videos.max() <= 1
    for video, sentence in zip(videos, labels.captions(), strict=True):
        seen = measure(video)
        assert sentence == (
            f"a {seen.colour} {seen.shape} moving {seen.direction} on a {seen.background} background"
        ), seen


def test_background_never_has_the_objects_colour() -> None:
    labels = sample_labels(30_000, torch.Generator().manual_seed(1))
    assert (labels.colour != labels.background).all()
    assert len(set(labels.captions())) == len(COLOURS) * (len(COLOURS) - 1) * 16


def test_a_seed_means_the_same_videos() -> None:
    first, second = (draw(sample_labels(2, g), g) for g in (torch.Generator().manual_seed(3) for _ in range(2)))
    assert torch.equal(first, second)


def _moving_disc(step: tuple[float, float]) -> np.ndarray:
    frames = []
    for index in range(9):
        image = Image.new("RGB", (96, 64), (20, 40, 230))
        x, y = 48 + step[0] * (index - 4), 32 + step[1] * (index - 4)
        ImageDraw.Draw(image).ellipse((x - 10, y - 10, x + 10, y + 10), fill=(240, 230, 20))
        frames.append(np.asarray(image, dtype=np.float32) / 255)
    return np.stack(frames)


@pytest.mark.parametrize(
    ("step", "direction"), [((4, 0), "right"), ((-4, 0), "left"), ((0, 2.5), "down"), ((0, -2.5), "up")]
)
def test_direction_of_a_disc_drawn_by_another_library(step: tuple[float, float], direction: str) -> None:
    assert measure(_moving_disc(step)) == Seen("yellow", "circle", direction, "blue")


@pytest.mark.parametrize("step", [(0.0, 0.0), (3.0, 3.0)])
def test_rest_and_diagonals_are_no_direction(step: tuple[float, float]) -> None:
    assert measure(_moving_disc(step)).direction == "none"


def test_an_empty_clip_and_static_show_nothing() -> None:
    flat = np.full((9, 64, 96, 3), 0.5, np.float32)
    assert measure(flat) == Seen("none", "none", "none", "grey")
    noise = np.random.default_rng(0).random((9, 64, 96, 3), dtype=np.float32)
    assert measure(noise).direction == "none"


def test_colour_names() -> None:
    assert {name: colour_name(np.array(value)) for name, value in COLOURS.items()} == {name: name for name in COLOURS}
    assert colour_name(np.array([0.95, 0.55, 0.1])) == "orange"
