"""What is wrong on disk: edits of an export's copy, by name."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import torch

from benchmarks.unseen.edits import (
    EXPERTS,
    Edit,
    as_bytes,
    config,
    each,
    exchange,
    quantization,
    times,
    together,
    tokenizer,
)
from benchmarks.unseen.rewriting import REWRITES
from benchmarks.unseen.tensors import Tensors, edit, edit_json, path_of


def _corrupt(raw: torch.Tensor) -> torch.Tensor:
    """One byte in a hundred is another."""
    random = torch.Generator().manual_seed(1)
    hit = torch.rand(raw.shape, generator=random) < 0.01
    return torch.where(hit, raw ^ 0x15, raw)


def _row_random(raw: torch.Tensor) -> torch.Tensor:
    random = torch.Generator().manual_seed(2)
    raw[17] = torch.randint(0, 120, raw[17].shape, generator=random, dtype=torch.uint8)
    return raw


def _nibbles(raw: torch.Tensor) -> torch.Tensor:
    return (raw >> 4) | (raw << 4)


def _noised(tensor: torch.Tensor, share: float) -> torch.Tensor:
    random = torch.Generator().manual_seed(tensor.numel())
    noise = torch.randn(tensor.shape, generator=random) * tensor.float().std() * share
    return (tensor.float() + noise).to(tensor.dtype)


def _unscaled_fp8(tensor: torch.Tensor) -> torch.Tensor:
    """As an FP8 text encoder whose scales were lost: the codes as if they were the values."""
    scale = tensor.float().abs().max() / 448
    return (tensor.float() / scale).to(torch.float8_e4m3fn).float().to(tensor.dtype)


def _copy_expert(source: str, target: str) -> Edit:
    return lambda folder: (shutil.copy(path_of(folder, source), path_of(folder, target)), None)[1]


def _swap_experts(folder: Path) -> None:
    (folder / "transformer").rename(folder / "other")
    (folder / "transformer_2").rename(folder / "transformer")
    (folder / "other").rename(folder / "transformer_2")


def _block_copied(folder: Path) -> None:
    def change(tensors: Tensors) -> None:
        for key in list(tensors):
            if key.startswith("blocks.3."):
                tensors[key] = tensors["blocks.2." + key.removeprefix("blocks.3.")].clone()

    edit(folder, "transformer_2", change)


def _scale_of_neighbour(name: str) -> Edit:
    """Scales of one Linear's q are those of its v."""

    def make(folder: Path) -> None:
        def change(tensors: Tensors) -> None:
            tensors[f"blocks.2.attn1.to_q.{name}"] = tensors[f"blocks.3.ffn.net.2.{name}"].clone()

        edit(folder, "transformer", change)

    return make


# tokenizer


def _words_exchanged(first: str, second: str) -> Edit:
    def change(data: dict[str, Any]) -> None:
        vocabulary = data["model"]["vocab"]
        places = {piece: index for index, (piece, _) in enumerate(vocabulary)}
        a, b = places["▁" + first], places["▁" + second]
        vocabulary[a][0], vocabulary[b][0] = vocabulary[b][0], vocabulary[a][0]

    return tokenizer(change)


def _word_lost(word: str) -> Edit:
    def change(data: dict[str, Any]) -> None:
        for entry in data["model"]["vocab"]:
            if entry[0] == "▁" + word:
                entry[0] = "▁\u2205"

    return tokenizer(change)


def _vocabulary_rolled(data: dict[str, Any]) -> None:
    vocabulary = data["model"]["vocab"]
    data["model"]["vocab"] = [*vocabulary[:3], vocabulary[-1], *vocabulary[3:-1]]


def _group_of_32(settings: dict[str, Any]) -> None:
    """Block scales are declared for 32 values each."""
    for part in settings["config_groups"].values():
        for group in part.values():
            if isinstance(group, dict):
                group["group_size"] = 32


_DECODER = "decoder."
_NOT_RELATIVE = "relative_attention_bias"

FAULTS: dict[str, Edit] = {
    # VAE
    "vae_out_gain": times("decoder.conv_out.weight", 1.1, "vae"),
    "vae_out_bias_zero": times("decoder.conv_out.bias", 0.0, "vae"),
    "vae_out_order": each(
        ["vae"], lambda key: "decoder.conv_out" in key, lambda t: t.view(3, 4, *t.shape[1:])[[2, 1, 0]].reshape_as(t)
    ),
    "vae_blocks_exchanged": exchange("vae", "decoder.up_blocks.0.resnets.0.", "decoder.up_blocks.1.resnets.0."),
    "vae_conv_zero": times("decoder.up_blocks.1.resnets.1.conv2.weight", 0.0, "vae"),
    "vae_retrained": each(
        ["vae"], lambda key: key.startswith(_DECODER) and key.endswith("weight"), lambda t: _noised(t, 0.05)
    ),
    "vae_norms_one": each(["vae"], lambda key: key.startswith(_DECODER) and key.endswith("gamma"), torch.ones_like),
    "vae_time_conv_flipped": each(
        ["vae"], lambda key: key.startswith(_DECODER) and "time_conv.weight" in key, lambda t: t.flip(2)
    ),
    "vae_post_quant_lost": times("post_quant_conv.weight", 0.5, "vae"),
    "vae_config_mean_zero": config("vae/config.json", latents_mean=[0.0] * 16),
    "vae_config_std_one": config("vae/config.json", latents_std=[1.0] * 16),
    "vae_config_mean_rolled": lambda folder: edit_json(
        folder / "vae" / "config.json",
        lambda data: data.update(latents_mean=[*data["latents_mean"][1:], data["latents_mean"][0]]),
    ),
    # text encoder
    "te_scales_lost": each(
        ["text_encoder"],
        lambda key: key.endswith(
            ("q.weight", "k.weight", "v.weight", "o.weight", "wi_0.weight", "wi_1.weight", "wo.weight")
        ),
        _unscaled_fp8,
    ),
    "te_table_rolled": each(["text_encoder"], lambda key: key == "shared.weight", lambda t: t.roll(1, 0)),
    "te_bias_zero": times(_NOT_RELATIVE, 0.0, "text_encoder"),
    "te_qk_exchanged": exchange(
        "text_encoder", "encoder.block.1.layer.0.SelfAttention.o", "encoder.block.1.layer.0.SelfAttention.v"
    ),
    "te_norm_gain": times("encoder.final_layer_norm.weight", 1.2, "text_encoder"),
    "te_config_two_layers": config("text_encoder/config.json", num_layers=2),
    "te_config_relu": config("text_encoder/config.json", dense_act_fn="relu", feed_forward_proj="gated-relu"),
    "te_config_epsilon": config("text_encoder/config.json", layer_norm_epsilon=50.0),
    # tokenizer
    "tok_words_exchanged": together(_words_exchanged("red", "blue"), _words_exchanged("yellow", "purple")),
    "tok_word_lost": together(_word_lost("circle"), _word_lost("square")),
    "tok_colour_lost": together(_word_lost("blue"), _word_lost("purple")),
    "tok_rolled": tokenizer(_vocabulary_rolled),
    # scheduler
    "sched_order_1": config("scheduler/scheduler_config.json", solver_order=1),
    "sched_bh1": config("scheduler/scheduler_config.json", solver_type="bh1"),
    "sched_sigma_min": config("scheduler/scheduler_config.json", final_sigmas_type="sigma_min"),
    "sched_no_corrector": config("scheduler/scheduler_config.json", disable_corrector=[0, 1, 2, 3, 4, 5, 6, 7]),
    "sched_train_steps": config("scheduler/scheduler_config.json", num_train_timesteps=900),
    "sched_karras": config("scheduler/scheduler_config.json", use_karras_sigmas=True),
    # bytes of the experts
    "nibbles_one": as_bytes(lambda key: key == "blocks.3.attn2.to_v.weight", _nibbles, "transformer"),
    "nibbles_all": as_bytes(
        lambda key: (
            key.startswith("blocks.")
            and key.endswith("weight")
            and "attn" in key
            and key.split(".")[1] in "1234"
            and "norm" not in key
        ),
        _nibbles,
        *EXPERTS,
    ),
    "scales_rolled": as_bytes(
        lambda key: key == "blocks.2.attn1.to_v.weight_scale", lambda raw: raw.roll(1, 0), "transformer_2"
    ),
    "scales_halved_block": as_bytes(
        lambda key: key == "blocks.2.ffn.net.0.proj.weight_scale",
        lambda raw: torch.where(raw > 8, raw - 8, raw),
        "transformer",
    ),
    "global_scale_doubled": times("blocks.4.attn1.to_out.0.weight_scale_2", 2.0, "transformer"),
    "global_scale_of_another": _scale_of_neighbour("weight_scale_2"),
    "fp8_scale_up": times("blocks.2.attn1.to_q.weight_scale", 1.5, "transformer"),
    "fp8_scale_one": each(
        ["transformer_2"], lambda key: key == "blocks.3.ffn.net.0.proj.weight_scale", torch.ones_like
    ),
    "fp8_scale_of_another": _scale_of_neighbour("weight_scale"),
    "fp8_sign_lost": as_bytes(lambda key: key == "blocks.1.attn2.to_k.weight", lambda raw: raw & 0x7F, "transformer"),
    "bytes_corrupt": as_bytes(lambda key: key == "blocks.2.ffn.net.2.weight", _corrupt, *EXPERTS),
    "row_corrupt": as_bytes(lambda key: key == "blocks.1.attn1.to_k.weight", _row_random, "transformer"),
    "rows_zero": as_bytes(
        lambda key: key == "blocks.4.ffn.net.0.proj.weight",
        lambda raw: torch.cat([raw[:-48], torch.zeros_like(raw[-48:])]),
        "transformer_2",
    ),
    "linears_exchanged": exchange("transformer", "blocks.2.attn1.to_out.", "blocks.3.attn1.to_out."),
    "blocks_exchanged": exchange("transformer_2", "blocks.1.", "blocks.2."),
    "block_copied": _block_copied,
    "expert_copied": _copy_expert("transformer", "transformer_2"),
    "experts_swapped": _swap_experts,
    "bias_lost": times("ffn.net.0.proj.bias", 0.0, *EXPERTS),
    "modulation_zero": times("blocks.3.scale_shift_table", 0.0, "transformer"),
    "time_halves": each(EXPERTS, lambda key: key.endswith("time_embedder.linear_1.weight"), lambda t: t.roll(128, 1)),
    "patch_transposed": each(EXPERTS, lambda key: key == "patch_embedding.weight", lambda t: t.transpose(-1, -2)),
    "norm_q_one": each(["transformer"], lambda key: key.endswith("attn1.norm_q.weight"), torch.ones_like),
    "output_rows_rolled": each(["transformer_2"], lambda key: key.startswith("proj_out."), lambda t: t.roll(16, 0)),
    "text_projection_gain": times("condition_embedder.text_embedder.linear_2.weight", 1.2, *EXPERTS),
    "plain_layers_stale": each(
        EXPERTS,
        lambda key: key.startswith(("blocks.0.attn", "blocks.5.ffn")) and key.endswith("weight"),
        lambda t: _noised(t, 0.06),
    ),
    "norm2_bias_lost": times("norm2.bias", 0.0, *EXPERTS),
    # configurations of the experts
    "config_epsilon": together(*(config(f"{expert}/config.json", eps=0.05) for expert in EXPERTS)),
    "config_heads": together(
        *(config(f"{expert}/config.json", num_attention_heads=8, attention_head_dim=24) for expert in EXPERTS)
    ),
    "config_layers": together(*(config(f"{expert}/config.json", num_layers=5) for expert in EXPERTS)),
    "config_group_size": quantization(_group_of_32),
    "config_ignore_lost": quantization(lambda q: q.update(ignore=["proj_out"])),
    "config_algorithm": quantization(lambda q: q.update(quant_algo="NVFP4" if q["quant_algo"] == "FP8" else "FP8")),
    # input scales
    "input_scale_garbage": times("blocks.2.attn1.to_k.input_scale", 1e6, "transformer"),
    "input_scale_tenth": times("input_scale", 0.1, *EXPERTS),
    "input_scale_of_another": _scale_of_neighbour("input_scale"),
    "input_scale_zero": times("blocks.1.ffn.net.2.input_scale", 0.0, "transformer"),
    "input_scale_inverted": each(["transformer_2"], lambda key: key.endswith("input_scale"), lambda t: 1 / t),
    "input_scale_nan": times("blocks.4.attn2.to_q.input_scale", float("nan"), "transformer_2"),
}
EDITS: dict[str, Edit] = {**FAULTS, **REWRITES}
