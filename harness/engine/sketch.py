"""Seeded random projections: 64 numbers that represent a tensor of any size.

Entry j is ``sqrt(64) * sum_i s_i x_i`` over all i with ``i % 64 == j``, with signs ``s_i`` from a fixed hash of the
position. So the expectation of the mean of squared entries is ``||x||^2``, and the squared distance of two sketches
estimates that of the tensors with a relative standard deviation of about ``sqrt(2 / 64)``, 18 % (count sketch:
Charikar, Chen and Farach-Colton, 2002). Signs come from integer arithmetic (SplitMix64), not from a library's
generator: a sketch made years ago stays comparable.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch

WIDTH = 64
SEED = 0x51_7E_7C_4A_11_0D_1F_37


@lru_cache(maxsize=16)
def _signs(count: int, device: torch.device) -> torch.Tensor:
    """int8 [count] of -1 and 1: the top bit of SplitMix64 of the position (Steele, Lea and Flood, 2014)."""
    with np.errstate(over="ignore"):
        z = (np.arange(1, count + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)) + np.uint64(SEED)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    bits = ((z ^ (z >> np.uint64(31))) >> np.uint64(63)).astype(np.int8)
    return torch.from_numpy(bits * 2 - 1).to(device)


def sketch(x: torch.Tensor) -> tuple[float, ...]:
    """Return the 64 projections of ``x``, summed in float64 and rounded to 7 digits.

    The result depends on the device only through the rounding of the sums.
    """
    flat = x.detach().reshape(-1)
    count = -(-flat.numel() // WIDTH) * WIDTH
    signed = torch.zeros(count, dtype=torch.float64, device=x.device)
    signed[: flat.numel()] = flat.to(torch.float64) * _signs(flat.numel(), x.device)
    entries = signed.view(-1, WIDTH).sum(dim=0) * WIDTH**0.5
    return tuple(float(f"{value:.7g}") for value in entries.tolist())
