"""Initial latents that are the same on every machine.

``torch.randn`` on a CPU gives other last bits with other instruction sets (measured: 39 % of the values between the
default and the AVX2 kernels, by up to 2e-6), because each has its own logarithm and cosine. Here the same random
numbers of the same generator go through the same Box-Muller transform in float64, and the result is rounded to a grid
of 2**-16. So a seed means what it means in diffusers, to 1e-5, and its digest is the same under every instruction set.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import torch

GRID = 2.0**-16
"""Far coarser than the disagreement of two libraries' float64 functions (about 1e-15), so that rounding hides it: some
1e-4 of a chance that one value of two million differs."""
_GROUP = 16


def initial_noise(shape: tuple[int, ...], seed: int) -> torch.Tensor:
    """Standard normal noise, float32, on the CPU.

    Args:
        shape: at least 16 values.
        seed: of ``torch.Generator("cpu")``.

    Raises:
        ValueError: fewer than 16 values, for which torch has another method.
    """
    count = math.prod(shape)
    if count < _GROUP:
        raise ValueError(f"{list(shape)} holds fewer than {_GROUP} values")
    generator = torch.Generator("cpu").manual_seed(seed)
    whole = _uniform(count, generator)
    normal = np.empty(count)
    full = count // _GROUP * _GROUP
    normal[:full] = _box_muller(whole[:full])
    if full != count:
        # As torch does: the last 16 values are drawn anew.
        normal[-_GROUP:] = _box_muller(_uniform(_GROUP, generator))
    rounded = np.rint(normal / GRID) * GRID
    return torch.from_numpy(rounded.astype(np.float32)).reshape(shape)


def _uniform(count: int, generator: torch.Generator) -> npt.NDArray[np.float64]:
    """Multiples of 2**-24 in [0, 1): integers from the generator, no function that a library may compute otherwise."""
    numbers: npt.NDArray[np.float64] = torch.rand(count, generator=generator).numpy().astype(np.float64)
    return numbers


def _box_muller(uniform: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Box and Muller (1958), in torch's order: of 16 numbers the first 8 give radii and the last 8 angles."""
    groups = uniform.reshape(-1, 2, _GROUP // 2)
    radius = np.sqrt(-2.0 * np.log(1.0 - groups[:, 0]))
    angle = 2.0 * np.pi * groups[:, 1]
    return np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1).reshape(-1)
