"""The three passes agree with each other and with scikit-image, whatever the size of the frames."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from harness.frames.clip import Clip
from harness.frames.compare import compare
from harness.frames.errors import ClipMismatchError, MetricUnavailableError
from harness.frames.statistics import Implementation, PairStatistics, edges, pair_statistics

FAST: tuple[Implementation, ...] = ("numba", "torch")


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
def test_passes_agree(shape: tuple[int, int, int], seed: int, smooth: bool, threads: int) -> None:
    rng = np.random.default_rng(seed)
    frames = rng.integers(0, 256, (*shape, 3))
    other = (
        np.clip(frames + rng.integers(-9, 10, frames.shape), 0, 255) if smooth else rng.integers(0, 256, frames.shape)
    )
    golden, candidate = Clip(frames.astype(np.uint8)), Clip(other.astype(np.uint8))
    reference = pair_statistics(golden, candidate, "scikit-image")
    close(pair_statistics(golden, candidate, "numba", threads=threads), reference)
    close(pair_statistics(golden, candidate, "torch"), reference)


@pytest.mark.parametrize("implementation", FAST)
@pytest.mark.parametrize("size", [(7, 7), (8, 33), (40, 56), (101, 133)])
def test_ssim_and_psnr_equal_scikit_image(
    make_clip: object, implementation: Implementation, size: tuple[int, int]
) -> None:
    golden, candidate = make_clip(3, *size), make_clip(3, *size, seed=1, noise=9)  # type: ignore[operator]
    evidence = compare(golden, candidate, ["ssim", "psnr", "mad", "tile_ssim"], implementation=implementation)
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


@pytest.mark.parametrize("implementation", FAST)
@pytest.mark.parametrize("values", [(0, 255), (255, 255), (0, 0), (255, 0)])
def test_extremes_do_not_overflow(implementation: Implementation, values: tuple[int, int]) -> None:
    golden, candidate = (Clip(np.full((2, 60, 70, 3), value, np.uint8)) for value in values)
    close(pair_statistics(golden, candidate, implementation), pair_statistics(golden, candidate, "scikit-image"))


@pytest.mark.parametrize("implementation", FAST)
def test_a_wide_checkerboard_does_not_overflow(implementation: Implementation) -> None:
    board = (np.indices((16, 9000)).sum(axis=0) % 2 * 255).astype(np.uint8)
    golden = Clip(np.repeat(board[None, :, :, None], 3, axis=3))
    candidate = Clip(255 - golden.frames)
    close(pair_statistics(golden, candidate, implementation), pair_statistics(golden, candidate, "scikit-image"))


def test_torch_in_chunks_equals_torch_at_once(make_clip: object, monkeypatch: pytest.MonkeyPatch) -> None:
    golden, candidate = make_clip(7, 20, 24), make_clip(7, 20, 24, seed=1, noise=5)  # type: ignore[operator]
    whole = pair_statistics(golden, candidate, "torch")
    monkeypatch.setattr("harness.frames.kernels.tensors.CHUNK_VALUES", {"cpu": 2 * 20 * 24 * 3})
    close(pair_statistics(golden, candidate, "torch"), whole)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("implementation", ["triton", "torch"])
@pytest.mark.parametrize("size", [(1, 1), (7, 7), (39, 23), (480, 832)])
def test_the_gpu_equals_the_reference(make_clip: object, implementation: Implementation, size: tuple[int, int]) -> None:
    golden, candidate = make_clip(5, *size), make_clip(5, *size, seed=1, noise=9)  # type: ignore[operator]
    close(
        pair_statistics(golden, candidate, implementation, "cuda"), pair_statistics(golden, candidate, "scikit-image")
    )


def test_without_a_cache_folder_the_kernel_is_compiled_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    from harness.frames.kernels import numba_rows

    asked: list[bool] = []
    real = numba_rows.numba.njit

    def no_cache(*args: object, cache: bool = False, **options: object) -> object:
        asked.append(cache)
        if cache:
            raise RuntimeError("cannot cache function: no locator available")
        return real(*args, **options)

    monkeypatch.setattr(numba_rows.numba, "njit", no_cache)
    assert numba_rows.compiled(lambda x: x + 1)(2) == 3
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
    ("other", "said"), [((4, 8, 8), "frames 4 instead of 5"), ((5, 9, 8), "height 9 instead of 8")]
)
def test_another_shape_is_refused_by_name(make_clip: object, other: tuple[int, int, int], said: str) -> None:
    with pytest.raises(ClipMismatchError, match=said):
        compare(make_clip(5, 8, 8), make_clip(*other))  # type: ignore[operator]


def test_cpu_implementations_say_that_they_have_no_gpu(make_clip: object) -> None:
    clip = make_clip(1, 8, 8)  # type: ignore[operator]
    with pytest.raises(MetricUnavailableError, match="CPU"):
        pair_statistics(clip, clip, "numba", device="cuda")
    with pytest.raises(MetricUnavailableError, match="unknown implementation"):
        pair_statistics(clip, clip, "cupy")  # type: ignore[arg-type]
