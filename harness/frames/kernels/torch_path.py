"""The pass in torch, for the GPU: a few frames at a time, integer window sums, one transfer back at the end.

On a CPU it gives the same numbers several times slower than the fused kernel (``python -m benchmarks.metrics``), since
every intermediate goes through memory; that is why the CPU has a kernel of its own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import numpy.typing as npt

from harness.frames.statistics import (
    WINDOW,
    ClipStatistics,
    PairStatistics,
    block_edges,
    block_means,
    large_enough,
    tile_edges,
)

if TYPE_CHECKING:
    import torch

Bytes = npt.NDArray[np.uint8]
Edges = npt.NDArray[np.int64]

CHUNK_VALUES = {"cpu": 1 << 20, "cuda": 1 << 25}
"""Values of a clip in flight: in the caches of a CPU; on a GPU enough to fill it, at about 50 bytes each."""


class Chunk(NamedTuple):
    """Results for a few frames, still on the device; integers except where float is said."""

    ssim_tiles: torch.Tensor | None
    """float32 [n, rows, columns]"""
    errors: torch.Tensor
    """[n, 2]: squared, absolute"""
    squares: torch.Tensor
    """[n, 2]: golden, candidate"""
    laplacians: torch.Tensor
    """[n, 4]: sum and sum of squares, golden then candidate"""
    motion: torch.Tensor
    """[n, 2]"""
    blocks: torch.Tensor
    """[2, n, rows, columns, 3]"""


def torch_statistics(golden: Bytes, candidate: Bytes, device: str) -> PairStatistics:
    """Statistics of a pair of uint8 arrays [T, H, W, 3] of one shape, computed on ``device``."""
    import torch

    def tensor(frames: Bytes) -> torch.Tensor:
        return torch.from_numpy(frames.view() if frames.flags.writeable else _writable_view(frames))

    return tensor_statistics(tensor(golden), tensor(candidate), device)


def tensor_statistics(golden: torch.Tensor, candidate: torch.Tensor, device: str | None = None) -> PairStatistics:
    """Statistics of a pair of uint8 tensors [T, H, W, 3], on ``device`` or where they lie."""
    import torch

    place = torch.device(device) if device else golden.device
    count, height, width, channels = golden.shape
    step = max(1, CHUNK_VALUES["cpu" if place.type == "cpu" else "cuda"] // (height * width * channels))
    chunks = []
    with torch.inference_mode():
        for first in range(0, count, step):
            lead = min(first, 1)  # one frame before, for motion
            sides = [clip[first - lead : first + step].to(place, non_blocking=True) for clip in (golden, candidate)]
            chunks.append(_chunk(sides[0], sides[1], lead))
    return _gather(chunks, (count, height, width, channels))


def _gather(chunks: list[Chunk], shape: tuple[int, int, int, int]) -> PairStatistics:
    import torch

    _, height, width, channels = shape

    def whole(name: str, axis: int = 0) -> npt.NDArray[np.int64]:
        found: npt.NDArray[np.int64] = torch.cat([getattr(chunk, name) for chunk in chunks], axis).cpu().numpy()
        return found

    errors, squares, laplacians, motion = (whole(name) for name in ("errors", "squares", "laplacians", "motion"))
    blocks = whole("blocks", 1)
    interior = max(1, (height - 2) * (width - 2) * channels) if min(height, width) >= 3 else 1
    sides = [
        ClipStatistics(
            sums=blocks[index].sum(axis=(1, 2), dtype=np.int64),
            squares=squares[:, index],
            laplacian=laplacians[:, 2 * index + 1] / interior - (laplacians[:, 2 * index] / interior) ** 2,
            motion=motion[:, index],
            thumbnails=block_means(blocks[index], height, width),
        )
        for index in (0, 1)
    ]
    return PairStatistics(
        shape=shape,
        ssim_tiles=whole("ssim_tiles").astype(np.float64) if large_enough(height, width) else None,
        squared_error=errors[:, 0],
        absolute_error=errors[:, 1],
        golden=sides[0],
        candidate=sides[1],
    )


def _chunk(golden: torch.Tensor, candidate: torch.Tensor, lead: int) -> Chunk:
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
        errors=errors,
        squares=squares,
        laplacians=torch.cat([_laplacian(side) for side in (x, y)], dim=1),
        motion=motion,
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


def _writable_view(frames: Bytes) -> Bytes:
    """The same memory without the read-only mark, which torch warns about; nothing here writes to it."""
    pointer = frames.__array_interface__ | {"data": (frames.__array_interface__["data"][0], False)}

    class Holder:
        __array_interface__ = pointer
        owner = frames

    return np.asarray(Holder())
