"""Sketches: they estimate norms and distances, and they are the same for ever."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from harness.engine.sketch import sketch


def _normal(count: int, seed: int) -> torch.Tensor:
    return torch.randn(count, generator=torch.Generator().manual_seed(seed))


def _estimate(x: torch.Tensor) -> float:
    return float(np.sqrt(np.mean(np.square(sketch(x)))))


@pytest.mark.parametrize("count", [64, 1000, 7680, 100_000])
def test_a_sketch_estimates_the_norm(count: int) -> None:
    ratios = [_estimate(_normal(count, seed)) / float(_normal(count, seed).norm()) for seed in range(20)]
    assert np.mean(ratios) == pytest.approx(1.0, abs=0.08)
    assert max(abs(ratio - 1) for ratio in ratios) < 0.5


def test_a_constant_tensor_is_no_special_case() -> None:
    assert _estimate(torch.ones(64 * 400)) == pytest.approx(160.0, rel=0.4)


def test_sketches_are_linear_so_that_differences_estimate_distances() -> None:
    a, b = _normal(7680, 1), _normal(7680, 2)
    difference = np.subtract(sketch(a), sketch(b))
    np.testing.assert_allclose(difference, sketch(a - b), atol=1e-3)


def test_one_changed_value_moves_exactly_one_entry() -> None:
    a = _normal(640, 1)
    b = a.clone()
    b[130] += 1.0
    moved = np.flatnonzero(np.subtract(sketch(a), sketch(b)))
    assert moved.tolist() == [130 % 64]


def test_signs_are_those_of_splitmix64() -> None:
    mask, seed = 2**64 - 1, 0x517E7C4A110D1F37
    signs = []
    for position in range(1, 257):
        z = (position * 0x9E3779B97F4A7C15 + seed) & mask
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & mask
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & mask
        signs.append(1 if (z ^ (z >> 31)) >> 63 else -1)
    for position in (0, 1, 63, 64, 255):
        one_hot = torch.zeros(256)
        one_hot[position] = 1.0
        assert sketch(one_hot)[position % 64] == 8.0 * signs[position]
    assert abs(sum(signs)) < 50


def test_nan_stays_visible() -> None:
    x = _normal(640, 1)
    x[3] = float("nan")
    assert np.isnan(sketch(x)).tolist() == [index == 3 for index in range(64)]
