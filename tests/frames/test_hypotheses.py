"""Each change of finished frames is named; another picture, drift and noise are not given a cause."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from harness.frames.causes import EXPLANATIONS
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


def coded(coder: str, quality: int) -> Callable[[Frames], Frames]:
    """Compress and decompress each frame with one of Pillow's coders."""
    from PIL import Image

    def change(f: Frames) -> Frames:
        out = []
        for frame in levels(f):
            file = io.BytesIO()
            Image.fromarray(frame).save(file, coder, quality=quality)
            out.append(np.asarray(Image.open(file).convert("RGB")) / 255)
        return np.stack(out)

    return change


def late(f: Frames) -> Frames:
    out = f.copy()
    out[1:, ..., 0] = f[:-1, ..., 0]
    return out


def letterbox(f: Frames) -> Frames:
    from PIL import Image

    out = np.zeros_like(f)
    small = [Image.fromarray(frame).resize((W, H - 12), Image.Resampling.BILINEAR) for frame in levels(f)]
    out[:, 6 : H - 6] = np.stack([np.asarray(frame) / 255 for frame in small])
    return out


def zoom(f: Frames) -> Frames:
    from PIL import Image

    box = (W * 0.1, H * 0.1, W * 0.9, H * 0.9)
    large = [Image.fromarray(frame).resize((W, H), Image.Resampling.BICUBIC, box=box) for frame in levels(f)]
    return np.stack([np.asarray(frame) / 255 for frame in large])


def mesh(f: Frames) -> Frames:
    y, x = np.mgrid[:H, :W]
    return np.asarray(f + 0.05 * np.where((x + y) % 4 == 0, 1, -1)[None, :, :, None])


def grey(f: Frames) -> Frames:
    return np.asarray((f @ np.array([0.299, 0.587, 0.114]))[..., None])


def smooth(f: Frames, sigma: float) -> Frames:
    from scipy.ndimage import gaussian_filter

    return np.asarray(gaussian_filter(f, (0, sigma, sigma, 0)))


def means(f: Frames, side: int) -> Frames:
    """Blocks of ``side`` pixels, each replaced by its mean."""
    cut = f.reshape(T, H // side, side, W // side, side, 3)
    return np.asarray(cut.mean((2, 4)).repeat(side, 1).repeat(side, 2))


def other_matrix(f: Frames) -> Frames:
    """Write YCbCr with the luma weights of BT.601, and read it with those of BT.709."""
    written, read = np.array([0.299, 0.587, 0.114]), np.array([0.2126, 0.7152, 0.0722])
    luma = f @ written
    red = luma + (f[..., 0] - luma) * (1 - read[0]) / (1 - written[0])
    blue = luma + (f[..., 2] - luma) * (1 - read[2]) / (1 - written[2])
    green = (luma - read[0] * red - read[2] * blue) / read[1]
    return np.stack([red, green, blue], axis=-1)


def hue(f: Frames) -> Frames:
    """Turn the colours by 40 degrees in YIQ (NTSC 1953)."""
    yiq = np.array([[0.299, 0.587, 0.114], [0.596, -0.274, -0.322], [0.211, -0.523, 0.312]])
    turn = np.radians(40)
    rotation = [[1, 0, 0], [0, np.cos(turn), -np.sin(turn)], [0, np.sin(turn), np.cos(turn)]]
    return np.asarray(f @ (np.linalg.inv(yiq) @ rotation @ yiq).T)


def over_time(values: Any) -> Callable[[Frames], Frames]:
    return lambda f: f + np.asarray(values)[:, None, None, None]


def salt(f: Frames) -> Frames:
    rng = np.random.default_rng(4)
    return np.where(rng.random((T, H, W, 1)) < 0.02, rng.integers(0, 2, (T, H, W, 1)), f)


def exchanged_tiles(f: Frames) -> Frames:
    out = f.copy()
    out[:, :24, :32], out[:, 24:, 32:] = f[:, 24:, 32:], f[:, :24, :32]
    return out


def fields(f: Frames) -> Frames:
    out = f.copy()
    out[:-1, 1::2] = f[1:, 1::2]
    return out


def nearest(length: int) -> npt.NDArray[np.int64]:
    """Places that a row keeps after it was resized to three quarters and back by nearest."""
    small = np.floor((np.arange(length * 3 // 4) + 0.5) * length / (length * 3 // 4)).astype(np.int64)
    return small[np.floor((np.arange(length) + 0.5) * 0.75).astype(np.int64)]


def every_second(f: Frames) -> Frames:
    return f[:, ::2, ::2].repeat(2, 1).repeat(2, 2)


def dither(f: Frames) -> Frames:
    pattern = np.tile(np.array([[-0.375, 0.125], [0.375, -0.125]]), (H // 2, W // 2))
    return np.clip(np.rint(f * 31 + pattern[None, :, :, None]) / 31, 0, 1)


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
    "codec": ("codec", coded("JPEG", 17)),
    "mesh": ("mesh", mesh),
    "flash": ("flash", put(4, lambda f: f + 0.08)),
    "black frame": ("frames_overwritten", put(5, 0.0)),
    "noise from frame 1": ("frames_overwritten", put(slice(1, None), NOISE[1:])),
    "averaged blocks": ("blocks", lambda f: means(f, 8)),
    "soft": ("blur", lambda f: smooth(f, 1.6)),
    "sharp": ("sharpened", lambda f: f + 0.8 * (f - smooth(f, 1.0))),
    "fade": ("brightness_drift", over_time(np.linspace(-0.08, 0.08, T))),
    "blinking": ("flicker", over_time(np.where(np.arange(T) % 2, 0.05, -0.05))),
    "statistics of the VAE": (
        "channel_affine",
        lambda f: f * np.array([1.3, 1.0, 0.75]) + np.array([-0.1, 0.05, 0.12]),
    ),
    "BT.601 read as BT.709": ("colour_matrix", other_matrix),
    "coarse colour": ("chroma_subsampling", lambda f: grey(f) + means(f - grey(f), 4)),
    "hue": ("hue", hue),
    "contrast": ("contrast", lambda f: (f - 0.5) * 1.3 + 0.47),
    "negative": ("inverted", lambda f: 1 - f),
    "lines": ("tile_seams", put((slice(None), slice(24, 25)), lambda f: f + 0.15)),
    "bright tile": ("tile_seams", put((slice(None), slice(0, 24), slice(0, 32)), lambda f: f + 0.05)),
    "exchanged tiles": ("tiles_exchanged", exchanged_tiles),
    "rows for columns": ("transposed", lambda f: f.transpose(0, 2, 1, 3).reshape(T, H, W, 3)),
    "half frame rate": ("frames_repeated", lambda f: f[np.arange(T) // 2 * 2]),
    "one frame twice": ("frames_repeated", order(0, 1, 2, 3, 4, 4, 6, 7, 8)),
    "grain": ("noise_added", lambda f: f + 0.3 * (NOISE - 0.5)),
    "salt and pepper": ("noise_added", salt),
    "eight levels": ("quantized_levels", lambda f: np.floor(f * 8) / 8),
    "lower half lost": ("value_range", lambda f: f * 2 - 1),
    "half plus a half": ("value_range", lambda f: f / 2 + 0.5),
    "every line of another frame": ("interlaced", fields),
    "bytes that overflow": ("wrapped", lambda f: np.rint(f * 255 + 60) % 256 / 255),
    "three quarters by nearest": ("resized", lambda f: f[:, nearest(H)][:, :, nearest(W)]),
    "colour of every second pixel": ("chroma_subsampling", lambda f: grey(f) + every_second(f - grey(f))),
    "letterbox, squeezed": ("bars", letterbox),
    "bars over the sides": ("bars", put((slice(None), slice(None), np.r_[0:6, W - 6 : W]), 0.0)),
    "zoom": ("zoomed", zoom),
    "no red": ("channel_affine", lambda f: f * np.array([0.0, 1.0, 1.0])),
    "red comes late": ("frames_shifted", late),
    "webp": ("codec", coded("WEBP", 8)),
    "black box": ("region_overwritten", put((slice(None), slice(8, 24), slice(16, 40)), 0.0)),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_change_of_finished_frames_is_named(name: str) -> None:
    code, change = FAULTS[name]
    golden = scene()
    assert code in EXPLANATIONS
    named = [row.code for row in explain(levels(golden), levels(change(golden)))]
    assert code in named[:2], named


def test_every_explanation_is_named_by_some_change() -> None:
    assert {code for code, _ in FAULTS.values()} == EXPLANATIONS


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
        (lambda f: np.rint(dither(f / 255) * 255).astype(np.uint8), "quantized_levels"),
    ],
)
def test_an_exact_change_is_named_without_noise_too(
    change: Callable[[npt.NDArray[np.uint8]], npt.NDArray[np.uint8]], code: str
) -> None:
    """Pixels in another place, exactly: the sums of every frame stay what they were."""
    golden = levels(scene())
    assert explain(golden, np.ascontiguousarray(change(golden)))[0].code == code


@pytest.mark.parametrize("amplitude", [0.03, 0.06, 0.1])
def test_a_crosshatch_is_a_mesh_and_not_an_ordered_dither(amplitude: float) -> None:
    golden = scene()
    y, x = np.mgrid[:H, :W]
    hatch = np.where(((x + y) % 4 == 0) | ((x - y) % 4 == 0), 1, -1)[None, :, :, None]
    noise = np.random.default_rng(2).normal(0, 0.002, golden.shape)
    assert explain(levels(golden), levels(golden + amplitude * hatch + noise))[0].code == "mesh"


@pytest.mark.parametrize("count", [8, 16, 32])
def test_an_ordered_dither_is_no_mesh(count: int) -> None:
    golden = scene()
    bayer = np.array([[0, 8, 2, 10], [12, 4, 14, 6], [3, 11, 1, 9], [15, 7, 13, 5]]) / 16 - 15 / 32
    threshold = np.tile(bayer, (-(-H // 4), -(-W // 4)))[None, :H, :W, None]
    finished = levels(golden) / 255  # a codec dithers finished frames
    dithered = np.rint(finished * (count - 1) + threshold) / (count - 1)
    assert explain(levels(golden), levels(dithered))[0].code == "quantized_levels"
