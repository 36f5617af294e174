"""Changes of finished frames [T, H, W, 3] uint8 for the third list."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import numpy as np
from numpy.typing import NDArray

Frames = NDArray[np.uint8]


def _bytes(values: NDArray[np.float64]) -> Frames:
    return np.clip(np.rint(values), 0, 255).astype(np.uint8)


def _red_lost(frames: Frames) -> Frames:
    made = frames.copy()
    made[..., 0] = 0
    return made


def _mosaic(frames: Frames) -> Frames:
    """Squares of 4 x 4 pixels have their mean colour."""
    count, height, width, channels = frames.shape
    squares = frames.astype(np.float64).reshape(count, height // 4, 4, width // 4, 4, channels).mean((2, 4))
    return _bytes(squares.repeat(4, axis=1).repeat(4, axis=2))


THIRD_CHANGES: Final[dict[str, Callable[[Frames], Frames]]] = {
    "half_turn": lambda frames: np.ascontiguousarray(frames[:, ::-1, ::-1]),
    "red_lost": _red_lost,
    "white_balance": lambda frames: _bytes(frames * np.array([1.12, 1.0, 0.88])),
    "mosaic": _mosaic,
}
