"""Run by test_triton.py with TRITON_INTERPRET=1, which Triton reads as it is imported: the kernels without a GPU."""

from __future__ import annotations

import sys

import numpy as np
from test_kernels import close

from harness.frames.clip import Clip
from harness.frames.compare import compare
from harness.frames.kernels import tensors, triton_path
from harness.frames.statistics import pair_statistics


def pair(*shape: int) -> tuple[Clip, Clip]:
    """Noise, and the same with less of it on top."""
    rng = np.random.default_rng(0)
    frames = rng.integers(0, 256, (*shape, 3))
    other = np.clip(frames + rng.integers(-9, 10, frames.shape), 0, 255)
    return Clip(frames.astype(np.uint8)), Clip(other.astype(np.uint8))


def main(fault: str) -> None:
    """Hold the kernels against scikit-image; ``fault`` spoils one first."""
    triton_path.LANES.update(ssim=64, point=64, block=16)
    if fault == "rest":
        triton_path._join = lambda sums, axis, count: sums.narrow(axis, 0, count)  # type: ignore[assignment]
    # more than one strip and program each way, with a rest that joins its neighbour in tiles and in blocks
    golden, candidate = pair(1, 41, 42)
    close(pair_statistics(golden, candidate, "triton"), pair_statistics(golden, candidate, "scikit-image"))
    # too small for SSIM and the Laplacian; a frame at a time, so that motion looks at the chunk before
    golden, candidate = pair(3, 2, 9)
    tensors.CHUNK_VALUES["triton"] = 1
    close(pair_statistics(golden, candidate, "triton"), pair_statistics(golden, candidate, "scikit-image"))
    (psnr,) = compare(golden, candidate, ["psnr"], implementation="triton").metrics
    print(psnr.implementation)


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "")
