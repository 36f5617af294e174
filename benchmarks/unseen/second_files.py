"""Edits of an export's copy for the second list: what is wrong on disk, and the same export written otherwise."""

from __future__ import annotations

import json
import os
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import torch
from safetensors.torch import load_file, save_file

from benchmarks.unseen.edits import (
    COMPONENTS,
    EXPERTS,
    Edit,
    as_bytes,
    config,
    each,
    exchange,
    headers,
    times,
    together,
    tokenizer,
)
from benchmarks.unseen.tensors import Tensors, edit, edit_json, metadata, path_of

E4M3 = torch.float8_e4m3fn


def _only(name: str) -> Callable[[str], bool]:
    return lambda key: key == name


# components beside the experts


def _encoder_copied(folder: Path) -> None:
    """The last block of the text encoder is the one before it."""

    def change(tensors: Tensors) -> None:
        for key in list(tensors):
            if key.startswith("encoder.block.2."):
                tensors[key] = tensors[key.replace("block.2.", "block.1.")].clone()

    edit(folder, "text_encoder", change)


def _never_whole(data: dict[str, Any]) -> None:
    """A word has so low a score that it is read letter by letter."""
    for piece in data["model"]["vocab"]:
        if piece[0] == "▁moving":
            piece[1] = -1000.0


def _inverse_spread(data: dict[str, Any]) -> None:
    """Wan's own code keeps the inverse of the standard deviation."""
    data["latents_std"] = [1 / value for value in data["latents_std"]]


# bytes of the experts


def _swizzled(raw: torch.Tensor) -> torch.Tensor:
    """Block scales in the layout that a kernel reads: tiles of 128 rows by 4 scales."""
    rows, columns = raw.shape
    tiles = raw.view(rows // 128, 4, 32, columns // 4, 4)
    return tiles.permute(0, 3, 2, 1, 4).reshape(rows, columns)


def _as_e5m2(tensor: torch.Tensor) -> torch.Tensor:
    """Values that were written as E5M2, with the dtype of E4M3."""
    return tensor.float().to(torch.float8_e5m2).view(torch.uint8).view(E4M3)


def _as_fnuz(tensor: torch.Tensor) -> torch.Tensor:
    """Values that were written for another vendor's FP8, whose exponent is one larger."""
    return tensor.float().clamp(-240, 240).to(torch.float8_e4m3fnuz).view(torch.uint8).view(E4M3)


def _of_other_expert(folder: Path) -> None:
    other = load_file(path_of(folder, "transformer"))

    def change(tensors: Tensors) -> None:
        for key in tensors:
            if key.startswith("blocks.4."):
                tensors[key] = other[key].clone()

    edit(folder, "transformer_2", change)


def _removed(name: str) -> Callable[[Tensors], None]:
    def change(tensors: Tensors) -> None:
        del tensors[name]

    return change


def _ignore(*names: str) -> Edit:
    def change(data: dict[str, Any]) -> None:
        data["quantization_config"]["ignore"] += list(names)

    return together(
        *(lambda folder, expert=expert: edit_json(folder / expert / "config.json", change) for expert in EXPERTS)
    )


# the same export, written otherwise


def _sharded(component: str, part: Callable[[str], int], extra: dict[str, Any] | None = None) -> Edit:
    """Split a component's file by ``part`` of a tensor's name, with an index."""

    def make(folder: Path) -> None:
        path = path_of(folder, component)
        kept, tensors = metadata(path), load_file(path)
        path.unlink()
        groups: dict[int, list[str]] = {}
        for name in tensors:
            groups.setdefault(part(name), []).append(name)
        places: dict[str, str] = {}
        for number, key in enumerate(sorted(groups), start=1):
            file = f"{path.stem}-{number:05d}-of-{len(groups):05d}.safetensors"
            save_file({name: tensors[name] for name in groups[key]}, path.parent / file, kept)
            places.update(dict.fromkeys(groups[key], file))
        size = sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
        index = {"metadata": {"total_size": size, **(extra or {})}, "weight_map": places}
        (path.parent / f"{path.name}.index.json").write_text(json.dumps(index))

    return make


def _block(name: str) -> int:
    pieces = name.split(".")
    return int(pieces[1]) + 1 if pieces[0] == "blocks" else 0


def _half(name: str) -> int:
    return int(name.startswith("decoder") or ".block.2." in name)


def _no_metadata(header: dict[str, Any]) -> dict[str, Any]:
    return {name: place for name, place in header.items() if name != "__metadata__"}


def _other_order(header: dict[str, Any]) -> dict[str, Any]:
    return dict(reversed(header.items()))


def _backwards(folder: Path) -> None:
    """Data of every file in the opposite order."""
    for component in COMPONENTS:
        path = path_of(folder, component)
        data = path.read_bytes()
        (length,) = struct.unpack("<Q", data[:8])
        header, body = json.loads(data[8 : 8 + length]), data[8 + length :]
        kept = header.pop("__metadata__", {})
        made: dict[str, Any] = {"__metadata__": kept}
        parts, begin = [], 0
        for name, place in sorted(header.items(), key=lambda item: -item[1]["data_offsets"][0]):
            first, last = place["data_offsets"]
            made[name] = {**place, "data_offsets": [begin, begin + last - first]}
            parts.append(body[first:last])
            begin += last - first
        text = json.dumps(made).encode()
        text += b" " * (-len(text) % 8)
        path.unlink()
        path.write_bytes(struct.pack("<Q", len(text)) + text + b"".join(parts))


def _tabs(folder: Path) -> None:
    for path in folder.rglob("*.json"):
        data = json.loads(path.read_text(encoding="utf-8"))
        path.write_text(json.dumps(data, indent="\t", separators=(", ", " : ")) + "\n\n", encoding="utf-8")


def _numbers(folder: Path) -> None:
    """Numbers written in another way: ``3`` for ``3.0``, ``0.000001`` for ``1e-06``."""
    for path, old, new in (
        ("scheduler/scheduler_config.json", '"flow_shift": 3.0', '"flow_shift": 3'),
        ("scheduler/scheduler_config.json", '"beta_start": 0.0001', '"beta_start": 1e-4'),
        ("transformer/config.json", '"eps": 1e-06', '"eps": 0.000001'),
        ("transformer_2/config.json", '"eps": 1e-06', '"eps": 1.0E-6'),
        ("model_index.json", '"boundary_ratio": 0.875', '"boundary_ratio": 8.75e-1'),
    ):
        text = (folder / path).read_text(encoding="utf-8")
        if old not in text:
            raise LookupError(f"{path} does not hold {old}")
        (folder / path).write_text(text.replace(old, new), encoding="utf-8")


def _older_dtype_key(data: dict[str, Any]) -> None:
    """The name that transformers gave the dtype before version 5."""
    data["torch_dtype"] = data.pop("dtype")


def _without_defaults(data: dict[str, Any]) -> None:
    for key in ("use_cache", "classifier_dropout", "initializer_factor"):
        data.pop(key)


def _nulls(data: dict[str, Any]) -> None:
    data.update(image_encoder=[None, None], image_processor=[None, None])


def _hard_links(folder: Path) -> None:
    for number, path in enumerate(sorted(path for path in folder.rglob("*") if path.is_file())):
        os.link(path, folder.parent / f"linked-{number}")


def _component_link(folder: Path) -> None:
    """The VAE's folder is a link to one that several checkpoints share."""
    shared = folder.parent / "shared-vae"
    (folder / "vae").rename(shared)
    (folder / "vae").symlink_to(Path("..") / shared.name)


def _executable(folder: Path) -> None:
    for path in folder.rglob("*"):
        if path.is_file():
            path.chmod(0o755)


def _written(name: str, text: str) -> Edit:
    def make(folder: Path) -> None:
        (folder / name).write_text(text, encoding="utf-8")

    return make


def _backup(folder: Path) -> None:
    for component in EXPERTS:
        shutil.copy(folder / component / "config.json", folder / component / "config.json.orig")


def _variant(folder: Path) -> None:
    """The VAE in half precision beside the one that is asked for, under the name of a variant."""
    path = path_of(folder, "vae")
    tensors = {name: tensor.half() for name, tensor in load_file(path).items()}
    save_file(tensors, path.parent / "diffusion_pytorch_model.fp16.safetensors", metadata(path))


def _one_value_lists(folder: Path) -> None:
    """Scales of whole tensors as a list of one value."""
    each(
        EXPERTS,
        lambda key: key.endswith(("weight_scale", "weight_scale_2", "input_scale")),
        lambda tensor: tensor.reshape(1) if tensor.ndim == 0 else tensor,
    )(folder)


def _ignore_expanded(folder: Path) -> None:
    """Patterns of excluded modules are written out as names of modules."""
    for expert in EXPERTS:
        names = sorted(
            {
                key.removesuffix(".weight")
                for key, tensor in load_file(path_of(folder, expert)).items()
                if key.endswith(".weight") and tensor.dtype not in (torch.uint8, E4M3) and "norm" not in key
            }
        )

        def change(data: dict[str, Any], names: list[str] = names) -> None:
            data["quantization_config"]["ignore"] = names

        edit_json(folder / expert / "config.json", change)


SECOND_EDITS: Final[dict[str, Edit]] = {
    # VAE
    "vae_in_bf16": each(["vae"], lambda _key: True, lambda tensor: tensor.to(torch.bfloat16)),
    "vae_qkv_reordered": each(
        ["vae"], lambda key: key.startswith("decoder.mid_block.attentions.0.to_qkv"), lambda t: t.roll(len(t) // 3, 0)
    ),
    "vae_time_conv_zero": each(
        ["vae"], lambda key: key.startswith("decoder.") and "time_conv" in key, torch.zeros_like
    ),
    "vae_config_std_inverse": lambda folder: edit_json(folder / "vae" / "config.json", _inverse_spread),
    # text encoder
    "te_gates_exchanged": exchange(
        "text_encoder",
        "encoder.block.1.layer.1.DenseReluDense.wi_0",
        "encoder.block.1.layer.1.DenseReluDense.wi_1",
    ),
    "te_block_copied": _encoder_copied,
    "te_config_distance": config("text_encoder/config.json", relative_attention_max_distance=18),
    # tokenizer
    "tok_end_lost": tokenizer(lambda data: data.update(post_processor=None)),
    "tok_word_split": tokenizer(_never_whole),
    # scheduler
    "sched_predicts_noise": config("scheduler/scheduler_config.json", predict_x0=False),
    "sched_thresholding": config("scheduler/scheduler_config.json", thresholding=True),
    "sched_order_3": config("scheduler/scheduler_config.json", solver_order=3),
    # bytes of the experts
    "scales_swizzled": as_bytes(_only("blocks.3.ffn.net.0.proj.weight_scale"), _swizzled, "transformer"),
    "query_is_key": exchange("transformer_2", "blocks.2.attn1.to_q.", "blocks.2.attn1.to_k."),
    "signs_flipped": as_bytes(_only("blocks.4.attn2.to_out.0.weight"), lambda raw: raw ^ 0x80, "transformer"),
    "fp8_as_e5m2": each(["transformer"], _only("blocks.1.ffn.net.2.weight"), _as_e5m2),
    "fp8_as_fnuz": each(["transformer_2"], _only("blocks.2.attn2.to_v.weight"), _as_fnuz),
    "fp8_saturated": each(
        ["transformer"], _only("blocks.3.attn1.to_v.weight"), lambda t: t.float().clamp(-100, 100).to(E4M3)
    ),
    "block_of_other_expert": _of_other_expert,
    # configuration of the experts
    "config_quantization_lost": lambda folder: edit_json(
        folder / "transformer_2" / "config.json", lambda data: data.pop("quantization_config")
    ),
    "config_ignores_more": _ignore("blocks.2*"),
    "config_cross_norm_off": together(*(config(f"{expert}/config.json", cross_attn_norm=False) for expert in EXPERTS)),
    # input scales
    "input_scale_lost": lambda folder: edit(folder, "transformer", _removed("blocks.3.attn1.to_v.input_scale")),
    "input_scale_is_largest": times("input_scale", 2688.0, *EXPERTS),
    # healthy
    "sharded_by_block": together(*(_sharded(expert, _block) for expert in EXPERTS)),
    "vae_sharded": _sharded("vae", _half),
    "text_encoder_sharded": _sharded("text_encoder", _half),
    "index_described": together(
        *(_sharded(expert, _block, {"total_parameters": 1, "made_by": "x"}) for expert in EXPERTS)
    ),
    "metadata_gone": headers(_no_metadata),
    "header_reversed": headers(_other_order),
    "data_backwards": _backwards,
    "json_tabs": _tabs,
    "numbers_otherwise": _numbers,
    "older_dtype_key": lambda folder: edit_json(folder / "text_encoder" / "config.json", _older_dtype_key),
    "transformers_version": config("text_encoder/config.json", transformers_version="4.57.1"),
    "special_tokens_map": _written(
        "tokenizer/special_tokens_map.json",
        json.dumps({"eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>"}),
    ),
    "generation_config": _written("text_encoder/generation_config.json", json.dumps({"eos_token_id": 1})),
    "config_backup": _backup,
    "variant_beside": _variant,
    "hard_links": _hard_links,
    "component_link": _component_link,
    "executable": _executable,
    "one_value_lists": _one_value_lists,
    "ignore_expanded": _ignore_expanded,
    "model_index_nulls": lambda folder: edit_json(folder / "model_index.json", _nulls),
    "text_encoder_defaults_left_out": lambda folder: edit_json(
        folder / "text_encoder" / "config.json", _without_defaults
    ),
}
