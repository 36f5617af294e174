"""Each change of finished frames is named; another picture, drift and noise are not given a cause."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from harness.definitions.causes import FRAME_CAUSES
from harness.frames.hypotheses import explain

Frames = npt.NDArray[np.floating[Any]]
T, H, W = 9, 48, 64


def scene(seed: int = 0) -> Frames:
    """Coloured texture that drifts to the right: [T, H, W, 3] in 0..1."""
    from scipy.ndimage import gaussian_filter

    rng = np.random.default_rng(seed)
    wide = gaussian_filter(rng.standard_normal((H, W + 6 * T, 3)), (1.5, 1.5, 0))
    wide = 0.5 + 0.16 * wide / wide.std() + np.array([0.08, 0.0, -0.06])
    return np.stack([wide[:, 6 * (T - t) : 6 * (T - t) + W] for t in range(T)]).clip(0, 1)


def levels(frames: Frames) -> npt.NDArray[np.uint8]:
    noisy = frames + np.random.default_rng(9).normal(0, 0.002, frames.shape)
    return np.rint(np.clip(noisy, 0, 1) * 255).astype(np.uint8)


def order(*index: int) -> Callable[[Frames], Frames]:
    return lambda f: f[list(index)]


def put(frames: Any, value: Any) -> Callable[[Frames], Frames]:
    def change(f: Frames) -> Frames:
        out = f.copy()
        out[frames] = value(out[frames]) if callable(value) else value
        return out

    return change


def jpeg(f: Frames) -> Frames:
    from PIL import Image

    out = []
    for frame in levels(f):
        file = io.BytesIO()
        Image.fromarray(frame).save(file, "JPEG", quality=17)
        out.append(np.asarray(Image.open(file)) / 255)
    return np.stack(out)


def mesh(f: Frames) -> Frames:
    y, x = np.mgrid[:H, :W]
    return np.asarray(f + 0.05 * np.where((x + y) % 4 == 0, 1, -1)[None, :, :, None])


def grey(f: Frames) -> Frames:
    return np.asarray((f @ np.array([0.299, 0.587, 0.114]))[..., None])


NOISE = np.random.default_rng(3).random((T, H, W, 3))
FAULTS: dict[str, tuple[str, Callable[[Frames], Frames]]] = {
    "reversed": ("frames_reversed", lambda f: f[::-1]),
    "off by one": ("frames_shifted", order(1, 2, 3, 4, 5, 6, 7, 8, 8)),
    "swapped": ("frames_permuted", order(0, 1, 6, 3, 4, 5, 2, 7, 8)),
    "frozen": ("frames_frozen", order(0, 1, 2, 3, 3, 3, 3, 3, 3)),
    "dropped": ("frames_dropped", order(0, 1, 2, 3, 5, 6, 7, 8, 8)),
    "ghosting": ("frames_blended", lambda f: 0.7 * f + 0.3 * f[[0, *range(T - 1)]]),
    "bgr": ("channels_exchanged", lambda f: f[..., ::-1]),
    "limited": ("limited_range", lambda f: f * 219 / 255 + 16 / 255),
    "gamma": ("gamma", lambda f: f**1.3),
    "gain": ("gain", lambda f: f * 0.9),
    "offset": ("offset", lambda f: f + 0.04),
    "tint": ("tint", lambda f: f + np.array([0.04, 0.0, -0.03])),
    "saturation": ("saturation", lambda f: grey(f) + 0.5 * (f - grey(f))),
    "flipped": ("flipped", lambda f: f[:, :, ::-1]),
    "moved": ("shifted", lambda f: np.roll(f, (2, 3), (1, 2))),
    "half resolution": ("resized", lambda f: f[:, ::2, ::2].repeat(2, 1).repeat(2, 2)),
    "codec": ("codec", jpeg),
    "mesh": ("mesh", mesh),
    "flash": ("flash", put(4, lambda f: f + 0.08)),
    "black frame": ("frames_overwritten", put(5, 0.0)),
    "noise from frame 1": ("frames_overwritten", put(slice(1, None), NOISE[1:])),
    "black box": ("region_overwritten", put((slice(None), slice(8, 24), slice(16, 40)), 0.0)),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_change_of_finished_frames_is_named(name: str) -> None:
    code, change = FAULTS[name]
    golden = scene()
    assert code in FRAME_CAUSES
    named = [row.code for row in explain(levels(golden), levels(change(golden)))]
    assert code in named[:2], named


def test_another_picture_has_no_cause() -> None:
    assert explain(levels(scene()), levels(scene(5))) == ()


def test_equal_frames_have_no_cause() -> None:
    golden = levels(scene())
    assert explain(golden, golden) == ()


def test_clips_of_other_shapes_are_refused() -> None:
    golden = levels(scene())
    with pytest.raises(ValueError, match="shapes"):
        explain(golden, golden[1:])


def pictures() -> Frames:
    """Frames of high contrast, as of a drawn scene: black and white shapes that move."""
    y, x = np.mgrid[:H, :W]
    return np.stack([np.repeat(((((x + 2 * t) // 16 + y // 12) % 2) * 0.9 + 0.05)[..., None], 3, 2) for t in range(T)])


def test_noise_in_place_of_a_picture_is_named_whatever_the_pictures_contrast() -> None:
    """The error of such frames is mostly the picture that is missing: noise is judged by what they show."""
    golden = pictures()
    first_only = golden.copy()
    first_only[1:] = 0.5 + 0.2 * np.random.default_rng(3).standard_normal(first_only[1:].shape)
    best = explain(levels(golden), levels(first_only))[0]
    assert best.code == "frames_overwritten"
    assert "only the first frame is right" in best.sentence
    assert "noise" in best.sentence


def test_one_bright_frame_is_a_flash_before_it_is_an_offset() -> None:
    golden = scene()
    bright = golden.copy()
    bright[4] += 0.08
    assert explain(levels(golden), levels(bright))[0].code == "flash"
    assert explain(levels(golden), levels(golden + 0.05))[0].code == "offset"


@pytest.mark.parametrize(
    ("change", "code"),
    [
        (lambda f: f[..., ::-1], "channels_exchanged"),
        (lambda f: f[:, :, ::-1], "flipped"),
        (lambda f: f[:, ::-1], "flipped"),
        (lambda f: np.roll(f, 3, axis=2), "shifted"),
    ],
)
def test_a_change_that_moves_no_frames_mean_is_named_without_noise_too(
    change: Callable[[npt.NDArray[np.uint8]], npt.NDArray[np.uint8]], code: str
) -> None:
    """Pixels in another place, exactly: the sums of every frame stay what they were."""
    golden = levels(scene())
    assert explain(golden, np.ascontiguousarray(change(golden)))[0].code == code
