"""Changes that are no fault: what another kernel, another rounding or another container does to the same video.

``MILD`` keeps every edge in its place: the repeats of one configuration differ like that. ``DRIFT`` moves edges by up
to 16 pixels, smoothly, as a chaotic model does after a one-bit change: the picture is as good as before, pixel metrics
fall far, and only statistics that hold under drift can gate.
"""

from __future__ import annotations

import numpy as np
from scipy.ndimage import gaussian_filter, map_coordinates

from benchmarks.faults.output import Change, Frames, normal


def rounding(frames: Frames, rng: np.random.Generator) -> Frames:
    """Rounded the other way: +-.5 levels."""
    return frames + rng.uniform(-0.99, 0.99, frames.shape)


def grain_1(frames: Frames, rng: np.random.Generator) -> Frames:
    """Noise of one level."""
    return frames + normal(rng, 1.0, frames.shape)


def grain_2(frames: Frames, rng: np.random.Generator) -> Frames:
    """Noise of two levels."""
    return frames + normal(rng, 2.0, frames.shape)


def soft_grain(frames: Frames, rng: np.random.Generator) -> Frames:
    """Noise of two levels with a grain of three pixels, as latents differ."""
    field = gaussian_filter(normal(rng, 1, frames.shape), (0, 1.5, 1.5, 0))
    return np.asarray(frames + 2.0 * field / field.std())


def brighter_1(frames: Frames, _: np.random.Generator) -> Frames:
    """One level brighter."""
    return frames + 1.0


def contrast_99(frames: Frames, _: np.random.Generator) -> Frames:
    """Contrast times .99."""
    mean = frames.mean(axis=(0, 1, 2), keepdims=True)
    return np.asarray(mean + 0.99 * (frames - mean))


def gamma_101(frames: Frames, _: np.random.Generator) -> Frames:
    """Gamma 1.01."""
    return 255.0 * (frames / 255.0) ** 1.01


def slow_drift(frames: Frames, _: np.random.Generator) -> Frames:
    """Brightness drifts by two levels over the clip."""
    return frames + np.linspace(-1, 1, len(frames))[:, None, None, None]


def slightly_soft(frames: Frames, _: np.random.Generator) -> Frames:
    """One part in ten of a narrow blur."""
    return np.asarray(0.9 * frames + 0.1 * gaussian_filter(frames, (0, 0.7, 0.7, 0)))


def slightly_sharp(frames: Frames, _: np.random.Generator) -> Frames:
    """One part in ten of an unsharp mask."""
    return np.asarray(1.1 * frames - 0.1 * gaussian_filter(frames, (0, 0.7, 0.7, 0)))


def tenth_of_a_pixel(frames: Frames, _: np.random.Generator) -> Frames:
    """Moved by a tenth of a pixel."""
    return 0.9 * frames + 0.1 * np.concatenate([frames[:, :, 1:], frames[:, :, -1:]], axis=2)


def tiny_warp(frames: Frames, rng: np.random.Generator) -> Frames:
    """Edges moved by up to .3 pixels, smoothly."""
    return warped(frames, rng, 0.3)


def colour_matrix(frames: Frames, _: np.random.Generator) -> Frames:
    """Through YCbCr with integers and back."""
    forth = np.array([[0.299, 0.587, 0.114], [-0.168736, -0.331264, 0.5], [0.5, -0.418688, -0.081312]])
    return np.asarray(np.rint(frames @ forth.T) @ np.linalg.inv(forth).T)


def warp_8(frames: Frames, rng: np.random.Generator) -> Frames:
    """Edges moved by up to 8 pixels."""
    return warped(frames, rng, 8.0)


def warp_16(frames: Frames, rng: np.random.Generator) -> Frames:
    """Edges moved by up to 16 pixels."""
    return warped(frames, rng, 16.0)


def warp_16_grain(frames: Frames, rng: np.random.Generator) -> Frames:
    """Edges moved by up to 16 pixels, and noise of one level."""
    return grain_1(warped(frames, rng, 16.0), rng)


def warped(frames: Frames, rng: np.random.Generator, reach: float) -> Frames:
    """One smooth displacement of up to ``reach`` pixels for the whole clip, cubic interpolation, edges extended."""
    _, height, width, _ = frames.shape
    moves = gaussian_filter(normal(rng, 1, (2, height, width)), (0, height / 8, width / 8), mode="wrap")
    moves *= reach / np.abs(moves).max()
    place = np.mgrid[0:height, 0:width] + moves
    out = np.empty_like(frames)
    for index, frame in enumerate(frames):
        for channel in range(3):
            out[index, :, :, channel] = map_coordinates(frame[:, :, channel], place, order=3, mode="nearest")
    return out


MILD: dict[str, Change] = {
    function.__name__: function
    for function in (
        *(rounding, grain_1, grain_2, soft_grain, brighter_1, contrast_99, gamma_101, slow_drift, slightly_soft),
        *(slightly_sharp, tenth_of_a_pixel, tiny_warp, colour_matrix),
    )
}
DRIFT: dict[str, Change] = {function.__name__: function for function in (warp_8, warp_16, warp_16_grain)}
