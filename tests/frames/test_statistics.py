"""The pass over the pixels agrees with scikit-image and numpy, whatever the size of the frames."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from harness.frames.clip import Clip
from harness.frames.compare import compare
from harness.frames.errors import ClipMismatchError
from harness.frames.statistics import PairStatistics, edges, pair_statistics
from tests.frames.reference import reference_statistics


def close(one: PairStatistics, two: PairStatistics) -> None:
    assert one.shape == two.shape
    assert np.array_equal(one.squared_error, two.squared_error)
    assert np.array_equal(one.absolute_error, two.absolute_error)
    assert (one.ssim_tiles is None) == (two.ssim_tiles is None)
    if one.ssim_tiles is not None and two.ssim_tiles is not None:
        # a tile has at least 3 values and at most 47 * 47 * 3
        np.testing.assert_allclose(one.ssim_tiles, two.ssim_tiles, rtol=1e-5, atol=1e-3)
    for a, b in ((one.golden, two.golden), (one.candidate, two.candidate)):
        for name in ("sums", "squares", "motion"):
            assert np.array_equal(getattr(a, name), getattr(b, name)), name
        for name in ("laplacian", "thumbnails"):
            np.testing.assert_allclose(getattr(a, name), getattr(b, name), rtol=1e-6, atol=1e-6, err_msg=name)
    assert one.time.golden_change == pytest.approx(two.time.golden_change, rel=1e-5, abs=1e-6)
    assert one.time.candidate_change == pytest.approx(two.time.candidate_change, rel=1e-5, abs=1e-6)
    np.testing.assert_allclose(one.time.distance, two.time.distance, rtol=1e-3, atol=2e-3)


@settings(max_examples=25, deadline=None)
@given(
    shape=st.tuples(st.integers(1, 4), st.integers(1, 70), st.integers(1, 90)),
    seed=st.integers(0, 2**32 - 1),
    smooth=st.booleans(),
    threads=st.integers(1, 3),
)
def test_the_pass_agrees_with_the_reference(shape: tuple[int, int, int], seed: int, smooth: bool, threads: int) -> None:
    rng = np.random.default_rng(seed)
    frames = rng.integers(0, 256, (*shape, 3))
    other = (
        np.clip(frames + rng.integers(-9, 10, frames.shape), 0, 255) if smooth else rng.integers(0, 256, frames.shape)
    )
    golden, candidate = Clip(frames.astype(np.uint8)), Clip(other.astype(np.uint8))
    close(pair_statistics(golden, candidate, threads), reference_statistics(golden, candidate))


@pytest.mark.parametrize("size", [(7, 7), (8, 33), (40, 56), (101, 133)])
def test_ssim_and_psnr_equal_scikit_image(make_clip: object, size: tuple[int, int]) -> None:
    golden, candidate = make_clip(3, *size), make_clip(3, *size, seed=1, noise=9)  # type: ignore[operator]
    evidence = compare(golden, candidate, ["ssim", "psnr", "mad", "tile_ssim"])
    ssim, psnr, mad, tile = evidence.metrics
    for index, (one, two) in enumerate(zip(golden.frames, candidate.frames, strict=True)):
        value, full = structural_similarity(one, two, channel_axis=-1, full=True)
        assert ssim.per_frame[index] == pytest.approx(value, abs=1e-6)
        assert psnr.per_frame[index] == pytest.approx(peak_signal_noise_ratio(one, two), abs=1e-9)
        assert mad.per_frame[index] == pytest.approx(np.abs(one.astype(float) - two).mean(), abs=1e-9)
        if index == tile.worst_frame:
            assert tile.worst_tile is not None
            box = tile.worst_tile
            inside = full[box.y : box.y + box.height, box.x : box.x + box.width]
            assert tile.worst == pytest.approx(inside.mean(), abs=1e-5)


@pytest.mark.parametrize("values", [(0, 255), (255, 255), (0, 0), (255, 0)])
def test_extremes_do_not_overflow(values: tuple[int, int]) -> None:
    golden, candidate = (Clip(np.full((2, 60, 70, 3), value, np.uint8)) for value in values)
    close(pair_statistics(golden, candidate), reference_statistics(golden, candidate))


def test_a_wide_checkerboard_does_not_overflow() -> None:
    board = (np.indices((16, 9000)).sum(axis=0) % 2 * 255).astype(np.uint8)
    golden = Clip(np.repeat(board[None, :, :, None], 3, axis=3))
    candidate = Clip(255 - golden.frames)
    close(pair_statistics(golden, candidate), reference_statistics(golden, candidate))


def test_without_a_cache_folder_the_kernel_is_compiled_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    from harness.frames import kernel

    asked: list[bool] = []
    real = kernel.numba.njit

    def no_cache(*args: object, cache: bool = False, **options: object) -> object:
        asked.append(cache)
        if cache:
            raise RuntimeError("cannot cache function: no locator available")
        return real(*args, **options)

    monkeypatch.setattr(kernel.numba, "njit", no_cache)
    assert kernel.compiled(lambda x: x + 1)(2) == 3
    assert asked == [True, False]


@given(length=st.integers(1, 300), step=st.integers(1, 40), share=st.floats(0, 1))
def test_strips_cover_everything_once(length: int, step: int, share: float) -> None:
    minimum = max(1, round(share * step))
    borders = edges(length, step, minimum)
    widths = np.diff(borders)
    assert borders[0] == 0
    assert borders[-1] == length
    assert (widths > 0).all()
    assert len(widths) == 1 or (widths[:-1] == step).all()
    assert len(widths) == 1 or minimum <= widths[-1] < step + minimum


@pytest.mark.parametrize(
    ("other", "message"), [((4, 8, 8), "frames 4 instead of 5"), ((5, 9, 8), "height 9 instead of 8")]
)
def test_another_shape_is_refused_by_name(make_clip: object, other: tuple[int, int, int], message: str) -> None:
    with pytest.raises(ClipMismatchError, match=message):
        compare(make_clip(5, 8, 8), make_clip(*other))  # type: ignore[operator]
