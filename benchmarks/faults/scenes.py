"""Scenes to break: cameras that move over photographs a package ships, drawings, and real frames where present."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import numpy.typing as npt

from harness.frames.clip import Clip

COUNT, HEIGHT, WIDTH = 25, 192, 320
DEFAULT = Path(__file__).parents[3] / "shared" / "data" / "real-frames"
REAL_FRAMES = Path(os.environ.get("QUANTGATE_REAL_FRAMES", DEFAULT))

Picture = npt.NDArray[np.uint8]


def pan(picture: Picture, step: tuple[int, int], start: tuple[int, int]) -> Clip:
    """A camera that moves over ``picture`` [H, W, 3] by ``step`` pixels a frame, with an object of its own motion."""
    frames = []
    y, x = np.mgrid[0:HEIGHT, 0:WIDTH]
    for t in range(COUNT):
        top, left = start[0] + step[0] * t, start[1] + step[1] * t
        frame = picture[top : top + HEIGHT, left : left + WIDTH].astype(np.float64)
        disc = (x - 60 - 4 * t) ** 2 + (y - 100 - 30 * np.sin(t / 6)) ** 2 < 22**2
        shade = 40 + 160 * ((x + y) % 40 / 40)
        frame[disc] = np.stack([shade, 0.6 * shade, 255 - shade], axis=-1)[disc]
        frames.append(frame)
    return Clip(np.rint(np.stack(frames)).astype(np.uint8))


def drawing(ground: tuple[int, int, int], colours: tuple[tuple[int, int, int], ...], slope: float, seed: int) -> Clip:
    """Coloured shapes that move over a gradient."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:HEIGHT, 0:WIDTH]
    start = rng.uniform((40, 60), (150, 250), (len(colours), 2))
    pace = rng.uniform(-3, 3, (len(colours), 2))
    frames = []
    for t in range(COUNT):
        frame = np.array(ground) + slope * (x / WIDTH)[..., None] * np.array([1.0, -0.7, 0.4]) + 0.2 * y[..., None]
        for index, colour in enumerate(colours):
            cy, cx = start[index] + pace[index] * t
            far = np.hypot(y - cy, x - cx) if index % 2 else np.maximum(np.abs(y - cy), np.abs(x - cx))
            cover = np.clip(28.5 - far, 0, 1)[..., None]
            frame = frame * (1 - cover) + np.array(colour) * cover
        frames.append(frame)
    return Clip(np.clip(np.rint(np.stack(frames)), 0, 255).astype(np.uint8))


def scenes() -> dict[str, Clip]:
    """All scenes by name, uint8 [25, 192, 320, 3]; real frames come last, and only where their folder is."""
    import skimage.data

    def photograph(name: str) -> Picture:
        picture: Picture = getattr(skimage.data, name)()
        return picture

    scenes = {
        "astronaut": pan(photograph("astronaut"), (3, 2), (60, 20)),
        "coffee": pan(photograph("coffee"), (1, 3), (80, 60)),
        "cat": pan(photograph("chelsea"), (1, 2), (20, 10)),
        "rocket": pan(photograph("rocket"), (2, 3), (60, 100)),
        "shapes": drawing((60, 90, 150), ((220, 40, 40), (240, 220, 60), (30, 160, 60)), 70, 0),
        "shapes on dark": drawing((20, 14, 30), ((200, 200, 210), (40, 90, 200)), 30, 1),
    }
    for name in ("wan22_nvfp4_b200_frame_mid", "fastwan22_5b_generation1_frame_mid"):
        path = REAL_FRAMES / f"{name}.png"
        if path.is_file():
            from PIL import Image

            with Image.open(path) as picture:
                scenes[name.rsplit("_frame", 1)[0]] = pan(np.asarray(picture.convert("RGB")), (2, 4), (40, 60))
    return scenes
