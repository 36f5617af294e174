"""The fused kernel: every statistic of a frame pair while its rows are in the first-level cache.

Rows stay interleaved (R G B R G B ...): a neighbour to the right is three values on, every loop runs over contiguous
memory, and the compiler vectorises it. The window sums are exact integers (a 7x7 sum of squares of bytes fits int32),
so SSIM rounds only in its last division. Formula: Wang et al. 2004 with K1 = .01, K2 = .03, L = 255, sample covariance,
as scikit-image's ``structural_similarity`` computes it for uint8.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias, TypeVar

import numba
import numpy as np
import numpy.typing as npt

F = TypeVar("F", bound=Callable[..., Any])
Array: TypeAlias = npt.NDArray[Any]

OPTIONS: dict[str, Any] = {"nogil": True, "error_model": "numpy"}
"""Python's error model tests every division for zero, and a loop that may raise is not vectorised: 6 times slower."""


def compiled(function: F) -> F:
    """``numba.njit``, cached on disk; without a writable cache folder it compiles anew in every process."""
    try:
        wrapped: F = numba.njit(cache=True, **OPTIONS)(function)
    except RuntimeError:  # numba: "cannot cache function: no locator available"
        wrapped = numba.njit(**OPTIONS)(function)
    return wrapped


@compiled
def _enter(
    x: Array, y: Array, cx: Array, cy: Array, cs: Array, cp: Array, ax: Array, ay: Array, xx: Array, yy: Array
) -> None:
    """Add one row to the column sums of the window (c*) and of the block (ax, ay, xx, yy)."""
    for i in range(x.size):
        a = np.int32(x[i])
        b = np.int32(y[i])
        aa = np.int32(a * a)
        bb = np.int32(b * b)
        cx[i] += a
        cy[i] += b
        cs[i] += aa + bb
        cp[i] += a * b
        ax[i] += a
        ay[i] += b
        xx[i] += aa
        yy[i] += bb


@compiled
def _leave(x: Array, y: Array, cx: Array, cy: Array, cs: Array, cp: Array) -> None:
    """Take the row that left the window out of the column sums."""
    for i in range(x.size):
        a = np.int32(x[i])
        b = np.int32(y[i])
        cx[i] -= a
        cy[i] -= b
        cs[i] -= a * a + b * b
        cp[i] -= a * b


@compiled
def _across(column: Array, pairs: Array, window: Array) -> None:
    """Sum seven neighbours of one channel (stride 3) with four additions instead of six."""
    n = column.size - 3
    for i in range(n):
        pairs[i] = column[i] + column[i + 3]
    for i in range(column.size - 18):
        window[i] = pairs[i] + pairs[i + 6] + pairs[i + 12] + column[i + 18]


@compiled
def _similarity(sx: Array, sy: Array, ss: Array, sp: Array, out: Array) -> None:
    """Add SSIM of every window of a row to ``out``. Integers stay below 2**31: 255 * 49 squared, twice, is 3.2e8."""
    c1 = np.float32((0.01 * 255.0) ** 2 * 49.0 * 49.0)
    c2 = np.float32((0.03 * 255.0) ** 2 * 49.0 * 48.0)
    for i in range(out.size):
        cross = np.int32(sx[i] * sy[i])
        own = np.int32(sx[i] * sx[i] + sy[i] * sy[i])
        covariance = np.float32(np.int32(np.int32(49) * sp[i] - cross))
        variance = np.float32(np.int32(np.int32(49) * ss[i] - own))
        top = (np.float32(2.0) * np.float32(cross) + c1) * (np.float32(2.0) * covariance + c2)
        bottom = (np.float32(own) + c1) * (variance + c2)
        out[i] += top / bottom


@compiled
def _errors(x: Array, y: Array, squared: Array, absolute: Array) -> None:
    """Add squared and absolute differences of a row, value by value: a sum over the row would not be vectorised."""
    for i in range(x.size):
        d = np.int32(np.int32(x[i]) - np.int32(y[i]))
        squared[i] += d * d
        absolute[i] += abs(d)


@compiled
def _motion(x: Array, before: Array) -> np.int64:
    """Sum of absolute differences of a row to the same row of the frame before."""
    absolute = np.int32(0)
    for i in range(x.size):
        absolute = np.int32(absolute + abs(np.int32(np.int32(x[i]) - np.int32(before[i]))))
    return np.int64(absolute)


@compiled
def _laplacian(above: Array, row: Array, below: Array, total: Array, squares: Array) -> None:
    """Add the 4-neighbour Laplacian of the inside of a row, and its square, value by value.

    Counted from the left neighbour: an index ``i - 3`` could be negative, which numba would test for in every turn.
    """
    for i in range(row.size - 6):
        v = np.int32(
            np.int32(4) * np.int32(row[i + 3])
            - np.int32(row[i])
            - np.int32(row[i + 6])
            - np.int32(above[i + 3])
            - np.int32(below[i + 3])
        )
        total[i] += v
        squares[i] += v * v


@compiled
def _fold_tiles(row: Array, columns: Array, out: Array) -> None:
    """Add a row of summed SSIM to its tiles, and empty it."""
    for tile in range(columns.size - 1):
        total = np.float64(0.0)
        for i in range(3 * columns[tile], 3 * columns[tile + 1]):
            total += row[i]
            row[i] = np.float32(0.0)
        out[tile] += total


@compiled
def _fold_blocks(row: Array, columns: Array, out: Array) -> None:
    """Add a row of summed values to its blocks by channel, and empty it. Returns nothing."""
    for block in range(columns.size - 1):
        for pixel in range(columns[block], columns[block + 1]):
            for channel in range(3):
                out[block, channel] += row[3 * pixel + channel]
                row[3 * pixel + channel] = 0


@compiled
def _drain(row: Array) -> np.int64:
    """Sum of a row of int32, which it empties."""
    total = np.int64(0)
    for i in range(row.size):
        total += row[i]
        row[i] = 0
    return total


@compiled
def pair_pass(
    golden: Array,
    candidate: Array,
    first: int,
    last: int,
    rows: Array,
    columns: Array,
    brows: Array,
    bcolumns: Array,
    tiles: Array,
    integers: Array,
    laplacians: Array,
    thumbnails: Array,
) -> None:
    """Fill the outputs for frames ``first`` to ``last`` of uint8 [T, H, 3 W] arrays.

    ``integers`` [T, 12]: squared error, absolute error, channel sums (golden 3, candidate 3), squares (2), motion (2).
    ``laplacians`` [T, 4]: sum and sum of squares, golden then candidate. ``tiles`` and ``thumbnails`` hold sums.
    """
    height = golden.shape[1]
    length = golden.shape[2]
    windows = length - 18
    windowed = height >= 7 and windows >= 3
    work = np.zeros((15, length), dtype=np.int32)
    cx, cy, cs, cp, pairs = work[0], work[1], work[2], work[3], work[4]
    ax, ay = work[5], work[6]
    rest = work[7:]  # drained at every block: two errors, two squares, four of the Laplacians
    sums = np.zeros((4, max(windows, 1)), dtype=np.int32)
    similar = np.zeros(max(windows, 1), dtype=np.float32)
    for t in range(first, last):
        work[:] = 0
        tile = 0
        block = 0
        for r in range(height):
            x = golden[t, r]
            y = candidate[t, r]
            _enter(x, y, cx, cy, cs, cp, ax, ay, rest[2], rest[3])
            _errors(x, y, rest[0], rest[1])
            if windowed and r >= 6:
                _across(cx, pairs, sums[0])
                _across(cy, pairs, sums[1])
                _across(cs, pairs, sums[2])
                _across(cp, pairs, sums[3])
                _similarity(sums[0], sums[1], sums[2], sums[3], similar)
                _leave(golden[t, r - 6], candidate[t, r - 6], cx, cy, cs, cp)
                if r - 5 == rows[tile + 1]:
                    _fold_tiles(similar, columns, tiles[t, tile])
                    tile += 1
            if t > 0:
                integers[t, 10] += _motion(x, golden[t - 1, r])
                integers[t, 11] += _motion(y, candidate[t - 1, r])
            if 1 <= r < height - 1:
                _laplacian(golden[t, r - 1], x, golden[t, r + 1], rest[4], rest[5])
                _laplacian(candidate[t, r - 1], y, candidate[t, r + 1], rest[6], rest[7])
            if r + 1 == brows[block + 1]:
                _fold_blocks(ax, bcolumns, thumbnails[0, t, block])
                _fold_blocks(ay, bcolumns, thumbnails[1, t, block])
                for k in range(8):
                    if k < 2:
                        integers[t, k] += _drain(rest[k])
                    elif k < 4:
                        integers[t, 6 + k] += _drain(rest[k])
                    else:
                        laplacians[t, k - 4] += _drain(rest[k])
                block += 1
        for b in range(brows.size - 1):
            for k in range(bcolumns.size - 1):
                for channel in range(3):
                    integers[t, 2 + channel] += thumbnails[0, t, b, k, channel]
                    integers[t, 5 + channel] += thumbnails[1, t, b, k, channel]
