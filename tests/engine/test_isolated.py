"""Linears fed alone: the compute dtype must not move the codes that quantized activations become."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from harness.engine.probes.run import feed_alone
from harness.engine.probes.stimulus import stimulus
from harness.engine.quantized import emulated, fp8, native
from harness.engine.quantized.fp8 import Fp8Linear

COLUMNS = 64


def packed(input_scale: float) -> torch.nn.Module:
    weight = torch.randn(96, COLUMNS, generator=torch.Generator().manual_seed(5)) / COLUMNS**0.5
    scale = fp8.dynamic_scale(weight)
    choice = native.Choice(emulated.scaled_mm, kernel=emulated.NAME)
    linear = Fp8Linear(fp8.quantize(weight, scale), scale, torch.tensor(input_scale), None, choice)
    return torch.nn.ModuleDict({"one": linear})


def off(one: tuple[float, ...], other: tuple[float, ...]) -> float:
    return float(np.linalg.norm(np.subtract(one, other)) / np.linalg.norm(other))


@pytest.mark.parametrize("magnitude", range(16))
def test_the_same_codes_in_every_compute_dtype(magnitude: int) -> None:
    """With each magnitude of the signal in turn on a rounding boundary of E4M3, where bfloat16 falls to one side."""
    amplitude = 1.0
    sizes = np.unique(np.abs(stimulus(COLUMNS, amplitude)))
    model = packed(float(sizes[magnitude]) / 17.0)  # 17 lies between the codes 16 and 18
    rows = [feed_alone(model, {"one": amplitude}, dtype)[0]["one"] for dtype in (torch.bfloat16, torch.float32)]
    assert off(rows[0], rows[1]) < 0.004


def test_without_that_a_boundary_shows() -> None:
    """What the rounding guards against: the plain signal in float32 answers otherwise than in bfloat16."""
    sizes = np.unique(np.abs(stimulus(COLUMNS, 1.0)))
    signal = torch.from_numpy(stimulus(COLUMNS, 1.0))
    errors = []
    for size in sizes:
        linear = packed(float(size) / 17.0)["one"]  # type: ignore[index]
        answers = [linear(signal.to(dtype)).float() for dtype in (torch.bfloat16, torch.float32)]
        errors.append(float((answers[0] - answers[1]).norm() / answers[1].norm()))
    assert max(errors) > 0.006
