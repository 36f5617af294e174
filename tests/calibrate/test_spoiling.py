"""Every spoil grows with its strength and keeps the key frames of a fault in time."""

from __future__ import annotations

import numpy as np
import pytest

from harness.calibrate.faults.spoiling import SPOILS, STRENGTHS, spoiled

IN_TIME = {"one_bad_frame", "swapped_frames", "frozen_stretch", "black_tile"}


@pytest.fixture
def frames() -> np.ndarray:
    count, height, width = 17, 48, 64
    out = np.zeros((count, height, width, 3), np.uint8)
    out[..., 1] = np.linspace(40, 200, width, dtype=np.uint8)
    for index in range(count):
        out[index, 13:33, 2 * index + 1 : 2 * index + 16] = (220, 60, 90)
    return out


@pytest.mark.parametrize("name", sorted(SPOILS))
def test_stronger_is_further_away(name: str, frames: np.ndarray) -> None:
    moved = [np.abs(spoiled(SPOILS[name], frames, s).astype(int) - frames).sum() for s in STRENGTHS]
    assert moved[0] > 0
    assert moved == sorted(moved)
    assert moved[-1] > 1.4 * moved[0]


@pytest.mark.parametrize("name", sorted(IN_TIME))
def test_key_frames_are_left_alone(name: str, frames: np.ndarray) -> None:
    bad = spoiled(SPOILS[name], frames, 1.0)
    for index in (0, 8, 16):
        np.testing.assert_array_equal(bad[index], frames[index])


@pytest.mark.parametrize("name", sorted(SPOILS))
@pytest.mark.parametrize("count", [1, 2, 5])
def test_short_clips_keep_their_shape(name: str, count: int, frames: np.ndarray) -> None:
    assert spoiled(SPOILS[name], frames[:count], 1.0).shape == frames[:count].shape
