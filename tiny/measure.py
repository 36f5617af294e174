"""Measures colour, shape, background and direction of motion on frames. Knows nothing of how videos are drawn."""

from __future__ import annotations

import colorsys
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

Frames = NDArray[np.float32]
Mask = NDArray[np.bool_]

#: Below this distance from the background (RGB in 0..1) nothing is an object.
_VISIBLE = 0.15
_GRID = 24
#: Upper end of each colour's hues in degrees; from the last one on it is red again.
_HUES = ((20, "red"), (42, "orange"), (75, "yellow"), (160, "green"), (205, "cyan"), (262, "blue"), (325, "purple"))


@dataclass(frozen=True)
class Seen:
    """What a clip shows; "none" where it cannot be told."""

    colour: str
    shape: str
    direction: str
    background: str


def measure(frames: Frames) -> Seen:
    """Looks at a clip [F, H, W, 3], RGB in 0..1, and says what it shows.

    The background is a plane of colour fitted robustly to each frame; the object is the largest connected region
    away from it; direction is the slope of its centroid over time; its shape is the template that overlaps best.
    """
    planes = [_background(frame) for frame in frames]
    background = colour_name(np.median([plane.reshape(-1, 3) for plane in planes], axis=(0, 1)))
    found = {index: _object(frame, plane) for index, (frame, plane) in enumerate(zip(frames, planes, strict=True))}
    masks = {index: mask for index, mask in found.items() if mask is not None}
    seen = list(masks)
    if len(seen) < max(3, len(frames) // 2):
        return Seen("none", "none", "none", background)
    pixels = np.concatenate([frames[index][_core(masks[index])] for index in seen])
    centres = np.array([ndimage.center_of_mass(masks[index]) for index in seen])
    return Seen(
        colour_name(np.median(pixels, axis=0)),
        _shape(list(masks.values())),
        _direction(np.array(seen, dtype=np.float64), centres),
        background,
    )


def colour_name(rgb: NDArray[np.floating]) -> str:
    """The everyday name of an RGB colour in 0..1, by hue, or black and white by value and saturation."""
    hue, saturation, value = colorsys.rgb_to_hsv(*(float(np.clip(channel, 0, 1)) for channel in rgb))
    if value < 0.22:
        return "black"
    if saturation < 0.25:
        return "white" if value > 0.6 else "grey"
    return next((name for limit, name in _HUES if hue * 360 < limit), "red")


def _background(frame: Frames) -> Frames:
    """A plane of colour through the frame's background, [H, W, 3]; starts at the border and drops outliers thrice."""
    height, width, _ = frame.shape
    v, u = np.mgrid[0:height, 0:width]
    basis = np.stack([np.ones_like(u), u / width, v / height], axis=-1).reshape(-1, 3).astype(np.float64)
    pixels = frame.reshape(-1, 3).astype(np.float64)
    border = (np.minimum(u, width - 1 - u) < 4) | (np.minimum(v, height - 1 - v) < 4)
    median = np.median(pixels[border.reshape(-1)], axis=0)
    keep = np.linalg.norm(pixels - median, axis=1) < 0.3
    fitted = np.broadcast_to(median, pixels.shape)
    for _ in range(3):
        if keep.sum() < 100:
            break
        fitted = basis @ np.linalg.lstsq(basis[keep], pixels[keep], rcond=None)[0]
        keep = np.linalg.norm(pixels - fitted, axis=1) < _VISIBLE
    return fitted.reshape(frame.shape).astype(np.float32)


def _object(frame: Frames, background: Frames) -> Mask | None:
    distance = np.linalg.norm(frame - background, axis=-1)
    strong = float(np.quantile(distance, 0.98))
    if strong < _VISIBLE:
        return None
    regions, count = ndimage.label(distance > strong / 2)
    sizes = np.bincount(regions.reshape(-1))[1:]
    if count == 0 or sizes.max() < 30:
        return None
    mask: Mask = regions == 1 + int(sizes.argmax())
    return mask


def _core(mask: Mask) -> Mask:
    core: Mask = ndimage.binary_erosion(mask, iterations=2)
    return core if core.any() else mask


def _direction(time: NDArray[np.float64], centres: NDArray[np.float64]) -> str:
    """From centroids [N, 2] as (y, x): the dominant axis, if the object crossed at least 8 pixels along it."""
    y, x = np.polyfit(time, centres, 1)[0] * (time[-1] - time[0])
    if max(abs(x), abs(y)) < 8 or min(abs(x), abs(y)) > 0.6 * max(abs(x), abs(y)):
        return "none"
    if abs(x) > abs(y):
        return "right" if x > 0 else "left"
    return "down" if y > 0 else "up"


def _templates() -> dict[str, Mask]:
    """Ideal outlines filling a square box."""
    v, u = (np.mgrid[0:_GRID, 0:_GRID] + 0.5) / _GRID * 2 - 1
    return {
        "circle": u * u + v * v <= 1,
        "square": np.ones_like(u, dtype=bool),
        "triangle": np.abs(u) <= (v + 1) / 2,
        "cross": (np.abs(u) <= 0.36) | (np.abs(v) <= 0.36),
    }


def _shape(masks: list[Mask]) -> str:
    """The template with the best intersection over union with the mean outline, each mask scaled to its own box."""
    scaled = []
    for mask in masks:
        rows, columns = ndimage.find_objects(mask.astype(np.uint8))[0]
        box = mask[rows, columns].astype(np.float64)
        if min(box.shape) >= 4:
            factors = (_GRID / box.shape[0], _GRID / box.shape[1])
            scaled.append(ndimage.zoom(box, factors, order=1, grid_mode=True, mode="nearest"))
    if not scaled:
        return "none"
    outline = np.mean(scaled, axis=0) > 0.5
    overlap = {
        name: float((outline & template).sum() / (outline | template).sum()) for name, template in _templates().items()
    }
    best = max(overlap, key=lambda name: overlap[name])
    return best if overlap[best] > 0.6 else "none"
