"""Initial latents that are the same on every machine.

``torch.randn`` on a CPU gives other last bits with other instruction sets (measured: 39 % of the values between the
default and the AVX2 kernels, by up to 2e-6), because each has its own logarithm and cosine. Here the same random
numbers of the same generator go through the same Box-Muller transform in float64, and the result is rounded to a grid
of 2**-16. So a seed means what it means in diffusers, to 1e-5, and its digest is the same under every instruction set.
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
from harness.records.base import Json, Record
from harness.records.generation import Generation

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


# The smallest disturbance that arithmetic knows, put into a generation: how chaotic is this case?


MANTISSA = {"float32": 23, "bf16": 7}
"""Stored bits of the mantissa."""
METHOD = "generate_perturbed"


class Noise(Record):
    """What to disturb, and how."""

    seed: int = Field(ge=0)
    dtype: Literal["float32", "bf16"] = "bf16"
    """Whose last place: of the latents themselves, or of what the experts read."""
    initial: bool = True
    """Disturb the initial latents."""
    between: bool = False
    """Disturb the latents after every step but the last."""


def disturbed(latents: torch.Tensor, dtype: str, generator: torch.Generator) -> torch.Tensor:
    """``latents`` (any shape, float32) with every value moved by -1, 0 or +1 unit in the last place of ``dtype``.

    Drawn on the CPU, so that a seed means the same on every device. Zeros and values that are not finite stay.
    """
    steps = torch.randint(-1, 2, latents.shape, generator=generator, dtype=torch.int8).to(latents.device)
    _, exponent = torch.frexp(latents.float())
    # frexp's mantissa lies in [.5, 1): the leading bit is worth 2^(exponent - 1)
    unit = torch.ldexp(torch.ones_like(latents, dtype=torch.float32), exponent - 1 - MANTISSA[dtype])
    unit = torch.where((latents == 0) | ~torch.isfinite(latents), torch.zeros_like(unit), unit)
    return (latents.float() + steps * unit).to(latents.dtype)


class Disturber:
    """Disturbs one generation."""

    def __init__(self, noise: Noise) -> None:
        self._noise = noise
        self._generator = torch.Generator("cpu").manual_seed(noise.seed)

    def initial(self, latents: torch.Tensor) -> torch.Tensor:
        """The initial latents to use."""
        return disturbed(latents, self._noise.dtype, self._generator) if self._noise.initial else latents

    def hook(self, scheduler: Any, steps: int) -> None:
        """Make a scheduler that serves one generation of ``steps`` steps return disturbed latents."""
        if not self._noise.between:
            return
        step, left = scheduler.step, [steps]

        def wrapped(*arguments: Any, **options: Any) -> Any:
            result = step(*arguments, **options)
            left[0] -= 1
            if not left[0]:
                return result
            return (disturbed(result[0], self._noise.dtype, self._generator), *result[1:])

        scheduler.step = wrapped


class Host(Protocol):
    """What the method needs of a backend."""

    def generate_with(self, case: Case, out_dir: Path, emit: Emit, noise: Noise | None) -> Generation:
        """``generate``, disturbed."""


def noise_methods(host: Host) -> Mapping[str, Method]:
    """``generate_perturbed``: ``{"case", "out_dir", "noise"}``; answers as ``generate`` does."""

    def generate(params: dict[str, Json], emit: Emit) -> Json:
        case, out_dir = Case.model_validate(params["case"]), Path(str(params["out_dir"]))
        out_dir.mkdir(parents=True, exist_ok=True)
        noise = Noise.model_validate(params["noise"])
        return host.generate_with(case, out_dir, emit, noise).model_dump(mode="json")

    return {METHOD: generate}
