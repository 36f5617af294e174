"""What the embedded Wan2.2 is about: its little world, its sizes and how a video is asked for.

Pure constants and one sentence; imports nothing but the standard library, so every module may use it.
"""

from __future__ import annotations

from typing import Final

WIDTH: Final = 96
HEIGHT: Final = 64
FRAMES: Final = 17
LATENT_CHANNELS: Final = 16
LATENT_SHAPE: Final = (LATENT_CHANNELS, 1 + (FRAMES - 1) // 4, HEIGHT // 8, WIDTH // 8)

STEPS: Final = 8
GUIDANCE: Final = 3.0
FLOW_SHIFT: Final = 3.0
BOUNDARY_RATIO: Final = 0.875
TRAIN_TIMESTEPS: Final = 1000
MAX_SEQUENCE_LENGTH: Final = 64
NEGATIVE_PROMPT: Final = ""

#: Name and sRGB value in 0..1: near the corners of the colour cube, so that measuring them is unambiguous.
COLOURS: Final[dict[str, tuple[float, float, float]]] = {
    "red": (0.90, 0.10, 0.10),
    "green": (0.10, 0.75, 0.15),
    "blue": (0.12, 0.20, 0.90),
    "yellow": (0.95, 0.90, 0.10),
    "purple": (0.70, 0.15, 0.85),
    "cyan": (0.10, 0.85, 0.90),
    "white": (0.97, 0.97, 0.97),
    "black": (0.04, 0.04, 0.04),
}
SHAPES: Final = ("circle", "square", "triangle", "cross")
#: Unit step of the object's centre in image coordinates: x to the right, y DOWN.
DIRECTIONS: Final[dict[str, tuple[int, int]]] = {"left": (-1, 0), "right": (1, 0), "up": (0, -1), "down": (0, 1)}


def caption(colour: str, shape: str, direction: str, background: str) -> str:
    """The one sentence the model was trained on, for example "a red circle moving right on a blue background"."""
    return f"a {colour} {shape} moving {direction} on a {background} background"
