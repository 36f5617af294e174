"""Frames that use every second level only have lost a bit."""

from __future__ import annotations

import numpy as np
import pytest

from harness.frames.clip import Clip
from harness.frames.sanity import check_clip, level_step


@pytest.mark.parametrize(("bits", "step"), [(8, 1), (7, 2), (6, 4)])
def test_the_step_of_the_levels_tells_how_many_bits_there_are(bits: int, step: int) -> None:
    frames = np.random.default_rng(0).integers(0, 256, (3, 16, 16, 3)).astype(np.uint8)
    clip = Clip(np.ascontiguousarray(frames >> (8 - bits) << (8 - bits)))
    assert level_step(clip) == step
    (check,) = (item for item in check_clip(clip).checks if item.name == "levels")
    assert check.ok == (step == 1)


def test_seven_bits_that_were_spread_over_the_whole_range_are_seen() -> None:
    """``round(x * 127) / 127`` in 8 bits: steps of 2 and one of 3, which have no common divisor."""
    values = np.random.default_rng(0).random((3, 16, 16, 3))
    clip = Clip(np.rint(np.rint(values * 127) / 127 * 255).astype(np.uint8))
    assert level_step(clip) == 2
    (check,) = (item for item in check_clip(clip).checks if item.name == "levels")
    assert not check.ok


def test_plain_graphics_have_no_step() -> None:
    frames = np.zeros((2, 8, 8, 3), dtype=np.uint8)
    frames[:, :4] = 200
    assert level_step(Clip(frames)) == 1
