"""Initial latents that are equal on every machine.

``torch.randn`` on a CPU gives different last bits under different instruction sets (measured: 39 % of the values
between the default and the AVX2 kernels, by up to 2e-6), because each has its own logarithm and cosine. Here the same
random numbers of the same generator go through the same Box-Muller transform in float64, and the result is rounded to a
grid of 2**-16. So a seed gives the noise of diffusers up to 1e-5, with one digest under every instruction set.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt
import torch
from pydantic import Field

from harness.definitions.case import Case
from harness.engine.backend import Emit, Method
from harness.engine.observed import moved
from harness.records.base import Json, Record
from harness.records.generation import Generation

GRID = 2.0**-16
"""Far coarser than the difference of two libraries' float64 functions (about 1e-15), so that rounding hides it: the
chance that one value of two million differs is about 1e-4."""
_GROUP = 16


def initial_noise(shape: tuple[int, ...], seed: int) -> torch.Tensor:
    """Return standard normal noise, float32, on the CPU.

    Args:
        shape: at least 16 values.
        seed: seed of ``torch.Generator("cpu")``.

    Raises:
        ValueError: fewer than 16 values; torch uses another method for them.
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
        # torch draws the last 16 values anew if the count is no multiple of 16
        normal[-_GROUP:] = _box_muller(_uniform(_GROUP, generator))
    rounded = np.rint(normal / GRID) * GRID
    return torch.from_numpy(rounded.astype(np.float32)).reshape(shape)


def _uniform(count: int, generator: torch.Generator) -> npt.NDArray[np.float64]:
    """Return multiples of 2**-24 in [0, 1): integers from the generator, which no library computes differently."""
    numbers: npt.NDArray[np.float64] = torch.rand(count, generator=generator).numpy().astype(np.float64)
    return numbers


def _box_muller(uniform: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Apply Box and Muller (1958) in torch's order: of 16 numbers the first 8 give radii and the last 8 angles."""
    groups = uniform.reshape(-1, 2, _GROUP // 2)
    radius = np.sqrt(-2.0 * np.log(1.0 - groups[:, 0]))
    angle = 2.0 * np.pi * groups[:, 1]
    return np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1).reshape(-1)


# Disturb a generation by the smallest possible amount, to measure how chaotic a case is.


METHOD = "generate_perturbed"


class Noise(Record):
    """Settings of a disturbance."""

    seed: int = Field(ge=0)
    dtype: Literal["float32", "bf16"] = "bf16"
    """Unit of the last place: ``float32``, the dtype of the latents, or ``bf16``, the dtype that the experts read."""
    initial: bool = True
    """Disturb the initial latents."""
    between: bool = False
    """Disturb the latents after every step but the last."""


def disturbed(latents: torch.Tensor, dtype: str, generator: torch.Generator) -> torch.Tensor:
    """Return ``latents`` (any shape, float32) with every value moved by -1, 0 or +1 unit in the last place of
    ``dtype``.

    The moves are drawn on the CPU, so that a seed gives the same moves on every device. Zeros and values that are not
    finite stay.
    """
    return moved(latents, torch.randint(-1, 2, latents.shape, generator=generator, dtype=torch.int8), dtype)


class Disturber:
    """Disturbs one generation."""

    def __init__(self, noise: Noise) -> None:
        self._noise = noise
        self._generator = torch.Generator("cpu").manual_seed(noise.seed)

    def initial(self, latents: torch.Tensor) -> torch.Tensor:
        """Return the initial latents to use, disturbed if ``Noise.initial`` is set."""
        return disturbed(latents, self._noise.dtype, self._generator) if self._noise.initial else latents

    def hook(self, scheduler: Any, steps: int) -> None:
        """Make a scheduler for one generation of ``steps`` steps return disturbed latents, but not after the last."""
        if not self._noise.between:
            return
        step, remaining = scheduler.step, [steps]

        def wrapped(*arguments: Any, **options: Any) -> Any:
            result = step(*arguments, **options)
            remaining[0] -= 1
            if not remaining[0]:
                return result
            return (disturbed(result[0], self._noise.dtype, self._generator), *result[1:])

        scheduler.step = wrapped


class Host(Protocol):
    """Interface that the method needs from a backend."""

    def generate_with(self, case: Case, out_dir: Path, emit: Emit, noise: Noise | None) -> Generation:
        """Generate as ``generate`` does, with a disturbance."""


def noise_methods(host: Host) -> Mapping[str, Method]:
    """Return the method ``generate_perturbed``: ``{"case", "out_dir", "noise"}`` in, the result of ``generate`` out."""

    def generate(params: dict[str, Json], emit: Emit) -> Json:
        case, out_dir = Case.model_validate(params["case"]), Path(str(params["out_dir"]))
        out_dir.mkdir(parents=True, exist_ok=True)
        noise = Noise.model_validate(params["noise"])
        return host.generate_with(case, out_dir, emit, noise).model_dump(mode="json")

    return {METHOD: generate}
