"""The smallest changes that eight bits can show. No limit may lie closer to its golden than these.

A device on which every healthy run is bit-exact has no spread of its own, and the next driver moves a last bit
somewhere: these samples are drawn, not run, and are labelled so in the limit file.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Frames = npt.NDArray[np.uint8]
SEED = 20260520


def rounding_samples(frames: Frames) -> dict[str, Frames]:
    """By label: clips [T, H, W, 3] that differ from ``frames`` by at most one level of 255 in any value.

    ``noise``: every value by -1, 0 or +1, seeded. ``up`` and ``down``: every value by one level, a shift of the mean
    that noise does not have. ``frames``: every other pixel of a frame by one level, up or down by frame, seeded: a
    flicker.
    """
    random = np.random.default_rng(SEED)
    noise = random.integers(-1, 2, size=frames.shape, dtype=np.int16)
    checkered = (np.indices(frames.shape[1:3]).sum(axis=0) % 2)[None, :, :, None]
    signs = random.choice(np.array([-1, 1], dtype=np.int16), size=len(frames))[:, None, None, None]
    return {
        "rounding-noise": _moved(frames, noise),
        "rounding-up": _moved(frames, 1),
        "rounding-down": _moved(frames, -1),
        "rounding-frames": _moved(frames, checkered * signs),
    }


def _moved(frames: Frames, by: npt.NDArray[np.int16] | int) -> Frames:
    moved: Frames = np.clip(frames.astype(np.int16) + by, 0, 255).astype(np.uint8)
    return moved
