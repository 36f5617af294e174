"""A small random Wan expert whose Linears are packed NVFP4, and recorded inputs for it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from harness.engine.probes.points import Recorded
from harness.engine.quantized import native, nvfp4
from harness.engine.quantized.nvfp4 import Nvfp4Linear
from harness.records.probe import ProbeInput


def make_expert(seed: int = 0) -> Any:
    """Two blocks, 2 heads of 16; random weights of a size at which every module matters."""
    from diffusers import WanTransformer3DModel

    torch.manual_seed(seed)
    kind: Any = WanTransformer3DModel
    model = kind(
        patch_size=(1, 2, 2),
        num_attention_heads=2,
        attention_head_dim=16,
        in_channels=4,
        out_channels=4,
        text_dim=16,
        freq_dim=32,
        ffn_dim=64,
        num_layers=2,
        rope_max_seq_len=32,
    )
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return model.to(torch.bfloat16).eval()


def pack(model: Any) -> Any:
    """Replace every Linear of the blocks by its NVFP4 form."""
    for name, module in list(model.named_modules()):
        if isinstance(module, torch.nn.Linear) and name.startswith("blocks."):
            weight = module.weight.detach().float()
            outer = weight.abs().amax() / (6 * 448)
            packed, scale = nvfp4.quantize(weight, outer)
            fresh = Nvfp4Linear(packed, scale, outer, None, module.bias.detach(), native.Choice(None))
            parent, _, leaf = name.rpartition(".")
            setattr(model.get_submodule(parent), leaf, fresh)
    return model


@pytest.fixture
def expert() -> Callable[[], tuple[Any, Any]]:
    """Makes ``(base, quantized)`` with the same weights."""
    return lambda: (make_expert(), pack(make_expert()))


@pytest.fixture
def inputs() -> tuple[Recorded, ...]:
    """Two probes of the high-noise expert."""
    generator = torch.Generator().manual_seed(1)
    made = []
    for step, timestep in ((0, 999.0), (3, 900.0)):
        probe = ProbeInput(expert="transformer", step=step, timestep=timestep, timestep_dtype="float32", tokens=8)
        latents = torch.randn((1, 4, 2, 4, 4), generator=generator).to(torch.bfloat16)
        made.append(Recorded(probe, latents, torch.randn((1, 5, 16), generator=generator).to(torch.bfloat16)))
    return tuple(made)
