"""The pass on a CUDA device: launches the fused Triton kernels and folds their strips."""

from __future__ import annotations

import os
import shutil
from functools import cache
from importlib.util import find_spec
from typing import TYPE_CHECKING

from harness.frames.kernels.tensors import Chunk
from harness.frames.statistics import BLOCK, TILE, block_edges, large_enough, tile_edges

if TYPE_CHECKING:
    import torch

LANES = {"ssim": 256, "point": 512, "block": 128}
"""Values of a row that a program works on, a power of two."""
WARPS = {"ssim": 4, "point": 8, "block": 4}
"""Warps a program; the pass is timed over both by ``python -m benchmarks.metrics --device cuda``."""
POINT_ROWS = 32
"""Rows a program of the pointwise sums works on; its int32 sums hold 2000."""


@cache
def why_not(device: str) -> str:
    """Why Triton cannot run on a device, in a few words; empty where it can."""
    if find_spec("triton") is None:
        return "the package triton is not installed; CUDA builds of torch bring it along"
    if os.environ.get("TRITON_INTERPRET") == "1":
        return ""  # Triton's interpreter runs the kernels on any device
    if not device.startswith("cuda"):
        return "it is no CUDA device"
    if not (os.environ.get("CC") or shutil.which("gcc") or shutil.which("clang")):
        return "Triton builds its launcher with a C compiler, and neither gcc nor clang is on PATH"
    return ""


def chunk(golden: torch.Tensor, candidate: torch.Tensor, lead: int) -> Chunk:
    """Results of uint8 [lead + n, H, W, 3]; the frame that leads is there for motion only."""
    import torch

    x, y = (clip.contiguous()[lead:] for clip in (golden, candidate))
    with torch.cuda.device(x.device if x.is_cuda else -1):
        return Chunk(
            ssim_tiles=_ssim_tiles(x, y) if large_enough(*x.shape[1:3]) else None,
            points=_points(x, y, lead),
            blocks=torch.stack([_blocks(clip) for clip in (x, y)]),
        )


def _points(x: torch.Tensor, y: torch.Tensor, lead: int) -> torch.Tensor:
    import torch

    from harness.frames.kernels.triton_rows import point_rows

    count, height, width, channels = x.shape
    strips, columns = _parts(height, POINT_ROWS), _parts(width * channels, LANES["point"])
    out = torch.empty((count, strips * columns, 10), dtype=torch.int64, device=x.device)
    sizes = (height, width * channels, strips, columns)
    point_rows[(count * strips * columns,)](
        x, y, out, *sizes, lead, POINT_ROWS, LANES["point"], num_warps=WARPS["point"]
    )
    return out.sum(1)


def _blocks(clip: torch.Tensor) -> torch.Tensor:
    """Block sums, int32 [n, rows, columns, 3]."""
    import torch

    from harness.frames.kernels.triton_rows import block_rows

    count, height, width, channels = clip.shape
    strips, spans = _parts(height, BLOCK), _parts(width, BLOCK)
    columns = _parts(spans * channels, LANES["block"])
    out = torch.empty((count, strips, spans, channels), dtype=torch.int32, device=clip.device)
    sizes = (height, width * channels, strips, columns)
    block_rows[(count * strips * columns,)](clip, out, *sizes, spans, BLOCK, LANES["block"], num_warps=WARPS["block"])
    rows, borders = block_edges(height, width)
    return _join(_join(out, 1, len(rows) - 1), 2, len(borders) - 1)


def _ssim_tiles(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """SSIM summed by tile, float64 [n, rows, columns]."""
    import torch
    from torch.nn.functional import pad

    from harness.frames.kernels.triton_rows import ssim_rows

    count, height, width, channels = x.shape
    rows, borders = tile_edges(height, width)
    windows = int(borders[-1]) * channels
    strips, columns = _parts(int(rows[-1]), TILE), _parts(windows, LANES["ssim"])
    down = torch.empty((count, strips, windows), dtype=torch.float32, device=x.device)
    sizes = (height, width * channels, strips, columns)
    ssim_rows[(count * strips * columns,)](x, y, down, *sizes, TILE, LANES["ssim"], num_warps=WARPS["ssim"])
    step = TILE * channels
    tiles = pad(down, (0, -windows % step)).reshape(count, strips, -1, step).sum(3, dtype=torch.float64)
    return _join(_join(tiles, 1, len(rows) - 1), 2, len(borders) - 1)


def _parts(length: int, step: int) -> int:
    return -(-length // step)


def _join(sums: torch.Tensor, axis: int, count: int) -> torch.Tensor:
    """Add a rest that is no strip of its own to the strip before it: at most ``count`` along ``axis``."""
    if sums.shape[axis] == count:
        return sums
    joined = sums.narrow(axis, 0, count).clone()
    joined.select(axis, count - 1).add_(sums.select(axis, count))
    return joined
