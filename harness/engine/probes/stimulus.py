"""The fixed signal that is fed into every Linear alone, and the sketch of its output, with numpy only.

The signal is signs from a fixed hash times magnitudes in [1, 2), scaled to the size of the module's input in a real
forward pass. It reaches every column equally, so that a fault in any column shows.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

F32 = NDArray[np.float32]
ROWS = 8
"""Rows of the signal."""
WIDTH = 64
SEED = 0x51_7E_7C_4A_11_0D_1F_37
"""Width and seed of the sketches, also of those in ``harness.engine.sketch``, which needs torch."""
_RMS = float(np.sqrt(np.mean((1.0 + np.arange(16) / 16.0) ** 2)))


def signs(count: int, start: int = 0) -> NDArray[np.int8]:
    """Return -1 or 1 by position: the top bit of SplitMix64 (Steele, Lea and Flood, 2014)."""
    with np.errstate(over="ignore"):
        z = np.arange(start + 1, start + count + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15) + np.uint64(SEED)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return ((z ^ (z >> np.uint64(31))) >> np.uint64(63)).astype(np.int8) * np.int8(2) - np.int8(1)


def stimulus(columns: int, amplitude: float) -> F32:
    """Return the signal [ROWS, columns], root mean square ``amplitude``. Its positions start far from the sketches'."""
    count = ROWS * columns
    size = 1.0 + (np.arange(count) * 7 % 16) / 16.0
    values = signs(count, start=1 << 40) * size * (amplitude / _RMS)
    return values.astype(np.float32).reshape(ROWS, columns)


def sketch_array(x: NDArray[np.floating]) -> F32:
    """Return the sketch of a numpy array, as ``harness.engine.sketch.sketch`` does of a tensor."""
    flat = np.asarray(x, dtype=np.float64).reshape(-1)
    signed = np.zeros(-(-flat.size // WIDTH) * WIDTH)
    signed[: flat.size] = flat * signs(flat.size)
    entries: F32 = (signed.reshape(-1, WIDTH).sum(axis=0) * WIDTH**0.5).astype(np.float32)
    return entries
