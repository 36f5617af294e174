"""Changes of finished frames, uint8 [T, H, W, 3]. Each gives an array of the same kind."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

Frames = NDArray[np.uint8]
Floats = NDArray[np.float64]
LUMA = np.array([0.299, 0.587, 0.114])


def _bytes(values: Floats) -> Frames:
    return np.clip(np.rint(values), 0, 255).astype(np.uint8)


def _each(change: Callable[[Floats], Floats]) -> Callable[[Frames], Frames]:
    """A change of values in floats, rounded and clipped."""
    return lambda frames: _bytes(change(frames.astype(np.float64)))


def _image(frames: Frames, change: Callable[[Any], Any]) -> Frames:
    from PIL import Image

    return np.stack([np.asarray(change(Image.fromarray(frame))) for frame in frames]).astype(np.uint8)


def _order(pick: Callable[[int], list[int]]) -> Callable[[Frames], Frames]:
    return lambda frames: np.ascontiguousarray(frames[pick(len(frames))])


def _exchanged(first: int, second: int) -> Callable[[int], list[int]]:
    def pick(count: int) -> list[int]:
        order = list(range(count))
        order[first], order[second] = order[second], order[first]
        return order

    return pick


def _set(frames: Frames, place: tuple[slice | int, ...], values: Any) -> Frames:
    frames[place] = values
    return frames


def _resized(frames: Frames, factor: float, method: str) -> Frames:
    from PIL import Image

    how = getattr(Image.Resampling, method)
    high, wide = frames.shape[1:3]
    small = (max(1, int(wide * factor)), max(1, int(high * factor)))
    return _image(frames, lambda image: image.resize(small, how).resize((wide, high), how))


def _jpeg(frames: Frames, quality: int, subsampling: int) -> Frames:
    from PIL import Image

    def change(image: Any) -> Any:
        buffer = io.BytesIO()
        image.save(buffer, "JPEG", quality=quality, subsampling=subsampling)
        buffer.seek(0)
        return Image.open(buffer).convert("RGB")

    return _image(frames, change)


def _chroma(frames: Frames) -> Frames:
    """Chroma at half resolution in both directions, nearest neighbour, luma untouched (4:2:0)."""
    values = frames.astype(np.float64)
    luma = values @ LUMA
    difference = values - luma[..., None]
    halved = difference[:, ::2, ::2].repeat(2, axis=1).repeat(2, axis=2)[:, : values.shape[1], : values.shape[2]]
    return _bytes(luma[..., None] + halved)


def _saturated(values: Floats, factor: float) -> Floats:
    luma: Floats = (values @ LUMA)[..., None]
    return luma + factor * (values - luma)


def _hue(values: Floats, degrees: float) -> Floats:
    """Rotation about the grey axis (Rodrigues)."""
    angle, axis = np.deg2rad(degrees), np.ones(3) / np.sqrt(3)
    cross = np.array([[0, -axis[2], axis[1]], [axis[2], 0, -axis[0]], [-axis[1], axis[0], 0]])
    turn = np.eye(3) * np.cos(angle) + np.sin(angle) * cross + (1 - np.cos(angle)) * np.outer(axis, axis)
    return values @ turn.T  # type: ignore[no-any-return]


def _blurred(frames: Frames, radius: float) -> Frames:
    from PIL import ImageFilter

    return _image(frames, lambda image: image.filter(ImageFilter.GaussianBlur(radius)))


def _sharpened(frames: Frames) -> Frames:
    from PIL import ImageFilter

    return _image(frames, lambda image: image.filter(ImageFilter.UnsharpMask(2, 150, 0)))


def _noisy(values: Floats, sigma: float) -> Floats:
    return values + np.random.default_rng(5).normal(0, sigma, values.shape)


def _overwritten_by_noise(frames: Frames) -> Frames:
    frames[6] = np.random.default_rng(7).integers(0, 256, frames[6].shape, dtype=np.uint8)
    return frames


def _seam(frames: Frames) -> Frames:
    """The right half is brighter, as a tile that was decoded apart and not blended."""
    half = frames.shape[2] // 2
    frames[:, :, half:] = _bytes(frames[:, :, half:].astype(np.float64) * 1.06 + 3)
    return frames


def _tiles_exchanged(frames: Frames) -> Frames:
    high, wide = frames.shape[1] // 2, frames.shape[2] // 2
    top = frames[:, :high, :wide].copy()
    frames[:, :high, :wide] = frames[:, :high, wide : 2 * wide]
    frames[:, :high, wide : 2 * wide] = top
    return frames


def _interlaced(frames: Frames) -> Frames:
    """Odd lines from the next frame."""
    frames[:-1, 1::2] = frames[1:, 1::2].copy()
    return frames


def _flicker(values: Floats) -> Floats:
    gain = np.where(np.arange(len(values)) % 2, 1.05, 0.95)
    return values * gain[:, None, None, None]


def _dithered(values: Floats) -> Floats:
    """Ordered dither to 32 levels."""
    pattern = np.array([[0, 2], [3, 1]]) / 4 - 0.375
    tiled = np.tile(pattern, (values.shape[1] // 2 + 1, values.shape[2] // 2 + 1))[: values.shape[1], : values.shape[2]]
    step = 255 / 31
    return np.rint(values / step + tiled[None, :, :, None]) * step


def _nudged(values: Floats, share: float) -> Floats:
    """Some values up or down by one level."""
    random = np.random.default_rng(11)
    return values + np.where(random.random(values.shape) < share, random.choice([-1.0, 1.0], values.shape), 0.0)


CHANGES: dict[str, Callable[[Frames], Frames]] = {
    "two_exchanged": _order(_exchanged(4, 11)),
    "neighbours_exchanged": _order(_exchanged(8, 9)),
    "reversed": _order(lambda count: list(range(count))[::-1]),
    "late_by_one": _order(lambda count: [0, *range(count - 1)]),
    "early_by_one": _order(lambda count: [*range(1, count), count - 1]),
    "rolled": _order(lambda count: [*range(5, count), *range(5)]),
    "one_duplicated": _order(lambda count: [*range(8), 7, *range(9, count)]),
    "one_dropped": _order(lambda count: [*range(8), *range(9, count), count - 1]),
    "every_second_repeated": _order(lambda count: [index - index % 2 for index in range(count)]),
    "chunks_exchanged": _order(lambda count: [0, *range(5, 9), *range(1, 5), *range(9, count)]),
    "bgr": lambda frames: np.ascontiguousarray(frames[..., ::-1]),
    "green_blue_exchanged": lambda frames: np.ascontiguousarray(frames[..., [0, 2, 1]]),
    "grey": _each(lambda values: np.repeat((values @ LUMA)[..., None], 3, axis=-1)),
    "limited_range": _each(lambda values: 16 + values * 219 / 255),
    "limited_range_expanded": _each(lambda values: (values - 16) * 255 / 219),
    "gamma_2_2": _each(lambda values: 255 * (values / 255) ** (1 / 2.2)),
    "gamma_1_1": _each(lambda values: 255 * (values / 255) ** 1.1),
    "gain_1_06": _each(lambda values: values * 1.06),
    "offset_6": _each(lambda values: values + 6),
    "one_channel_offset": _each(lambda values: values + np.array([0.0, 8.0, 0.0])),
    "saturation_0_7": _each(lambda values: _saturated(values, 0.7)),
    "hue_10": _each(lambda values: _hue(values, 10)),
    "inverted": lambda frames: 255 - frames,
    "contrast_0_9": _each(lambda values: 127.5 + 0.9 * (values - 127.5)),
    "shift_1_pixel": lambda frames: np.roll(frames, 1, axis=2),
    "shift_4_down": lambda frames: np.roll(frames, 4, axis=1),
    "mirrored": lambda frames: np.ascontiguousarray(frames[:, :, ::-1]),
    "upside_down": lambda frames: np.ascontiguousarray(frames[:, ::-1]),
    "half_and_back": lambda frames: _resized(frames, 0.5, "BILINEAR"),
    "nearest_and_back": lambda frames: _resized(frames, 0.75, "NEAREST"),
    "blocks_8": lambda frames: _resized(frames, 0.125, "BOX"),
    "jpeg_25": lambda frames: _jpeg(frames, 25, 0),
    "jpeg_60_420": lambda frames: _jpeg(frames, 60, 2),
    "chroma_420": _chroma,
    "frame_black": lambda frames: _set(frames, (10,), 0),
    "last_black": lambda frames: _set(frames, (-1,), 0),
    "frame_noise": _overwritten_by_noise,
    "frame_of_first": lambda frames: _set(frames, (12,), frames[0].copy()),
    "region_black": lambda frames: _set(frames, (slice(None), slice(20, 36), slice(40, 60)), 0),
    "logo": lambda frames: _set(frames, (slice(None), slice(2, 10), slice(2, 22)), (255, 255, 255)),
    "line_white": lambda frames: _set(frames, (slice(None), slice(31, 32)), 255),
    "region_one_frame": lambda frames: _set(frames, (9, slice(16, 32), slice(16, 48)), (0, 255, 0)),
    "seam": _seam,
    "tiles_exchanged": _tiles_exchanged,
    "edge_repeated": lambda frames: _set(
        frames, (slice(None), slice(None), slice(-6, None)), frames[:, :, -7:-6].copy()
    ),
    "posterised_16": lambda frames: (frames // 16) * 16 + 8,
    "dither_32": _each(_dithered),
    "interlaced": _interlaced,
    "flicker_5": _each(_flicker),
    "blur_1_2": lambda frames: _blurred(frames, 1.2),
    "sharpened": _sharpened,
    "noise_6": _each(lambda values: _noisy(values, 6)),
    "ghost": _each(lambda values: 0.6 * values + 0.4 * np.concatenate([values[:1], values[:-1]])),
    "wrapped": lambda frames: (frames.astype(np.int64) + 40).astype(np.uint8),
    # healthy
    "nudge_1_percent": _each(lambda values: _nudged(values, 0.01)),
    "nudge_10_percent": _each(lambda values: _nudged(values, 0.10)),
    "same": lambda frames: frames,
}
