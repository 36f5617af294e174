"""Peers' rules on examples small enough to compute by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from benchmarks.peers import rules_without_weights
from benchmarks.peers.base import key_frames
from benchmarks.peers.diffusers import Diffusers
from benchmarks.peers.fastvideo import FastVideo
from benchmarks.peers.model_connect import ModelConnect
from benchmarks.peers.sglang_publishing import SglangPublishing
from benchmarks.peers.sglang_video import SglangVideo
from benchmarks.peers.tensorrt_llm import TensorRtLlm
from benchmarks.peers.vllm_omni import VllmOmni
from harness.frames.clip import Clip

C1, C2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2


def flat(*levels: int, size: int = 16) -> Clip:
    """One flat frame a level. SSIM of flat frames a and b is (2ab + C1) / (a^2 + b^2 + C1)."""
    return Clip(np.stack([np.full((size, size, 3), level, np.uint8) for level in levels]))


def ssim_of_flats(a: float, b: float) -> float:
    return (2 * a * b + C1) / (a * a + b * b + C1)


def test_key_frames() -> None:
    assert key_frames(81) == [0, 40, 80]
    assert key_frames(17) == [0, 8, 16]
    assert key_frames(2) == [0, 1]
    assert key_frames(1) == [0]


def test_sglang_video_each_limit_alone() -> None:
    rule = SglangVideo()
    # 100 against 110: SSIM .9955, PSNR 20 log10(255 / 10) = 28.1 dB, difference 10: the last value that passes
    result = rule.judge(flat(100, 100, 100), flat(100, 110, 100))
    assert result.passed
    assert result.measured["ssim"] == pytest.approx(ssim_of_flats(100, 110), abs=1e-6)
    assert result.measured["psnr"] == pytest.approx(20 * np.log10(25.5), abs=1e-9)
    assert result.measured["mad"] == 10.0
    assert not rule.judge(flat(100, 100, 100), flat(100, 111, 100)).passed
    # 5 against 12: SSIM .73, and nothing else is near its limit
    assert not rule.judge(flat(5, 5, 5), flat(5, 12, 5)).passed
    # one pixel column of 16 at full distance: PSNR 20 log10(255 / (255 / 4)) = 12 dB
    frames = np.array(flat(0, 0, 0).frames)
    frames[2, :, 0] = 255
    assert rule.judge(flat(0, 0, 0), Clip(frames)).measured["psnr"] == pytest.approx(20 * np.log10(4))


def test_sglang_video_looks_at_three_frames_only() -> None:
    golden = flat(100, 100, 100, 100, 100)
    assert SglangVideo().judge(golden, flat(100, 0, 100, 0, 100)).passed
    assert not SglangVideo().judge(golden, flat(100, 100, 0, 100, 100)).passed


def test_sglang_publishing_needs_both_limits_broken_in_one_frame() -> None:
    rule = SglangPublishing()
    assert not rule.judge(flat(10, 10, 10), flat(10, 200, 10)).passed  # SSIM .1, difference 190
    assert rule.judge(flat(100, 100, 100), flat(100, 150, 100)).passed  # SSIM .92, difference 50
    assert rule.judge(flat(1, 1, 1), flat(1, 40, 1)).passed  # SSIM .05, difference 39


def test_fastvideo_is_the_mean_over_frames() -> None:
    rng = np.random.default_rng(0)
    picture = rng.integers(0, 256, (1, 176, 176, 3), dtype=np.uint8)
    clip = Clip(picture.repeat(10, axis=0))
    one_broken = np.array(clip.frames)
    one_broken[4] = 255 - one_broken[4]  # MS-SSIM 0 in one frame of ten: the mean is .9, and over the low limit
    result = FastVideo(limit=0.85).judge(clip, Clip(one_broken))
    assert result.passed
    assert result.measured["ms_ssim"] == pytest.approx(0.9, abs=0.01)
    assert not FastVideo().judge(clip, Clip(one_broken)).passed
    with pytest.raises(ValueError, match="160"):
        FastVideo().judge(flat(1), flat(1))


def test_vllm_omni_takes_means() -> None:
    golden = flat(100, 100)
    one_bad = flat(100, 70)  # SSIM (1 + .94) / 2 and PSNR (100 + 18.6) / 2
    result = VllmOmni().judge(golden, one_bad)
    assert result.passed
    assert result.measured["ssim"] == pytest.approx((1 + ssim_of_flats(100, 70)) / 2, abs=1e-6)
    assert result.measured["psnr"] == pytest.approx((100 + 20 * np.log10(255 / 30)) / 2)
    assert not VllmOmni().judge(golden, flat(70, 70)).passed


def test_diffusers_sees_sixteen_values() -> None:
    golden = flat(100, 100, 100)
    middle, corner, late = (np.array(golden.frames) for _ in range(3))
    middle[1] = 0
    middle[0, 5:] = 0
    corner[0, 0, 7, 0] = 101  # the eighth value of the red plane
    late[2, 15, 8, 2] = 101  # the eighth from the end of the blue plane
    assert Diffusers().judge(golden, Clip(middle)).passed
    for broken in (corner, late):
        result = Diffusers().judge(golden, Clip(broken))
        assert not result.passed
        assert result.measured["max_abs_difference"] == pytest.approx(1 / 255)
    corner[0, 0, 7, 0] = 100
    corner[0, 0, 8, 0] = 0  # the ninth
    corner[0, 0, 0, 1] = 0  # the green plane comes later
    assert Diffusers().judge(golden, Clip(corner)).passed


def test_model_connect_each_check_alone() -> None:
    rule = ModelConnect()
    moving = flat(50, 150)
    assert rule.judge(moving, moving).passed  # mean .39, deviation .196
    assert not rule.judge(moving, flat(0, 9)).passed  # mean .018
    assert not rule.judge(moving, flat(255, 246)).passed  # mean .982
    assert not rule.judge(moving, flat(100, 104)).passed  # deviation 2 / 255
    still = np.zeros((3, 4, 4, 3), np.uint8)
    still[:, :2] = 200
    assert not rule.judge(moving, Clip(still)).passed
    assert rule.judge(moving, Clip(still[:1])).passed


def test_tensorrt_llm_is_a_mean_over_nine_frames() -> None:
    def distance(one: np.ndarray, two: np.ndarray) -> float:
        return float(np.abs(one.astype(float) - two).mean()) / 255

    golden = flat(*[0] * 81)
    seen = flat(*[90 if index == 40 else 0 for index in range(81)])
    unseen = flat(*[255 if index == 41 else 0 for index in range(81)])
    result = TensorRtLlm(distance).judge(golden, seen)
    assert result.passed
    assert result.measured["lpips"] == pytest.approx(90 / 255 / 9)
    assert TensorRtLlm(distance).judge(golden, unseen).measured["lpips"] == 0.0
    assert not TensorRtLlm(distance, limit=0.03).judge(golden, seen).passed
    assert TensorRtLlm(distance).judge(flat(0, 0), flat(0, 51)).measured["lpips"] == pytest.approx(0.1)


def test_every_rule_passes_a_clip_against_itself_and_says_what_it_leaves_out() -> None:
    rng = np.random.default_rng(0)
    clip = Clip(rng.integers(0, 256, (3, 176, 176, 3), dtype=np.uint8))
    for rule in rules_without_weights():
        assert rule.judge(clip, clip).passed, rule.name
        assert isinstance(rule.left_out, str)


def test_peers_import_nothing_of_the_judge() -> None:
    for path in (Path(__file__).parents[2] / "benchmarks" / "peers").glob("*.py"):
        assert "harness.judge" not in path.read_text(encoding="utf-8")
