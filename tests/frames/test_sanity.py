"""Reference-free checks: each fault alarms its check; photographs, drawings and flat walls alarm none."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import skimage.data

from harness.engine.backends.delivery import stats_of
from harness.frames.clip import Clip
from harness.frames.sanity import SanityLimits, check_clip
from harness.records.generation import FloatStats


def failed(clip: Clip, **kwargs: object) -> set[str]:
    return {check.name for check in check_clip(clip, **kwargs).failures}  # type: ignore[arg-type]


def pan(picture: np.ndarray, count: int = 6, height: int = 160, width: int = 200) -> Clip:
    """A camera that moves over a photograph."""
    if picture.ndim == 2:
        picture = np.stack([picture] * 3, axis=-1)
    return Clip(
        np.stack([picture[2 * t : 2 * t + height, 3 * t : 3 * t + width] for t in range(count)]).astype(np.uint8)
    )


def drawing(ground: tuple[int, int, int], shape: tuple[int, int, int], slope: float, dither: float = 0.0) -> Clip:
    """A disc that moves over a gradient or a flat wall, 17 frames of 96x64."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[0:64, 0:96]
    frames = []
    for t in range(17):
        picture = np.array(ground) + slope * (x / 96)[..., None] * np.array([1.0, -0.7, 0.4])
        disc = (x - 20 - 2 * t) ** 2 + (y - 30) ** 2 < 100
        picture = np.where(disc[..., None], shape, picture) + rng.normal(0, dither, (64, 96, 3))
        frames.append(np.clip(np.rint(picture), 0, 255))
    return Clip(np.stack(frames).astype(np.uint8))


def static(grain: int, seed: int = 0) -> Clip:
    """Green-blue static with a grain of so many pixels, as scrambled latents decode to."""
    rng = np.random.default_rng(seed)
    coarse = rng.normal(0, 1, (9, 96 // grain, 160 // grain, 3))
    field = np.kron(coarse, np.ones((1, grain, grain, 1)))
    return Clip(np.clip(np.array([60, 130, 140]) + field * np.array([25, 60, 60]), 0, 255).astype(np.uint8))


HEALTHY: dict[str, Callable[[], Clip]] = {
    "astronaut": lambda: pan(skimage.data.astronaut()),
    "coffee": lambda: pan(skimage.data.coffee()),
    "cat": lambda: pan(skimage.data.chelsea()),
    "brick": lambda: pan(skimage.data.brick()),
    "gradient": lambda: drawing((40, 60, 200), (220, 30, 30), 60),
    "flat wall": lambda: drawing((40, 60, 200), (220, 30, 30), 0),
    "flat wall, dithered": lambda: drawing((40, 60, 200), (220, 30, 30), 0, 2.0),
    "black and grey": lambda: drawing((2, 2, 2), (120, 120, 120), 0),
    "little contrast": lambda: drawing((120, 120, 120), (140, 130, 120), 4),
}


@pytest.mark.parametrize("name", HEALTHY)
def test_healthy_clips_do_not_alarm(name: str) -> None:
    clip = HEALTHY[name]()
    assert failed(clip, wanted=clip.shape, float_stats=stats_of(clip.frames / 255.0)) == set()


def test_real_frames_do_not_alarm(real_frames: Path) -> None:
    from PIL import Image

    paths = sorted(real_frames.glob("*.png"))
    assert paths
    for path in paths:
        with Image.open(path) as picture:
            assert failed(Clip(np.asarray(picture.convert("RGB"))[None])) == set(), path.name


@pytest.mark.parametrize("grain", [1, 2, 4, 8])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_static_alarms_whatever_its_grain(grain: int, seed: int) -> None:
    assert failed(static(grain, seed)) & {"noise", "speckle"}


def test_one_flat_frame_alarms_and_is_named() -> None:
    frames = np.array(HEALTHY["cat"]().frames)
    frames[4] = 90
    check = check_clip(Clip(frames)).get("flat")
    assert check is not None
    assert (check.ok, check.frame, check.value) == (False, 4, 0.0)


def test_one_frame_of_static_alarms_and_is_named() -> None:
    frames = np.array(HEALTHY["cat"]().frames)
    frames[3] = np.random.default_rng(0).integers(0, 256, frames[3].shape)
    check = check_clip(Clip(frames)).get("noise")
    assert check is not None
    assert (check.ok, check.frame) == (False, 3)


def test_frozen_clips_alarm_and_one_repeat_does_not() -> None:
    frames = np.array(HEALTHY["cat"]().frames)
    frames[2] = frames[1]
    assert failed(Clip(frames)) == set()
    frames[3] = frames[1]
    assert failed(Clip(frames)) == {"frozen"}
    assert "frozen" in failed(Clip(np.stack([frames[0], frames[0]])))
    assert failed(Clip(frames[:1])) == set()


def test_blown_out_contrast_alarms() -> None:
    frames = HEALTHY["cat"]().frames.astype(float)
    blown = np.clip((frames - frames.mean()) * 40 + 127, 0, 255).astype(np.uint8)
    assert "clipped" in failed(Clip(blown))


def test_flicker_alarms_without_a_reference() -> None:
    frames = HEALTHY["cat"]().frames.astype(float)
    frames[1::2] += 8
    assert failed(Clip(np.clip(frames, 0, 255).astype(np.uint8))) == {"flicker"}


@pytest.mark.parametrize("wanted", [(7, 160, 200, 3), (6, 200, 160, 3)])
def test_wrong_count_or_size_alarms(wanted: tuple[int, int, int, int]) -> None:
    clip = HEALTHY["cat"]()
    assert failed(clip, wanted=wanted) == {"shape"}
    check = check_clip(clip, wanted=wanted).get("shape")
    assert check is not None
    assert str(list(wanted)) in check.message


def test_float_output_is_counted_before_rounding() -> None:
    video = np.linspace(0, 1, 4 * 6 * 6 * 3, dtype=np.float32).reshape(4, 6, 6, 3)
    video[1, 0, 0] = np.nan
    video[2, 0, 0, 0] = np.inf
    video[2, 0, 0, 1] = -np.inf
    video[3, 0, 0, 0] = -0.5
    stats = stats_of(video)
    assert stats == FloatStats(nan=3, inf=2, minimum=-0.5, maximum=1.0, first_bad_frame=1)
    assert failed(HEALTHY["cat"](), float_stats=stats) == {"nan", "inf"}


def test_nothing_but_nan_still_makes_a_record() -> None:
    stats = stats_of(np.full((2, 4, 4, 3), np.nan, np.float32))
    assert (stats.nan, stats.minimum, stats.maximum, stats.first_bad_frame) == (96, 0.0, 0.0, 0)
    assert stats.to_json()


def test_a_nan_found_by_the_engine_fails_the_clip_that_hides_it() -> None:
    clip = HEALTHY["cat"]()
    stats = FloatStats(nan=1, inf=0, minimum=0, maximum=1, first_bad_frame=2)
    assert failed(clip, float_stats=stats) == {"nan"}


@pytest.mark.parametrize("texture", [skimage.data.gravel, skimage.data.grass])
def test_a_texture_in_close_up_needs_a_limit_of_its_own(texture: Callable[[], np.ndarray]) -> None:
    clip = pan(texture())
    assert failed(clip) == {"noise"}
    assert failed(clip, limits=SanityLimits(noise=0.1)) == set()


@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 5, 9), (2, 31, 40), (3, 33, 35)])
def test_odd_sizes_have_a_value_for_every_check(make_clip: object, shape: tuple[int, int, int]) -> None:
    evidence = check_clip(make_clip(*shape))  # type: ignore[operator]
    assert all(check.value is not None for check in evidence.checks)


@pytest.mark.parametrize(("scale", "shift", "is_told"), [(255.0, 0.0, True), (2.0, -1.0, True), (1.3, -0.1, False)])
def test_a_video_in_another_range_of_values_is_told(scale: float, shift: float, is_told: bool) -> None:
    """Programs write [0, 255] or [-1, 1] by mistake; a decoder's overshoot is none of them."""
    dark = np.linspace(0.02, 0.4, 3 * 32 * 48 * 3, dtype=np.float32).reshape(3, 32, 48, 3)
    video = dark * scale + shift
    clip = Clip((video.clip(0, 1) * 255).round().astype(np.uint8))
    checks = {check.name: check for check in check_clip(clip, float_stats=stats_of(video)).checks}
    told = [name for name, check in checks.items() if "float frames are read in [0, 1]" in check.message]
    assert bool(told) == is_told
    assert all(not checks[name].ok for name in told)
