"""The smallest change that eight bits can show."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

SEED = 20260520


def rounded(frames: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """The same frames [T, H, W, 3] with every value moved by -1, 0 or +1 levels, seeded, within 0..255."""
    noise = np.random.default_rng(SEED).integers(-1, 2, size=frames.shape, dtype=np.int16)
    moved: npt.NDArray[np.uint8] = np.clip(frames.astype(np.int16) + noise, 0, 255).astype(np.uint8)
    return moved
