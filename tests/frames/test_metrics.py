"""Properties of every metric: ideal on identical clips, symmetric where it claims to be, monotone where it gates."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.frames.clip import Clip
from harness.frames.metric import Metric, Pair
from harness.frames.registry import BUILT_IN, find_metric, gating_names, metric_names

GATING = gating_names()
SYMMETRIC = ("ssim", "psnr", "mad", "tile_ssim", "flicker", "channel_shift", "contrast_ratio", "motion_ratio")
"""``sharpness_ratio``, ``frame_order`` and ``new_duplicates`` are one-sided on purpose: see their docstrings."""

SHAPES = [(1, 1, 1), (1, 40, 40), (2, 1, 1), (5, 33, 47), (3, 2, 50), (9, 64, 96)]

Faulty = Callable[[np.ndarray, float], np.ndarray]


def value(name: str, golden: Clip, candidate: Clip) -> float:
    """The worst value of a metric, past the shortcut for bit-exact clips."""
    metric = find_metric(name)
    found = metric.measure(Pair(golden, candidate))
    if found.value is not None:
        return found.value
    assert found.per_frame is not None
    return float(found.per_frame.min() if metric.direction == "higher_is_better" else found.per_frame.max())


def computable(shape: tuple[int, int, int]) -> list[str]:
    small = min(shape[1:]) < 7
    return [name for name in GATING if not (small and name in ("ssim", "tile_ssim"))]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("kind", ["moving", "constant", "noise"])
def test_identical_clips_are_ideal(make_clip: object, shape: tuple[int, int, int], kind: str) -> None:
    clip = {
        "moving": lambda: make_clip(*shape),  # type: ignore[operator]
        "constant": lambda: Clip(np.full((*shape, 3), 77, np.uint8)),
        "noise": lambda: Clip(np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8)),
    }[kind]()
    for name in computable(shape):
        assert value(name, clip, clip) == pytest.approx(find_metric(name).ideal, abs=1e-6), name


@settings(max_examples=25, deadline=None)
@given(
    shape=st.sampled_from(SHAPES), seeds=st.tuples(st.integers(0, 99), st.integers(0, 99)), spread=st.integers(1, 120)
)
def test_symmetric_and_within_range(shape: tuple[int, int, int], seeds: tuple[int, int], spread: int) -> None:
    one, two = (
        Clip((127 + np.random.default_rng(seed).integers(-spread, spread, (*shape, 3))).astype(np.uint8))
        for seed in seeds
    )
    for name in computable(shape):
        forth = value(name, one, two)
        low, high = find_metric(name).valid_range
        assert low - 1e-6 <= forth <= high + 1e-6, name
        if name in SYMMETRIC:
            assert forth == pytest.approx(value(name, two, one), abs=1e-5), name


def faded(frames: np.ndarray, strength: float) -> np.ndarray:
    mean = frames.mean(axis=(1, 2), keepdims=True)
    return mean + (frames - mean) * (1 - strength)


def noisy(frames: np.ndarray, strength: float) -> np.ndarray:
    return frames + np.random.default_rng(3).normal(0, 60, frames.shape) * strength


def blurred(frames: np.ndarray, strength: float) -> np.ndarray:
    from scipy.ndimage import uniform_filter

    return frames + (uniform_filter(frames, (0, 5, 5, 0)) - frames) * strength


def flickering(frames: np.ndarray, strength: float) -> np.ndarray:
    return frames + 20 * strength * (np.arange(len(frames)) % 2)[:, None, None, None]


def tinted(frames: np.ndarray, strength: float) -> np.ndarray:
    return frames + strength * np.array([30.0, 0, 0])


def melted(frames: np.ndarray, strength: float) -> np.ndarray:
    out = frames.copy()
    part = out[3:6, 8:30, 8:30]
    part += (part.mean(axis=(1, 2), keepdims=True) - part) * strength
    return out


def slowed(frames: np.ndarray, strength: float) -> np.ndarray:
    mean = frames.mean(axis=0, keepdims=True)
    return mean + (frames - mean) * (1 - strength)


def swapped(frames: np.ndarray, strength: float) -> np.ndarray:
    count = round(strength * len(frames))
    out = frames.copy()
    out[:count] = out[:count][::-1]
    return out


def repeated(frames: np.ndarray, strength: float) -> np.ndarray:
    out = frames.copy()
    count = round(strength * (len(frames) - 1))
    out[1 : 1 + count] = out[0]
    return out


SEES: dict[str, Faulty] = {
    "ssim": noisy,
    "psnr": noisy,
    "mad": noisy,
    "tile_ssim": melted,
    "flicker": flickering,
    "channel_shift": tinted,
    "contrast_ratio": faded,
    "sharpness_ratio": blurred,
    "motion_ratio": slowed,
    "frame_order": swapped,
    "new_duplicates": repeated,
}


@pytest.mark.parametrize("name", GATING)
def test_worse_faults_measure_worse(make_clip: object, name: str) -> None:
    golden = make_clip(10, 48, 64, noise=8)  # type: ignore[operator]
    frames = golden.frames.astype(np.float64)
    metric = find_metric(name)
    values = [metric.ideal]
    for strength in (0.3, 0.6, 1.0):
        damaged = SEES[name](frames, strength)
        values.append(value(name, golden, Clip(np.clip(np.rint(damaged), 0, 255).astype(np.uint8))))
    steps = np.diff(values)
    assert (steps < 0).all() if metric.direction == "higher_is_better" else (steps > 0).all(), values


@pytest.mark.parametrize("name", GATING)
def test_every_metric_describes_itself(name: str) -> None:
    metric = find_metric(name)
    assert isinstance(metric, Metric)
    assert metric.blind_to
    assert metric.source
    assert metric.setting
    assert metric.valid_range[0] <= metric.ideal <= metric.valid_range[1]


def test_sharper_or_noisier_is_no_loss_of_sharpness(make_clip: object) -> None:
    assert value("sharpness_ratio", make_clip(2), make_clip(2, noise=20)) == 1.0  # type: ignore[operator]


def test_a_shift_of_one_frame_is_seen_and_drift_is_not(make_clip: object) -> None:
    long = make_clip(13, 48, 64)  # type: ignore[operator]
    golden, late = Clip(long.frames[:12]), Clip(long.frames[1:])
    assert value("frame_order", golden, late) >= 10
    warped = Clip(np.roll(long.frames[:12], 5, axis=2))
    assert value("frame_order", golden, warped) < 12


def test_the_worst_tile_is_where_the_damage_is(make_clip: object) -> None:
    golden = make_clip(4, 96, 160)  # type: ignore[operator]
    frames = np.array(golden.frames)
    frames[2, 70:90, 110:130] = 128
    found = find_metric("tile_ssim").measure(Pair(golden, Clip(frames)))
    assert found.per_frame is not None
    assert found.tiles is not None
    assert int(found.per_frame.argmin()) == 2
    box = found.tiles[2]
    assert box.x < 130
    assert box.x + box.width > 110
    assert box.y < 90
    assert box.y + box.height > 70


def test_names_are_known_without_importing_numpy() -> None:
    code = (
        "import sys; from harness.frames.registry import metric_names; names = metric_names();"
        "assert {'numpy', 'torch', 'numba'}.isdisjoint(sys.modules), sys.modules.keys(); print(*names)"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert tuple(done.stdout.split()) == metric_names()
    assert set(BUILT_IN) | {"lpips_alex", "lpips_vgg", "lpips_squeeze"} <= set(metric_names())


def test_a_metric_gates_if_its_class_states_so_and_those_of_the_optional_extra_do_not() -> None:
    assert gating_names() == tuple(name for name in BUILT_IN if find_metric(name).gates)
    assert {"ssim", "psnr", "mad", "tile_ssim", "flicker", "frame_order", "new_duplicates"} <= set(gating_names())
    assert not find_metric("lpips_alex").gates
