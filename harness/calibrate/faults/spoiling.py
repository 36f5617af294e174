"""Spoil the frames of a finished video with a strength: arithmetic on the golden's frames, without a run.

A function takes float32 frames [T, H, W, 3] in 0..255, a strength in (0, 1] and a seeded generator, and returns frames
of the same shape. At strength 1 a person sees the fault at a glance. Faults in time leave the first, the middle and the
last frame unchanged, because key frames are taken there.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

Frames = npt.NDArray[np.floating[Any]]
Spoil = Callable[[Frames, float, np.random.Generator], Frames]
STRENGTHS = (0.1, 0.25, 0.5, 1.0)


def spoiled(spoil: Spoil, frames: npt.NDArray[np.uint8], strength: float, seed: int = 0) -> npt.NDArray[np.uint8]:
    """Return ``frames`` after ``spoil``, rounded to eight bits."""
    changed = spoil(frames.astype(np.float32), strength, np.random.default_rng(seed))
    return np.clip(np.rint(changed), 0, 255).astype(np.uint8)


def one_bad_frame(frames: Frames, strength: float, rng: np.random.Generator) -> Frames:
    """Mix one frame with uniform noise, by ``strength``."""
    out, at = frames.copy(), _off_key(len(frames))
    out[at] = (1 - strength) * out[at] + strength * rng.uniform(0, 255, out[at].shape)
    return out


def swapped_frames(frames: Frames, strength: float, _: np.random.Generator) -> Frames:
    """Exchange two frames, up to four apart."""
    out, at = frames.copy(), _off_key(len(frames))
    other = min(max(at, len(frames) - 2), at + max(1, round(4 * strength)))
    out[[at, other]] = out[[other, at]]
    return out


def frozen_stretch(frames: Frames, strength: float, _: np.random.Generator) -> Frames:
    """Freeze up to a third of the clip."""
    out, at = frames.copy(), _off_key(len(frames))
    out[at : min(len(frames) - 1, at + 1 + max(1, round(strength * len(frames) / 3)))] = out[at]
    return out


def flicker(frames: Frames, strength: float, _: np.random.Generator) -> Frames:
    """Brighten every odd frame by up to 12 levels."""
    odd = (np.arange(len(frames)) % 2).astype(np.float32)[:, None, None, None]
    return np.asarray(frames + 12.0 * strength * odd)


def channel_mix(frames: Frames, strength: float, _: np.random.Generator) -> Frames:
    """Exchange red and blue, mixed by ``strength``."""
    return np.asarray((1 - strength) * frames + strength * frames[..., ::-1])


def black_tile(frames: Frames, strength: float, _: np.random.Generator) -> Frames:
    """Set a tile of one frame to zero, up to half of its height and width."""
    out, at = frames.copy(), _off_key(len(frames))
    _, height, width, _ = frames.shape
    tall, wide = max(2, round(height * strength / 2)), max(2, round(width * strength / 2))
    out[at, height // 4 : height // 4 + tall, width // 4 : width // 4 + wide] = 0.0
    return out


def half_resolution(frames: Frames, strength: float, _: np.random.Generator) -> Frames:
    """Mix the clip with itself at half the resolution, by ``strength``."""
    _, height, width, _ = frames.shape
    even = frames[:, : height // 2 * 2, : width // 2 * 2]
    small = even.reshape(len(frames), height // 2, 2, width // 2, 2, 3).mean(axis=(2, 4))
    large = small.repeat(2, axis=1).repeat(2, axis=2)
    large = np.pad(large, ((0, 0), (0, height % 2), (0, width % 2), (0, 0)), mode="edge")
    return np.asarray((1 - strength) * frames + strength * large)


def less_contrast(frames: Frames, strength: float, _: np.random.Generator) -> Frames:
    """Reduce the contrast around each channel's mean by up to a half."""
    mean = frames.mean(axis=(0, 1, 2), keepdims=True)
    return np.asarray(mean + (1 - strength / 2) * (frames - mean))


SPOILS: dict[str, Spoil] = {
    spoil.__name__: spoil
    for spoil in (
        one_bad_frame,
        swapped_frames,
        frozen_stretch,
        flicker,
        channel_mix,
        black_tile,
        half_resolution,
        less_contrast,
    )
}


def _off_key(count: int) -> int:
    """Return the index of a frame in the second half that is neither the middle nor the last, if there is one."""
    return max(0, min(count - 2, max(1, (5 * count) // 8)))
