"""At most one level in any value, and each sample moves what it is there for."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from harness.calibrate.samples import rounding_samples

CLIPS = npst.arrays(np.uint8, st.tuples(st.integers(1, 5), st.integers(1, 9), st.integers(1, 9), st.just(3)))


@given(CLIPS)
def test_at_most_one_level_and_the_same_every_time(frames: np.ndarray) -> None:
    first, second = rounding_samples(frames), rounding_samples(frames)
    for label, moved in first.items():
        assert moved.dtype == np.uint8
        assert np.abs(moved.astype(int) - frames).max() <= 1
        assert np.array_equal(moved, second[label])


def test_each_moves_what_it_is_there_for() -> None:
    grey = np.full((8, 16, 16, 3), 128, np.uint8)
    samples = rounding_samples(grey)
    means = {label: moved.mean(axis=(1, 2, 3)) - 128 for label, moved in samples.items()}
    assert np.allclose(means["rounding-up"], 1)
    assert np.allclose(means["rounding-down"], -1)
    assert np.abs(means["rounding-noise"]).max() < 0.2
    assert set(np.round(means["rounding-frames"], 3)) == {-0.5, 0.5}
