"""The fault library: every fault changes the clip, keeps its shape, and comes out the same again."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.faults.benign import DRIFT, MILD
from benchmarks.faults.output import GROSS, apply
from benchmarks.peers.base import key_frames
from harness.frames.clip import Clip
from harness.frames.compare import compare

HIDDEN_FROM_KEY_FRAMES = (
    *("black_frame", "noise_frame", "nan_tile", "two_swapped", "flicker_2", "flicker_6", "broken_tail"),
    *("melting_object", "one_red_patch", "stutter"),
)


@pytest.mark.parametrize("name", [*GROSS, *MILD, *DRIFT])
def test_changes_something_and_nothing_else(make_clip: object, name: str) -> None:
    clip = make_clip(25, 64, 96, noise=6)  # type: ignore[operator]
    change = (GROSS | MILD | DRIFT)[name]
    before = clip.digest
    changed = apply(change, clip)
    assert changed.shape == clip.shape
    assert changed != clip
    assert apply(change, clip) == changed
    assert Clip(np.array(clip.frames)).digest == before


@pytest.mark.parametrize("name", HIDDEN_FROM_KEY_FRAMES)
def test_what_key_frames_cannot_see(make_clip: object, name: str) -> None:
    clip = make_clip(25, 64, 96, noise=6)  # type: ignore[operator]
    chosen = key_frames(25)
    assert np.array_equal(apply(GROSS[name], clip).frames[chosen], clip.frames[chosen])


def test_enough_of_each() -> None:
    assert len(GROSS) >= 24
    assert len(MILD) >= 12


def test_mild_is_mild(make_clip: object) -> None:
    clip = make_clip(9, 64, 96)  # type: ignore[operator]
    for name, change in MILD.items():
        ssim, mad = compare(clip, apply(change, clip), ["ssim", "mad"]).metrics
        assert ssim.worst is not None
        assert mad.worst is not None
        assert ssim.worst > 0.9, name
        assert mad.worst < 3, name
