"""Seeded random projections: 64 numbers that represent a tensor of any size.

Entry j is ``sqrt(64) * sum_i s_i x_i`` over all i with ``i % 64 == j``, with signs ``s_i`` from a fixed hash of the
position. So the expectation of the mean of squared entries is ``||x||^2``, and the squared distance of two sketches
estimates that of the tensors with a relative standard deviation of about ``sqrt(2 / 64)``, 18 % (count sketch:
Charikar, Chen and Farach-Colton, 2002). Signs come from integer arithmetic (SplitMix64), not from a library's
generator: a sketch made years ago stays comparable.
"""

from __future__ import annotations

from functools import lru_cache

import torch

from harness.engine.probes.stimulus import WIDTH, signs


@lru_cache(maxsize=16)
def _signs(count: int, device: torch.device) -> torch.Tensor:
    """int8 [count] of -1 and 1, see `signs`; kept, since each step asks for the same sizes."""
    return torch.from_numpy(signs(count)).to(device)


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
