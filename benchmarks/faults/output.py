"""Gross faults of a finished video, one function each: what a person calls broken at a glance, or in two looks.

A function takes float frames [T, H, W, 3] in 0..255 and a generator, and returns frames of the same shape. Values may
leave 0..255: `apply` rounds and clips. Faults in time leave the first, middle and last frame alone where they can:
that is where key frames are taken.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.ndimage import gaussian_filter, uniform_filter, zoom

from harness.frames.clip import Clip

Frames = npt.NDArray[np.floating[Any]]
Change = Callable[[Frames, np.random.Generator], Frames]


def apply(change: Change, clip: Clip, seed: int = 0) -> Clip:
    """The clip after ``change``, rounded to 8 bits."""
    changed = change(clip.frames.astype(np.float32), np.random.default_rng(seed))
    return Clip(np.clip(np.rint(changed), 0, 255).astype(np.uint8))


def normal(rng: np.random.Generator, deviation: float, shape: tuple[int, ...]) -> Frames:
    """Gaussian noise."""
    return deviation * rng.standard_normal(shape, dtype=np.float32)


def black_frame(frames: Frames, _: np.random.Generator) -> Frames:
    """One frame is black."""
    return _replaced(frames, _off_key(frames), 0.0)


def noise_frame(frames: Frames, rng: np.random.Generator) -> Frames:
    """One frame is noise."""
    return _replaced(frames, _off_key(frames), rng.uniform(0, 255, frames.shape[1:]))


def nan_tile(frames: Frames, _: np.random.Generator) -> Frames:
    """A tile of NaN in one frame, which rounding turned into 0."""
    _, height, width, _ = frames.shape
    out = frames.copy()
    out[_off_key(frames), height // 3 : height // 3 + 32, width // 2 : width // 2 + 32] = 0.0
    return out


def two_swapped(frames: Frames, _: np.random.Generator) -> Frames:
    """Two frames changed places, four apart."""
    out, at = frames.copy(), _off_key(frames)
    out[[at, at + 4]] = out[[at + 4, at]]
    return out


def backwards(frames: Frames, _: np.random.Generator) -> Frames:
    """The clip runs backwards."""
    return frames[::-1].copy()


def frozen(frames: Frames, _: np.random.Generator) -> Frames:
    """The first frame, all the time."""
    return np.repeat(frames[:1], len(frames), axis=0)


def stutter(frames: Frames, _: np.random.Generator) -> Frames:
    """Six frames in the middle of the second half stand still; then it jumps on."""
    out, at = frames.copy(), _off_key(frames)
    out[at : at + 6] = out[at]
    return out


def off_by_one(frames: Frames, _: np.random.Generator) -> Frames:
    """Every frame comes one too early; the last is shown twice."""
    return np.concatenate([frames[1:], frames[-1:]])


def flicker_2(frames: Frames, _: np.random.Generator) -> Frames:
    """Every odd frame is 2 levels brighter."""
    return frames + 2.0 * _odd(frames)


def flicker_6(frames: Frames, _: np.random.Generator) -> Frames:
    """Every odd frame is 6 levels brighter."""
    return frames + 6.0 * _odd(frames)


def half_resolution(frames: Frames, _: np.random.Generator) -> Frames:
    """Decoded at half the size and blown up."""
    _, height, width, _ = frames.shape
    small = frames[:, : height // 2 * 2, : width // 2 * 2]
    small = small.reshape(len(frames), height // 2, 2, width // 2, 2, 3).mean(axis=(2, 4))
    large = zoom(small, (1, 2, 2, 1), order=1, grid_mode=True, mode="nearest")
    return np.pad(large, ((0, 0), (0, height % 2), (0, width % 2), (0, 0)), mode="edge")


def contrast_90(frames: Frames, _: np.random.Generator) -> Frames:
    """Contrast times .9 around each channel's mean."""
    mean = frames.mean(axis=(0, 1, 2), keepdims=True)
    return np.asarray(mean + 0.9 * (frames - mean))


def broken_tail(frames: Frames, rng: np.random.Generator) -> Frames:
    """Noise on a stretch of the second half, gone again before the end."""
    out, at = frames.copy(), _off_key(frames)
    stop = max(at + 1, len(frames) - 2)
    out[at:stop] += normal(rng, 25, out[at:stop].shape)
    return out


def melting_object(frames: Frames, _: np.random.Generator) -> Frames:
    """The part of the picture with most detail melts over a third of the clip."""
    count, height, width, _ = frames.shape
    out, at = frames.copy(), _off_key(frames)
    tall, wide = height // 3, width // 3
    places = [(y, x) for y in range(0, height - tall + 1, tall // 2) for x in range(0, width - wide + 1, wide // 2)]
    top, left = max(places, key=lambda place: frames[at, place[0] : place[0] + tall, place[1] : place[1] + wide].std())
    part = out[at : min(count - 1, at + count // 3), top : top + tall, left : left + wide]
    part[:] = gaussian_filter(part, (0, 8, 8, 0))
    return out


def channels_swapped(frames: Frames, _: np.random.Generator) -> Frames:
    """Red and blue changed places."""
    return frames[..., ::-1].copy()


def static_8(frames: Frames, rng: np.random.Generator) -> Frames:
    """Green-blue static with a grain of 8 pixels, as scrambled latents decode."""
    return static(frames, rng, 8)


def static_2(frames: Frames, rng: np.random.Generator) -> Frames:
    """Green-blue static with a grain of 2 pixels."""
    return static(frames, rng, 2)


def static(frames: Frames, rng: np.random.Generator, grain: int) -> Frames:
    """Green-blue static of the clip's shape."""
    count, height, width, _ = frames.shape
    coarse = rng.normal(0, 1, (count, -(-height // grain), -(-width // grain), 3))
    field = np.kron(coarse, np.ones((1, grain, grain, 1)))[:, :height, :width]
    return np.asarray(np.array([60.0, 130.0, 140.0]) + field * np.array([25.0, 60.0, 60.0]))


def grey(frames: Frames, _: np.random.Generator) -> Frames:
    """No colour left."""
    return np.repeat(frames.mean(axis=-1, keepdims=True), 3, axis=-1)


def blurred(frames: Frames, _: np.random.Generator) -> Frames:
    """Gaussian blur of two pixels, as kernels that round too much left it."""
    return np.asarray(gaussian_filter(frames, (0, 2, 2, 0)))


def blocky(frames: Frames, _: np.random.Generator) -> Frames:
    """Every 8-pixel block half way to its mean."""
    return 0.5 * (frames + _blocks(frames, 8))


def tile_seams(frames: Frames, _: np.random.Generator) -> Frames:
    """Tiles of a tiled decoder do not fit: a chequered brightness of +-6 levels."""
    _, height, width, _ = frames.shape
    board = (np.arange(height)[:, None] // 64 + np.arange(width)[None, :] // 64) % 2
    return frames + (12.0 * board - 6.0)[None, :, :, None]


def colour_cast(frames: Frames, _: np.random.Generator) -> Frames:
    """Red 12 levels up."""
    return np.asarray(frames + np.array([12.0, 0.0, 0.0]))


def too_bright(frames: Frames, _: np.random.Generator) -> Frames:
    """All values 15 levels up."""
    return frames + 15.0


def mirrored(frames: Frames, _: np.random.Generator) -> Frames:
    """Left is right."""
    return frames[:, :, ::-1].copy()


def upside_down(frames: Frames, _: np.random.Generator) -> Frames:
    """Top is bottom."""
    return frames[:, ::-1].copy()


def noisy(frames: Frames, rng: np.random.Generator) -> Frames:
    """Noise of 20 levels all over."""
    return frames + normal(rng, 20, frames.shape)


def posterized(frames: Frames, _: np.random.Generator) -> Frames:
    """Eight levels a channel."""
    return np.floor(frames / 32) * 32 + 16


def ghosting(frames: Frames, _: np.random.Generator) -> Frames:
    """Every frame mixed with the one four before."""
    past = np.concatenate([frames[:1].repeat(min(4, len(frames)), axis=0), frames])[: len(frames)]
    return np.asarray(0.5 * (frames + past))


def slow_motion(frames: Frames, _: np.random.Generator) -> Frames:
    """Half speed."""
    places = np.arange(len(frames)) // 2
    return frames[places]


def one_red_patch(frames: Frames, _: np.random.Generator) -> Frames:
    """A red patch of 24 pixels in three frames."""
    out, at = frames.copy(), _off_key(frames)
    _, height, width, _ = frames.shape
    out[at : at + 3, height // 2 : height // 2 + 24, width // 5 : width // 5 + 24] = (255.0, 0.0, 0.0)
    return out


GROSS: dict[str, Change] = {
    function.__name__: function
    for function in (
        *(
            black_frame,
            noise_frame,
            nan_tile,
            two_swapped,
            backwards,
            frozen,
            stutter,
            off_by_one,
            flicker_2,
            flicker_6,
        ),
        *(
            half_resolution,
            contrast_90,
            broken_tail,
            melting_object,
            channels_swapped,
            static_8,
            static_2,
            grey,
            blurred,
        ),
        *(blocky, tile_seams, colour_cast, too_bright, mirrored, upside_down, noisy, posterized, ghosting, slow_motion),
        one_red_patch,
    )
}


def _off_key(frames: Frames) -> int:
    """A frame that is neither first, middle nor last, in the second half."""
    return max(1, (5 * len(frames)) // 8)


def _replaced(frames: Frames, index: int, picture: float | Frames) -> Frames:
    out = frames.copy()
    out[index] = picture
    return out


def _odd(frames: Frames) -> Frames:
    marks: Frames = (np.arange(len(frames)) % 2).astype(np.float32)[:, None, None, None]
    return marks


def _blocks(frames: Frames, size: int) -> Frames:
    """Each value replaced by the mean of its block."""
    means = uniform_filter(frames, (0, size, size, 0))[:, size // 2 :: size, size // 2 :: size]
    whole = means.repeat(size, axis=1).repeat(size, axis=2)
    _, height, width, _ = frames.shape
    rest = ((0, 0), (0, max(0, height - whole.shape[1])), (0, max(0, width - whole.shape[2])), (0, 0))
    out: Frames = np.pad(whole, rest, mode="edge")[:, :height, :width]
    return out
