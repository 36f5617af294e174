"""Clips for the tests of this room."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from harness.frames.clip import Clip

os.environ.setdefault("OMP_NUM_THREADS", "1")

MakeClip = Callable[..., Clip]


def scene(count: int = 5, height: int = 40, width: int = 56, seed: int = 0, noise: float = 0.0) -> Clip:
    """A textured pattern that moves, with optional noise."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:height, 0:width]
    frames = [
        127
        + 60 * np.sin((x + 3 * t) / 7)[..., None] * np.array([1.0, 0.5, -0.8])
        + 40 * np.cos((y - 2 * t) / 5)[..., None]
        + rng.normal(0, noise, (height, width, 3))
        for t in range(count)
    ]
    return Clip(np.clip(np.stack(frames), 0, 255).astype(np.uint8))


@pytest.fixture
def make_clip() -> MakeClip:
    """`scene`, for tests that want several."""
    return scene


@pytest.fixture(scope="session")
def real_frames() -> Path:
    """Folder of frames of real goldens, which are not part of the repository."""
    default = Path(__file__).parents[2].parent / "shared" / "data" / "real-frames"
    folder = Path(os.environ.get("QUANTGATE_REAL_FRAMES", default))
    if not folder.is_dir():
        pytest.skip("no real frames: set QUANTGATE_REAL_FRAMES to a folder of PNG files")
    return folder


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    import torch

    torch.set_num_threads(1)
