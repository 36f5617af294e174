"""Damage the stored tensors of a Linear in place, as a broken export or a broken loader would.

Each function takes the writable tensors of one Linear by suffix. Calibration injects them to place limits.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from harness.formats.spec import Damage

Tensors = Mapping[str, NDArray[Any]]
GAIN: Final = 1.25


def nibble_swap(tensors: Tensors) -> None:
    """Exchange the two 4-bit codes of every byte, like a loader with the other packing order."""
    codes = tensors["weight"]
    codes[...] = (codes >> 4) | (codes << 4)


def scale_roll(tensors: Tensors) -> None:
    """Give every block the scale of its neighbour, like a loader with another layout of scales."""
    raw = tensors["weight_scale"].view(np.uint8)
    raw[...] = np.roll(raw, 1, axis=-1)


def gain(tensors: Tensors) -> None:
    """Multiply the Linear by ``GAIN``, like a scale that is applied wrongly."""
    name = next(name for name in ("weight_scale_2", "weight_scale", "weight") if name in tensors)
    values = tensors[name]
    values[...] = (np.asarray(values, dtype=np.float32) * GAIN).astype(values.dtype)


def row_roll(tensors: Tensors) -> None:
    """Give every output the weights of its neighbour, like a shard that is joined at the wrong place."""
    weight = tensors["weight"]
    raw = weight.view(np.uint8).reshape(weight.shape[0], -1)
    raw[...] = np.roll(raw, 1, axis=0)


PLAIN: Final[Mapping[str, Damage]] = {"row_roll": row_roll, "gain": gain}
"""Damages of weights in plain floats, and of formats with one scale per tensor or row."""
