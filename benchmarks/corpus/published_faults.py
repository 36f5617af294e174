"""Faults of the kinds that are published for Wan2.x: see ``benchmarks.corpus.published`` for the right checkpoints."""

from __future__ import annotations

import json
from collections.abc import Callable

import torch
from safetensors.torch import save_file

from benchmarks.corpus import libraries, written
from benchmarks.corpus.edit import Edit, Tensors
from benchmarks.corpus.exports import EXPERTS
from benchmarks.corpus.mutations import Mutation
from benchmarks.corpus.published import both, per_tensor, rewrite, single, square_blocks


def of(make: Callable[[Edit], None]) -> Mutation:
    """A maker without a strength as a mutation."""
    return lambda edit, _strength: make(edit)


def alone(tensors: Tensors) -> Mutation:
    """One file per expert with these tensors and nothing else."""

    def mutate(edit: Edit, strength: str) -> None:
        written.drop_folders(edit)
        for level in ("high", "low"):
            body = {name: value.clone() for name, value in tensors.items()}
            save_file(body, edit.folder / f"wan2.2_{level}_noise.safetensors")

    return mutate


def _draw(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(7)) * 0.02


def _lora(prefix: str, down: str, up: str) -> Tensors:
    """Factors of rank 16 for the query of six self-attentions."""
    names = [prefix.format(number) for number in range(6)]
    return {f"{n}.{down}.weight": _draw(16, 192) for n in names} | {f"{n}.{up}.weight": _draw(192, 16) for n in names}


COMFY_LORA = _lora("diffusion_model.blocks.{}.self_attn.q", "lora_down", "lora_up")
KOHYA_LORA = _lora("lora_unet_blocks_{}_self_attn_q", "lora_down", "lora_up")
PEFT_LORA = _lora("transformer.blocks.{}.attn1.to_q", "lora_A", "lora_B")
VAE = {"encoder.conv1.weight": _draw(8, 3, 3, 3, 3), "decoder.conv1.weight": _draw(8, 4, 3, 3, 3),
       "decoder.middle.0.residual.0.gamma": torch.ones(8), "conv2.weight": _draw(4, 4, 1, 1, 1)}  # fmt: skip
TEXT_ENCODER = {"shared.weight": _draw(64, 32)} | {
    f"encoder.block.{number}.layer.0.SelfAttention.{part}.weight": _draw(32, 32)
    for number in range(3)
    for part in "qkvo"
}


def part_missing(edit: Edit, strength: str) -> None:
    """Numbered parts without an index, of which the second is absent."""
    edit.split("transformer", 3).unlink()
    next((edit.folder / "transformer").glob("*00002-of-*")).unlink()


def flattened(edit: Edit, strength: str) -> None:
    """GGUF files whose patch embedding was flattened, and whose metadata does not state its shape."""
    written.gguf(edit, "Q8_0", shapes=False)


def same_file_twice(edit: Edit, strength: str) -> None:
    """Two GGUF files with the same weights."""
    written.gguf(edit, "Q8_0")
    high, low = next(edit.folder.rglob("*High*.gguf")), next(edit.folder.rglob("*Low*.gguf"))
    low.write_bytes(high.read_bytes())


def shifted_rows(tensors: Tensors, module: str, weight: torch.Tensor) -> None:
    """Every row has the scale of the row before it, and rows differ in size."""
    rows = torch.linspace(0.2, 5, len(weight))[:, None]
    tensors[f"{module}.weight_scale"] = tensors[f"{module}.weight_scale"].roll(1, 0) * rows


def transposed_blocks(edit: Edit, strength: str) -> None:
    """Block scales in the order of the columns."""
    square_blocks(
        edit, lambda scale: scale.T.reshape(scale.shape) * torch.linspace(0.2, 4, scale.numel()).reshape(scale.shape)
    )


def marker_without_weight(edit: Edit, strength: str) -> None:
    """A ``comfy_quant`` marker of a layer that is absent."""
    written.remake(edit, both(per_tensor("weight_scale"), _mark))
    rewrite(
        edit, lambda tensors: {**tensors, "blocks.9.attn1.to_q.comfy_quant": libraries.marker(format="float8_e4m3fn")}
    )
    single(edit)


def marker_of_plain_weight(edit: Edit, strength: str) -> None:
    """A ``comfy_quant`` marker of FP8 beside a weight in BF16."""
    written.remake(edit, both(per_tensor("weight_scale"), _mark))
    mark = {"blocks.0.attn1.to_q.comfy_quant": libraries.marker(format="float8_e4m3fn")}
    rewrite(edit, lambda tensors: {**tensors, **mark})
    single(edit)


def _mark(tensors: Tensors, module: str, weight: torch.Tensor) -> None:
    tensors[f"{module}.comfy_quant"] = libraries.marker(format="float8_e4m3fn")


def other_channels(edit: Edit, strength: str) -> None:
    """``config.json`` of image to video over the patch embedding of text to video."""
    for expert in EXPERTS:
        edit.write_config(expert, {**edit.config(expert), "in_channels": 36})


def fused_in_another_order(edit: Edit, strength: str) -> None:
    """q, k and v packed as k, q, v."""
    written.remake(edit, written.int8(True))

    def fuse(tensors: Tensors) -> Tensors:
        for name in sorted(tensors):
            if ".attn1.to_q." in name:
                parts = [tensors.pop(name.replace(".to_q.", f".to_{part}.")) for part in "kqv"]
                tensors[name.replace(".to_q.", ".to_qkv.")] = torch.cat(parts)
        return tensors

    rewrite(edit, fuse)


def other_table(edit: Edit, strength: str) -> None:
    """NF4 codes whose ``quant_state`` says FP4."""
    written.remake(edit, written.nf4(), written.BITSANDBYTES)

    def restate(tensors: Tensors) -> Tensors:
        for name in [item for item in tensors if "quant_state" in item]:
            body = json.loads(bytes(tensors.pop(name).tolist())) | {"quant_type": "fp4"}
            tensors[name.replace("__nf4", "__fp4")] = libraries.marker(**body)
        return tensors

    rewrite(edit, restate)
