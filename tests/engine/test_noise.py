"""Initial noise: torch's, but for the last bits, and the same under every instruction set."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys

import pytest
import torch

from harness.engine.noise import GRID, initial_noise

SHAPE = (1, 16, 5, 8, 12)
DIGEST = "0ac6c051efbacd96c0447c2ff4a33af614f5bb05e3c604cba01450dc7b09207d"


def _digest() -> str:
    return hashlib.sha256(initial_noise(SHAPE, 0).numpy().tobytes()).hexdigest()


@pytest.mark.parametrize("shape", [SHAPE, (16,), (17,), (1, 3, 7), (31,), (1000, 3)])
@pytest.mark.parametrize("seed", [0, 1, 2**40 + 3])
def test_a_seed_means_what_it_means_to_torch(shape: tuple[int, ...], seed: int) -> None:
    theirs = torch.randn(shape, generator=torch.Generator("cpu").manual_seed(seed))
    ours = initial_noise(shape, seed)
    assert ours.dtype == torch.float32
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1.2e-5)
    assert torch.equal(ours / GRID, (ours / GRID).round())


@pytest.mark.parametrize("capability", ["default", "avx2", "avx512"])
def test_the_digest_does_not_know_the_instruction_set(capability: str) -> None:
    program = (
        "import hashlib; from harness.engine.noise import initial_noise; "
        f"print(hashlib.sha256(initial_noise({SHAPE}, 0).numpy().tobytes()).hexdigest())"
    )
    environment = os.environ | {"ATEN_CPU_CAPABILITY": capability, "OMP_NUM_THREADS": "1"}
    ended = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True)
    assert ended.stdout.strip() == DIGEST


def test_the_digest_is_the_one_that_goldens_hold() -> None:
    assert _digest() == DIGEST


def test_too_few_values_are_refused() -> None:
    with pytest.raises(ValueError, match="fewer than 16"):
        initial_noise((3, 5), 0)
