"""The signal and its sketch are one thing in numpy and in torch."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.engine.probes import stimulus
from harness.engine.sketch import sketch


@settings(deadline=None, max_examples=30)
@given(count=st.integers(1, 700), seed=st.integers(0, 9))
def test_sketches_agree_with_torch(count: int, seed: int) -> None:
    values = np.random.default_rng(seed).normal(size=count).astype(np.float32)
    assert np.allclose(stimulus.sketch_array(values), sketch(torch.from_numpy(values)), rtol=1e-5, atol=1e-5)


def test_the_signal_has_its_amplitude_and_reaches_every_column() -> None:
    signal = stimulus.stimulus(96, 2.5)
    assert signal.shape == (stimulus.ROWS, 96)
    assert np.sqrt(np.mean(signal**2)) == pytest.approx(2.5, rel=1e-5)
    assert (np.abs(signal) > 1.0).all()
    assert abs(float(np.sign(signal).mean())) < 0.1


def test_distances_of_sketches_estimate_distances() -> None:
    random = np.random.default_rng(0)
    ratios = []
    for _ in range(200):
        a = random.normal(size=4096)
        b = a + 0.1 * random.normal(size=4096)
        off = np.linalg.norm(stimulus.sketch_array(a) - stimulus.sketch_array(b))
        size = np.linalg.norm(stimulus.sketch_array(b))
        ratios.append((off / size) / (np.linalg.norm(a - b) / np.linalg.norm(b)))
    assert np.mean(ratios) == pytest.approx(1.0, abs=0.05)
    assert np.std(ratios) < 0.2
