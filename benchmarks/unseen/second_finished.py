"""Changes of finished frames for the second list, uint8 [T, H, W, 3]. Each gives an array of the same kind."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Frames = NDArray[np.uint8]
Floats = NDArray[np.float64]
BT601, BT709 = np.array([0.299, 0.587, 0.114]), np.array([0.2126, 0.7152, 0.0722])


def _bytes(values: Floats) -> Frames:
    return np.clip(np.rint(values), 0, 255).astype(np.uint8)


def _images(frames: Frames, change: Callable[[Any], Any]) -> Frames:
    return np.stack([np.asarray(change(Image.fromarray(frame))) for frame in frames]).astype(np.uint8)


def _to_differences(luma: NDArray[np.float64]) -> Floats:
    """Matrix [3, 3] from RGB to Y, Cb, Cr with these weights of luma."""
    blue, red = (np.eye(3)[2] - luma) / (2 * (1 - luma[2])), (np.eye(3)[0] - luma) / (2 * (1 - luma[0]))
    return np.stack([luma, blue, red])


def _letterbox(frames: Frames) -> Frames:
    """Black bars above and below; the picture in between is squeezed."""
    height, width = frames.shape[1:3]
    bar = height // 8
    made = np.zeros_like(frames)
    made[:, bar : height - bar] = _images(
        frames, lambda image: image.resize((width, height - 2 * bar), Image.Resampling.BILINEAR)
    )
    return made


def _cropped(frames: Frames) -> Frames:
    """The middle 90 % are enlarged to the whole frame."""
    height, width = frames.shape[1:3]
    box = (width * 0.05, height * 0.05, width * 0.95, height * 0.95)
    return _images(frames, lambda image: image.resize((width, height), Image.Resampling.BICUBIC, box=box))


def _other_matrix(frames: Frames) -> Frames:
    """Written with the matrix of BT.601 and read with that of BT.709."""
    turn = np.linalg.inv(_to_differences(BT709)) @ _to_differences(BT601)
    return _bytes(frames.astype(np.float64) @ turn.T)


def _chroma_exchanged(frames: Frames) -> Frames:
    """Cb and Cr change places."""
    forth = _to_differences(BT601)
    turn = np.linalg.inv(forth) @ forth[[0, 2, 1]]
    return _bytes(frames.astype(np.float64) @ turn.T)


def _chroma_shifted(frames: Frames) -> Frames:
    """Colour differences lie two pixels to the right of the luma."""
    forth = _to_differences(BT601)
    planes = frames.astype(np.float64) @ forth.T
    planes[..., 1:] = np.roll(planes[..., 1:], 2, axis=2)
    return _bytes(planes @ np.linalg.inv(forth).T)


def _gains(gain: Callable[[NDArray[np.int64], int], NDArray[np.floating[Any]]]) -> Callable[[Frames], Frames]:
    """Multiply each frame by a factor of its own."""

    def change(frames: Frames) -> Frames:
        factors = gain(np.arange(len(frames)), len(frames))
        return _bytes(frames.astype(np.float64) * factors[:, None, None, None])

    return change


def _webp(frames: Frames) -> Frames:
    def change(image: Any) -> Any:
        buffer = io.BytesIO()
        image.save(buffer, "WEBP", quality=8)
        buffer.seek(0)
        return Image.open(buffer).convert("RGB")

    return _images(frames, change)


def _linear_light(frames: Frames) -> Frames:
    """The transfer curve of sRGB is undone, as though linear light were asked for (IEC 61966-2-1)."""
    values = frames / 255.0
    return _bytes(255 * np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4))


def _averaged(frames: Frames) -> Frames:
    """Each frame is the mean of itself and its two neighbours."""
    values = frames.astype(np.float64)
    before, after = np.concatenate([values[:1], values[:-1]]), np.concatenate([values[1:], values[-1:]])
    return _bytes((before + values + after) / 3)


def _striped(frames: Frames) -> Frames:
    """Every eighth column is darker."""
    values = frames.astype(np.float64)
    values[:, :, ::8] *= 0.85
    return _bytes(values)


def _red_late(frames: Frames) -> Frames:
    """The red channel is that of the frame before."""
    made = frames.copy()
    made[1:, ..., 0] = frames[:-1, ..., 0]
    return made


def _nudged_frame(frames: Frames) -> Frames:
    """A tenth of one frame's values is one level brighter."""
    random = np.random.default_rng(3)
    made = frames.astype(np.int64)
    made[8] += random.random(made[8].shape) < 0.1
    return np.clip(made, 0, 255).astype(np.uint8)


def _nudged_both_ways(frames: Frames) -> Frames:
    """Every twentieth value is one level up or down, as another order of sums leaves it."""
    random = np.random.default_rng(4)
    step = random.choice([-1, 1], frames.shape) * (random.random(frames.shape) < 0.05)
    made: Frames = np.clip(frames.astype(np.int64) + step, 0, 255).astype(np.uint8)
    return made


SECOND_CHANGES: Final[dict[str, Callable[[Frames], Frames]]] = {
    "letterbox": _letterbox,
    "cropped": _cropped,
    "matrix_709": _other_matrix,
    "chroma_exchanged": _chroma_exchanged,
    "chroma_shifted": _chroma_shifted,
    "first_frame_dark": _gains(lambda place, _count: np.where(place == 0, 0.6, 1.0)),
    "last_frames_brighter": _gains(lambda place, count: 1 + 0.06 * np.clip(place - (count - 5), 0, 4)),
    "webp_8": _webp,
    "linear_light": _linear_light,
    "three_averaged": _averaged,
    "columns_darker": _striped,
    "red_late": _red_late,
    # healthy
    "one_frame_nudged": _nudged_frame,
    "nudged_both_ways": _nudged_both_ways,
}
