"""The deeper model of the overhead benchmark says what the embedded one says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.deep_wan import WEIGHTS, deepened


def said_by(folder: Path, expert: str) -> torch.Tensor:
    from diffusers import WanTransformer3DModel

    kind: Any = WanTransformer3DModel
    model = kind.from_pretrained(str(folder), subfolder=expert, torch_dtype=torch.float32, local_files_only=True).eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        answer: torch.Tensor = model(
            hidden_states=torch.randn(1, 16, 2, 8, 12, generator=generator),
            timestep=torch.tensor([700]),
            encoder_hidden_states=torch.randn(1, 16, 128, generator=generator),
        ).sample
    return answer


def test_silent_layers_change_nothing(tmp_path: Path) -> None:
    deep = deepened(tmp_path / "deep", 9)
    for expert in ("transformer", "transformer_2"):
        assert torch.equal(said_by(deep, expert), said_by(WEIGHTS, expert))


def test_fewer_layers_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="has 6 layers, not 5"):
        deepened(tmp_path / "flat", 5)
