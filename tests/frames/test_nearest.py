"""With several goldens a clip is held against the one whose pixels are nearest."""

from __future__ import annotations

import numpy as np
import pytest

from harness.frames.clip import Clip
from harness.frames.nearest import nearest_of, squared_error


def clip(level: int) -> Clip:
    frames = np.full((9, 32, 32, 3), level, np.uint8)
    frames[:, 4:12, 4:12] = 255 - level
    return Clip(frames)


@pytest.mark.parametrize(("level", "near"), [(12, 10), (58, 60), (10, 10), (60, 60)])
def test_the_nearest_golden_is_compared_with(level: int, near: int) -> None:
    goldens = [clip(10), clip(60)]
    for order in (goldens, goldens[::-1]):
        found = nearest_of(order, None)(clip(level))
        assert found.golden_sha256 == clip(near).digest
        assert found.bit_exact == (level == near)


def test_one_golden_is_compared_with_whatever_its_distance() -> None:
    assert nearest_of([clip(10)], None)(clip(250)).golden_sha256 == clip(10).digest


def test_differences_are_not_taken_modulo_256() -> None:
    a, b = Clip(np.zeros((1, 16, 16, 3), np.uint8)), Clip(np.full((1, 16, 16, 3), 255, np.uint8))
    assert squared_error(a, b) == squared_error(b, a) == 16 * 16 * 3 * 255**2
