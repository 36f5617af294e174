"""The pass in torch's own operations, for any device.

Every intermediate goes through memory, so it is several times slower than the fused kernels: numba's on a CPU and
Triton's on a CUDA device (``python -m benchmarks.metrics``). It runs where those cannot, and they are held against it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from harness.frames.kernels.tensors import Chunk
from harness.frames.statistics import WINDOW, block_edges, large_enough, tile_edges

if TYPE_CHECKING:
    import torch

Edges = npt.NDArray[np.int64]


def chunk(golden: torch.Tensor, candidate: torch.Tensor, lead: int) -> Chunk:
    """Results of uint8 [lead + n, H, W, 3]; the frame that leads is there for motion only.

    Bytes, their differences and the Laplacian fit int16, which halves the traffic; products take int32.
    """
    import torch

    count, height, width, channels = golden.shape
    clips = [clip.reshape(count, height, width * channels).to(torch.int16) for clip in (golden, candidate)]
    motion = torch.stack([_motion(clip, lead) for clip in clips], dim=1)
    x, y = (clip[lead:] for clip in clips)
    difference = (x - y).abs_()
    energy = [side.int().square_() for side in (x, y)]
    dims = (1, 2)
    squares = torch.stack([side.sum(dims) for side in energy], dim=1)
    errors = torch.stack([difference.int().square_().sum(dims), difference.sum(dims)], dim=1)
    both = energy[0].add_(energy[1])
    return Chunk(
        ssim_tiles=_ssim_tiles(x, y, both, height, width) if large_enough(height, width) else None,
        points=torch.cat([errors, squares, *(_laplacian(side) for side in (x, y)), motion], dim=1),
        blocks=torch.stack([_strips(side, *block_edges(height, width), torch.int32) for side in (x, y)]),
    )


def _motion(clip: torch.Tensor, lead: int) -> torch.Tensor:
    import torch

    steps = (clip[1:] - clip[:-1]).abs_().sum((1, 2))
    return steps if lead else torch.cat([steps.new_zeros(1), steps])


def _laplacian(x: torch.Tensor) -> torch.Tensor:
    """Sum and sum of squares [n, 2] of the 4-neighbour Laplacian inside int16 [n, H, 3 W]."""
    import torch

    if x.shape[1] < 3 or x.shape[2] < 9:
        return torch.zeros((len(x), 2), dtype=torch.int64, device=x.device)
    edges = 4 * x[:, 1:-1, 3:-3]
    for neighbour in (x[:, 1:-1, :-6], x[:, 1:-1, 6:], x[:, :-2, 3:-3], x[:, 2:, 3:-3]):
        edges.sub_(neighbour)
    return torch.stack([edges.sum((1, 2)), edges.int().square_().sum((1, 2))], dim=1)


def _window(x: torch.Tensor) -> torch.Tensor:
    """Sums over 7 rows and 7 pixels of one channel: [n, H, 3 W] to [n, H - 6, 3 W - 18], four additions a direction."""
    pairs = x[:, :-1] + x[:, 1:]
    down = (pairs[:, :-5] + pairs[:, 2:-3]).add_(pairs[:, 4:-1]).add_(x[:, 6:])
    pairs = down[:, :, :-3] + down[:, :, 3:]
    return (pairs[:, :, :-15] + pairs[:, :, 6:-9]).add_(pairs[:, :, 12:-3]).add_(down[:, :, 18:])


def _ssim_tiles(x: torch.Tensor, y: torch.Tensor, energy: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """SSIM summed by tile, float32 [n, rows, columns], of int16 frames and the int32 sum of their squares.

    See `harness.frames.kernels.numba_rows` for the formula. A 7x7 sum of bytes fits int16.
    """
    import torch

    area = WINDOW * WINDOW
    sx, sy = _window(x).int(), _window(y).int()
    cross, own = sx * sy, sx.square_().add_(sy.square_())
    covariance = _window(x.int() * y).mul_(area).sub_(cross).float()
    variance = _window(energy).mul_(area).sub_(own).float()
    c1, c2 = (0.01 * 255.0) ** 2 * area * area, (0.03 * 255.0) ** 2 * area * (area - 1)
    top = cross.float().mul_(2.0).add_(c1).mul_(covariance.mul_(2.0).add_(c2))
    similar = top.div_(own.float().add_(c1).mul_(variance.add_(c2)))
    return _strips(similar, *tile_edges(height, width), torch.float32).sum(-1)


def _strips(values: torch.Tensor, rows: Edges, columns: Edges, dtype: torch.dtype) -> torch.Tensor:
    """Sums of [n, H, 3 W] over the strips between the borders: [n, rows, columns, 3]."""
    down = _runs(values, rows, dtype)
    count, height, length = down.shape
    return _runs(down.reshape(count * height, length // 3, 3), columns, dtype).reshape(count, height, -1, 3)


def _runs(values: torch.Tensor, borders: Edges, dtype: torch.dtype) -> torch.Tensor:
    """Sums of [n, L, m] over equal runs of L, of which the last may be longer or shorter: [n, runs, m]."""
    import torch

    last = int(borders[-2])
    tail = values[:, last:].sum(1, keepdim=True, dtype=dtype)
    if last == 0:
        return tail
    runs = values[:, :last].reshape(len(values), len(borders) - 2, int(borders[1]), values.shape[2])
    return torch.cat([runs.sum(2, dtype=dtype), tail], dim=1)
