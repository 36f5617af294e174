"""The fused kernel: computes every sum of a frame pair while its rows are in the first-level cache.

Rows stay interleaved (R G B R G B ...): a neighbour to the right is three values on, every loop runs over contiguous
memory, and the compiler vectorises it. The window sums are exact integers (a 7x7 sum of squares of bytes fits int32),
so SSIM rounds only in its last division. Formula: Wang et al. 2004 with K1 = .01, K2 = .03, L = 255, sample covariance,
as scikit-image's ``structural_similarity`` computes it for uint8.

Two rules explain how the loops look. Every product is cast back to int32, because numba widens to int64, which halves
the values per vector register. And sums over a row are kept value by value in an array (drained once per block),
because a loop that carries one scalar is not vectorised.
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
    """Compile with ``numba.njit``, cached on disk. Without a writable cache folder every process compiles anew."""
    try:
        wrapped: F = numba.njit(cache=True, **OPTIONS)(function)
    except RuntimeError:  # numba: "cannot cache function: no locator available"
        wrapped = numba.njit(**OPTIONS)(function)
    return wrapped


@compiled
def _enter(
    x: Array,
    y: Array,
    sum_x: Array,
    sum_y: Array,
    squares: Array,
    products: Array,
    block_x: Array,
    block_y: Array,
    squares_x: Array,
    squares_y: Array,
) -> None:
    """Add one row to the column sums of the window (first four) and of the block (last four)."""
    for i in range(x.size):
        a = np.int32(x[i])
        b = np.int32(y[i])
        aa = np.int32(a * a)
        bb = np.int32(b * b)
        sum_x[i] += a
        sum_y[i] += b
        squares[i] += aa + bb
        products[i] += a * b
        block_x[i] += a
        block_y[i] += b
        squares_x[i] += aa
        squares_y[i] += bb


@compiled
def _leave(x: Array, y: Array, sum_x: Array, sum_y: Array, squares: Array, products: Array) -> None:
    """Subtract the row that left the window from the column sums."""
    for i in range(x.size):
        a = np.int32(x[i])
        b = np.int32(y[i])
        sum_x[i] -= a
        sum_y[i] -= b
        squares[i] -= a * a + b * b
        products[i] -= a * b


@compiled
def _across(column: Array, pairs: Array, window: Array) -> None:
    """Sum seven neighbours of one channel (stride 3) with four additions instead of six."""
    n = column.size - 3
    for i in range(n):
        pairs[i] = column[i] + column[i + 3]
    for i in range(column.size - 18):
        window[i] = pairs[i] + pairs[i + 6] + pairs[i + 12] + column[i + 18]


@compiled
def _similarity(sum_x: Array, sum_y: Array, squares: Array, products: Array, out: Array) -> None:
    """Add SSIM of every window of a row to ``out``. Integers stay below 2**31: 255 * 49 squared, twice, is 3.2e8.

    Numerator and denominator are SSIM's, multiplied by 49 ** 2 and 49 * 48 so that means and covariances stay integers.
    """
    c1 = np.float32((0.01 * 255.0) ** 2 * 49.0 * 49.0)
    c2 = np.float32((0.03 * 255.0) ** 2 * 49.0 * 48.0)
    for i in range(out.size):
        cross = np.int32(sum_x[i] * sum_y[i])
        own_squares = np.int32(sum_x[i] * sum_x[i] + sum_y[i] * sum_y[i])
        covariance = np.float32(np.int32(np.int32(49) * products[i] - cross))
        variance = np.float32(np.int32(np.int32(49) * squares[i] - own_squares))
        top = (np.float32(2.0) * np.float32(cross) + c1) * (np.float32(2.0) * covariance + c2)
        bottom = (np.float32(own_squares) + c1) * (variance + c2)
        out[i] += top / bottom


@compiled
def _errors(x: Array, y: Array, squared: Array, absolute: Array) -> None:
    """Add squared and absolute differences of a row, value by value."""
    for i in range(x.size):
        d = np.int32(np.int32(x[i]) - np.int32(y[i]))
        squared[i] += d * d
        absolute[i] += abs(d)


@compiled
def _motion(x: Array, previous: Array) -> np.int64:
    """Return the sum of absolute differences of a row and the same row of the previous frame."""
    absolute = np.int32(0)  # enough for rows of 8 million values
    for i in range(x.size):
        absolute = np.int32(absolute + abs(np.int32(np.int32(x[i]) - np.int32(previous[i]))))
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
    """Add a row of summed SSIM to its tiles, and set it to zero."""
    for tile in range(columns.size - 1):
        total = np.float64(0.0)
        for i in range(3 * columns[tile], 3 * columns[tile + 1]):
            total += row[i]
            row[i] = np.float32(0.0)
        out[tile] += total


@compiled
def _fold_blocks(row: Array, columns: Array, out: Array) -> None:
    """Add a row of summed values to its blocks by channel, and set it to zero."""
    for block in range(columns.size - 1):
        for pixel in range(columns[block], columns[block + 1]):
            for channel in range(3):
                out[block, channel] += row[3 * pixel + channel]
                row[3 * pixel + channel] = 0


@compiled
def _drain(row: Array) -> np.int64:
    """Return the sum of a row of int32, and set it to zero."""
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
    tile_rows: Array,
    tile_columns: Array,
    block_rows: Array,
    block_columns: Array,
    tiles: Array,
    integers: Array,
    laplacians: Array,
    block_sums: Array,
) -> None:
    """Fill the outputs for frames ``first`` to ``last`` (exclusive) of uint8 [T, H, 3 W] arrays.

    Args:
        golden: frames with interleaved channels.
        candidate: the same shape.
        first: the first frame.
        last: the frame after the last.
        tile_rows: borders of the tiles in window centres, as are ``tile_columns``.
        tile_columns: see `harness.frames.statistics.tile_edges`.
        block_rows: borders of the blocks in pixels, as are ``block_columns``.
        block_columns: see `harness.frames.statistics.block_edges`.
        tiles: output float64 [T, rows, columns]: sums of SSIM.
        integers: output int64 [T, 12]: squared error, absolute error, channel sums (golden 3, candidate 3), squares
            (golden, candidate), motion (golden, candidate).
        laplacians: output int64 [T, 4]: sum and sum of squares, golden then candidate.
        block_sums: output int32 [2, T, rows, columns, 3], golden then candidate.
    """
    height = golden.shape[1]
    length = golden.shape[2]
    windows = length - 18  # values of a row at which a window of seven pixels starts
    windowed = height >= 7 and windows >= 3
    work = np.zeros((15, length), dtype=np.int32)
    sum_x, sum_y, squares, products, pairs = work[0], work[1], work[2], work[3], work[4]
    block_x, block_y = work[5], work[6]
    drained = work[7:]  # emptied at every block border: two errors, two squares, four of the Laplacians
    window_sums = np.zeros((4, max(windows, 1)), dtype=np.int32)
    similarity = np.zeros(max(windows, 1), dtype=np.float32)
    for t in range(first, last):
        work[:] = 0
        tile = 0
        block = 0
        for r in range(height):
            x = golden[t, r]
            y = candidate[t, r]
            _enter(x, y, sum_x, sum_y, squares, products, block_x, block_y, drained[2], drained[3])
            _errors(x, y, drained[0], drained[1])
            if windowed and r >= 6:
                _across(sum_x, pairs, window_sums[0])
                _across(sum_y, pairs, window_sums[1])
                _across(squares, pairs, window_sums[2])
                _across(products, pairs, window_sums[3])
                _similarity(window_sums[0], window_sums[1], window_sums[2], window_sums[3], similarity)
                _leave(golden[t, r - 6], candidate[t, r - 6], sum_x, sum_y, squares, products)
                if r - 5 == tile_rows[tile + 1]:
                    _fold_tiles(similarity, tile_columns, tiles[t, tile])
                    tile += 1
            if t > 0:
                integers[t, 10] += _motion(x, golden[t - 1, r])
                integers[t, 11] += _motion(y, candidate[t - 1, r])
            if 1 <= r < height - 1:
                _laplacian(golden[t, r - 1], x, golden[t, r + 1], drained[4], drained[5])
                _laplacian(candidate[t, r - 1], y, candidate[t, r + 1], drained[6], drained[7])
            # At most 15 rows are in a block: sums of squares of bytes, and of Laplacians up to 1020, fit int32.
            if r + 1 == block_rows[block + 1]:
                _fold_blocks(block_x, block_columns, block_sums[0, t, block])
                _fold_blocks(block_y, block_columns, block_sums[1, t, block])
                for k in range(8):
                    if k < 2:
                        integers[t, k] += _drain(drained[k])
                    elif k < 4:
                        integers[t, 6 + k] += _drain(drained[k])
                    else:
                        laplacians[t, k - 4] += _drain(drained[k])
                block += 1
        for b in range(block_rows.size - 1):
            for k in range(block_columns.size - 1):
                for channel in range(3):
                    integers[t, 2 + channel] += block_sums[0, t, b, k, channel]
                    integers[t, 5 + channel] += block_sums[1, t, b, k, channel]
