"""What the decoder gave is seen before anything hides it."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from harness.engine.backends.delivery import round_video, stats_of
from harness.engine.backends.wan_recorder import FloatWatch, rounded

MODULE = torch.nn.Identity()


def test_chunks_are_counted_as_frames() -> None:
    watch = FloatWatch()
    bad = torch.full((1, 3, 4, 2, 2), 0.5)
    bad[0, 2, 1, 0, 1] = float("nan")
    bad[0, 0, 3, 1, 1] = float("inf")
    for chunk in (torch.zeros(1, 3, 1, 2, 2), torch.full((1, 3, 4, 2, 2), -1.5), bad, bad):
        watch(MODULE, (), chunk)
    stats = watch.stats()
    assert (stats.nan, stats.inf, stats.first_bad_frame) == (2, 2, 6)
    assert stats.minimum == pytest.approx(-0.25)
    assert stats.maximum == pytest.approx(0.75)


def test_nothing_finite_is_still_a_record() -> None:
    watch = FloatWatch()
    watch(MODULE, (), torch.full((1, 3, 1, 2, 2), float("nan")))
    stats = watch.stats()
    assert (stats.nan, stats.minimum, stats.maximum, stats.first_bad_frame) == (12, 0.0, 0.0, 0)


def test_both_ways_of_looking_agree() -> None:
    video = np.random.default_rng(0).normal(0.5, 0.5, (5, 4, 6, 3)).astype(np.float32)
    video[3, 0, 0, 0] = np.inf
    watch = FloatWatch()
    watch(MODULE, (), torch.from_numpy(video * 2 - 1).permute(3, 0, 1, 2)[None])
    mine, theirs = watch.stats(), stats_of(video)
    assert (mine.nan, mine.inf, mine.first_bad_frame) == (theirs.nan, theirs.inf, theirs.first_bad_frame) == (0, 1, 3)
    assert mine.minimum == pytest.approx(theirs.minimum, abs=1e-6)
    assert mine.maximum == pytest.approx(theirs.maximum, abs=1e-6)


def test_rounding_is_diffusers() -> None:
    from diffusers.image_processor import VaeImageProcessor

    video = np.random.default_rng(1).random((2, 8, 8, 3)).astype(np.float32)
    video[0, 0, :3, 0] = (0.5 / 255, 1.5 / 255, 2.5 / 255)
    theirs = np.stack([np.asarray(picture) for picture in VaeImageProcessor.numpy_to_pil(video)])
    np.testing.assert_array_equal(round_video(video).frames, theirs)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_rounding_on_the_device_is_rounding_on_the_host(dtype: torch.dtype) -> None:
    video = torch.from_numpy(np.random.default_rng(2).normal(0.5, 0.4, (3, 3, 20, 24)).astype(np.float32)).to(dtype)
    video[0, 0, 0, :5] = torch.tensor([float("nan"), float("inf"), -float("inf"), 0.5 / 255, 1.5 / 255], dtype=dtype)
    kept = video.clone()
    host = round_video(video.permute(0, 2, 3, 1).float().numpy())
    np.testing.assert_array_equal(rounded(video).frames, host.frames)
    assert torch.equal(video.nan_to_num(7.0), kept.nan_to_num(7.0)), "the video stays as it was"
