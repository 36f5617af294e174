"""The smallest disturbance that arithmetic knows, put into a generation: how chaotic is this case?

Another kernel sums in another order and moves last bits, everywhere and at every step. Here that is done on purpose:
every value of the latents is moved by -1, 0 or +1 unit in the last place of a dtype, seeded.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Protocol

import torch
from pydantic import Field

from harness.definitions.case import Case
from harness.pipeline.backend import Emit, Method
from harness.records.base import Json, Record
from harness.records.generation import Generation

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
