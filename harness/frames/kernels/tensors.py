"""The pass over tensors: a few frames at a time, by torch or by Triton, and one small transfer back at the end."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from harness.frames.errors import MetricUnavailableError
from harness.frames.statistics import ClipStatistics, PairStatistics, block_edges, block_means, large_enough
from harness.frames.time_statistics import TimeStatistics

if TYPE_CHECKING:
    import torch

Bytes = npt.NDArray[np.uint8]
Kernel = Literal["torch", "triton"]

CHUNK_VALUES = {"cpu": 1 << 20, "torch": 1 << 25, "triton": 1 << 27}
"""Values of a clip in flight. CPU: what its caches hold. torch on a GPU: enough to fill it, at about 50 bytes each.

Triton needs less than one byte each, and two for frames that come from the host.
"""


class Chunk(NamedTuple):
    """Results for n frames, still on the device."""

    ssim_tiles: torch.Tensor | None
    """float [n, rows, columns]"""
    points: torch.Tensor
    """int64 [n, 10]: errors (squared, absolute), squares (golden, candidate), sum and sum of squares of the Laplacian
    (golden's, then candidate's), motion (golden, candidate)"""
    blocks: torch.Tensor
    """int32 [2, n, rows, columns, 3]: block sums, golden and candidate"""


def array_statistics(golden: Bytes, candidate: Bytes, device: str, kernel: Kernel) -> PairStatistics:
    """Statistics of a pair of uint8 arrays [T, H, W, 3] of one shape, computed on ``device``.

    Raises:
        MetricUnavailableError: Triton was asked for and cannot run there.
    """
    import torch

    def tensor(frames: Bytes) -> torch.Tensor:
        return torch.from_numpy(frames.view() if frames.flags.writeable else _writable_view(frames))

    return tensor_statistics(tensor(golden), tensor(candidate), device, kernel)


def tensor_statistics(
    golden: torch.Tensor, candidate: torch.Tensor, device: str | None = None, kernel: Kernel = "torch"
) -> PairStatistics:
    """Statistics of a pair of uint8 tensors [T, H, W, 3], on ``device`` or where they lie.

    Raises:
        MetricUnavailableError: Triton was asked for and cannot run there.
    """
    import torch

    place = torch.device(device) if device else golden.device
    count, height, width, channels = golden.shape
    limit = CHUNK_VALUES["triton" if kernel == "triton" else "cpu" if place.type == "cpu" else "torch"]
    step = max(1, limit // (height * width * channels))
    work = _kernel(kernel, place)
    chunks = []
    with torch.inference_mode():
        for first in range(0, count, step):
            lead = min(first, 1)  # one frame before, for motion
            sides = [clip[first - lead : first + step].to(place, non_blocking=True) for clip in (golden, candidate)]
            chunks.append(work(sides[0], sides[1], lead))
        return _gather(chunks, (count, height, width, channels))


def _kernel(kernel: Kernel, place: torch.device) -> Callable[[torch.Tensor, torch.Tensor, int], Chunk]:
    if kernel == "torch":
        from harness.frames.kernels import torch_path

        return torch_path.chunk
    from harness.frames.kernels import triton_path

    reason = triton_path.why_not(str(place))
    if reason:
        raise MetricUnavailableError(f"triton cannot run on {place}: {reason}; choose implementation='torch'")
    return triton_path.chunk


def _gather(chunks: list[Chunk], shape: tuple[int, int, int, int]) -> PairStatistics:
    import torch

    _, height, width, channels = shape
    blocks = torch.cat([chunk.blocks for chunk in chunks], 1)
    points = torch.cat([chunk.points for chunk in chunks]).cpu().numpy()
    sums = blocks.sum((2, 3), dtype=torch.int64).cpu().numpy()
    tiles = [chunk.ssim_tiles for chunk in chunks if chunk.ssim_tiles is not None]
    interior = max(1, (height - 2) * (width - 2) * channels) if min(height, width) >= 3 else 1
    sides = [
        ClipStatistics(
            sums=sums[index],
            squares=points[:, 2 + index],
            laplacian=points[:, 5 + 2 * index] / interior - (points[:, 4 + 2 * index] / interior) ** 2,
            motion=points[:, 8 + index],
            fetch_thumbnails=partial(_thumbnails, blocks[index], height, width),
        )
        for index in (0, 1)
    ]
    return PairStatistics(
        shape=shape,
        ssim_tiles=torch.cat(tiles).cpu().numpy().astype(np.float64) if large_enough(height, width) else None,
        squared_error=points[:, 0],
        absolute_error=points[:, 1],
        golden=sides[0],
        candidate=sides[1],
        over_time=partial(_over_time, blocks, height, width),
    )


def _thumbnails(sums: torch.Tensor, height: int, width: int) -> npt.NDArray[np.float32]:
    return block_means(sums.cpu().numpy(), height, width)


def _over_time(blocks: torch.Tensor, height: int, width: int) -> TimeStatistics:
    """`harness.frames.time_statistics.time_statistics` of block sums [2, T, rows, columns, 3], where they lie.

    In float64, which a GPU has time for: no setting of torch's that allows coarser products can reach it.
    """
    import torch

    with torch.inference_mode():
        rows, columns = (torch.from_numpy(np.diff(side)).to(blocks.device) for side in block_edges(height, width))
        means = (blocks.double() / (rows[:, None] * columns)[:, :, None]).flatten(2)
        golden, candidate = means - means.mean(1, keepdim=True)
        energy = [side.square().sum(1) for side in (golden, candidate)]
        squared = torch.addmm(energy[1][:, None] + energy[0], candidate, golden.T, alpha=-2.0)
        distance = squared.clamp_min_(0.0).div_(means.shape[2])
        change = (means[:, 1:] - means[:, :-1]).square_().mean((1, 2)).sqrt_().tolist()
    if means.shape[1] == 1:
        change = [0.0, 0.0]
    return TimeStatistics(golden_change=change[0], candidate_change=change[1], distance=distance.cpu().numpy())


def _writable_view(frames: Bytes) -> Bytes:
    """The same memory without the read-only mark, which torch warns about; nothing here writes to it."""
    pointer = frames.__array_interface__ | {"data": (frames.__array_interface__["data"][0], False)}

    class Holder:
        __array_interface__ = pointer
        owner = frames

    return np.asarray(Holder())
