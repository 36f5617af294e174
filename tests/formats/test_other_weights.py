"""Weights that are no transformer's are named by their tensors; a transformer's never are."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
import torch

from benchmarks.corpus import published_faults as wild
from harness.formats.header import TensorEntry
from harness.formats.other_weights import other_weights


def named(tensors: Mapping[str, torch.Tensor]) -> str:
    made = {name: TensorEntry(name, "F32", tuple(value.shape), "f", 0, 0) for name, value in tensors.items()}
    found = other_weights(made)
    return found.text if found is not None else ""


@pytest.mark.parametrize("tensors", [wild.COMFY_LORA, wild.KOHYA_LORA, wild.PEFT_LORA])
def test_adapters_state_their_rank(tensors: Mapping[str, torch.Tensor]) -> None:
    assert named(tensors).startswith("a LoRA of rank 16: ")


def test_differences_and_alphas_belong_to_an_adapter() -> None:
    extra = {
        f"diffusion_model.blocks.{n}.self_attn.q.{part}": torch.zeros(4)
        for n in range(6)
        for part in ("alpha", "diff_b")
    }
    assert named({**wild.COMFY_LORA, **extra}).startswith("a LoRA")


def test_components_are_named() -> None:
    assert "a VAE" in named(wild.VAE)
    assert "a text encoder" in named(wild.TEXT_ENCODER)
    t5 = {
        f"blocks.{n}.{part}.weight": torch.zeros(2, 2) for n in range(3) for part in ("attn.q", "attn.k", "ffn.gate.0")
    }
    assert "a text encoder" in named(t5)
    clip = {f"visual.transformer.{n}.attn.to_qkv.weight": torch.zeros(2, 2) for n in range(3)}
    assert "an image encoder" in named(clip)
    assert "a VACE module" in named({"vace_blocks.0.self_attn.q.weight": torch.zeros(2, 2)})


@pytest.mark.parametrize("name", ["blocks.0.attn1.to_q.weight", "model.diffusion_model.blocks.0.self_attn.q.weight"])
def test_a_transformer_beside_other_weights_is_a_transformer(name: str) -> None:
    assert named({name: torch.zeros(2, 2), **wild.VAE, **wild.TEXT_ENCODER}) == ""


def test_unknown_names_are_not_guessed_at() -> None:
    assert named({}) == ""
    assert named({"double_blocks.0.img_attn.qkv.weight": torch.zeros(2, 2)}) == ""
