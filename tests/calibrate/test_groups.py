"""Healthy runs of a bistable case form groups of frames; noise, drift and one far run do not."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from harness.calibrate.modes import distances, groups_of, nearest_group
from harness.frames.clip import Clip

BASE = np.tile(np.linspace(40.0, 200.0, 48), (5, 32, 1))[..., None].repeat(3, 3)


def runs(offsets: Sequence[float], noise: float = 0.4) -> list[Clip]:
    """Clips whose picture is moved along its ramp by ``offsets`` levels, with noise of a standard deviation."""
    random = np.random.default_rng(1)
    return [
        Clip(np.rint(np.clip(BASE + offset + random.normal(0, noise, BASE.shape), 0, 255)).astype(np.uint8))
        for offset in offsets
    ]


def test_distances_are_root_mean_squares_in_levels() -> None:
    flat = [Clip(np.full((2, 4, 4, 3), level, np.uint8)) for level in (10, 13, 20)]
    assert distances(flat)[0].tolist() == pytest.approx([0, 3, 10])


@pytest.mark.parametrize("noise", [0.0, 0.4])
def test_two_results_by_chance_are_two_groups_in_order_of_the_first_run(noise: float) -> None:
    clips = runs([4, 0, 4, 4, 0, 0, 4, 0], noise)
    groups = groups_of(clips)
    assert [group.members for group in groups] == [(0, 2, 3, 6), (1, 4, 5, 7)]
    assert all(group.middle in group.members for group in groups)
    assert nearest_group(runs([0.5])[0], clips, groups) == 1


def test_one_far_run_beside_two_groups_belongs_to_none() -> None:
    groups = groups_of(runs([0, 0, 0, 0, 6, 6, 6, 6, 40]))
    assert [group.members for group in groups] == [(0, 1, 2, 3), (4, 5, 6, 7)]


@pytest.mark.parametrize(
    "offsets",
    [
        [0.0] * 12,
        [0.0] * 10 + [9.0],
        [0.0] * 10 + [9.0] * 2,
        list(np.linspace(0, 9, 12)),
        [0.0] * 6 + [0.3] * 6,
        [0.0, 0.0, 9.0, 9.0],
    ],
    ids=["noise", "one far run", "two far runs", "drift", "less than rounding", "too few"],
)
def test_anything_else_is_one_group(offsets: list[float]) -> None:
    assert groups_of(runs(offsets)) == ()


def test_noise_of_any_size_is_hardly_ever_two_groups() -> None:
    random = np.random.default_rng(3)
    wrong = 0
    for _ in range(100):
        moved = [np.rint(BASE[:, :8, :8] + random.normal(0, random.lognormal(0, 0.7), (5, 8, 8, 3))) for _ in range(8)]
        wrong += bool(groups_of([Clip(np.clip(one, 0, 255).astype(np.uint8)) for one in moved]))
    assert wrong <= 1
