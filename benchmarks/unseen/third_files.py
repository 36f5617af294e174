"""Edits of an export's copy for the third list: what exporters, libraries, git and people do to files."""

from __future__ import annotations

import hashlib
import json
import os
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
    headers,
    quantization,
    times,
    together,
)
from benchmarks.unseen.tensors import Tensors, edit, edit_json, metadata, path_of

E4M3 = torch.float8_e4m3fn
CONFIGS = ("transformer/config.json", "transformer_2/config.json", "vae/config.json", "text_encoder/config.json")
ZERO_NIBBLE, SIGN_NIBBLE = 0x0F, 0x08


def _texts(change: Callable[[Any], str]) -> Edit:
    """Write every JSON file anew: the change gets its value and gives its text."""

    def make(folder: Path) -> None:
        for path in sorted(folder.rglob("*.json")):
            path.write_text(change(json.loads(path.read_text(encoding="utf-8"))), encoding="utf-8")

    return make


def _beside(files: dict[str, bytes | str]) -> Edit:
    """Add files that no library reads."""

    def make(folder: Path) -> None:
        for name, content in files.items():
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content.encode() if isinstance(content, str) else content)

    return make


# other files in the folder


def _git_clone(folder: Path) -> None:
    """A clone of a repository whose large files are objects of git-lfs and hard links to them."""
    _beside(
        {
            ".git/HEAD": "ref: refs/heads/main\n",
            ".git/config": "[core]\n\trepositoryformatversion = 0\n\tbare = false\n",
            ".git/refs/heads/main": "0123456789abcdef0123456789abcdef01234567\n",
            ".gitignore": "*.tmp\n",
        }
    )(folder)
    for component in COMPONENTS:
        path = path_of(folder, component)
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        target = folder / ".git" / "lfs" / "objects" / digest[:2] / digest[2:4] / digest
        target.parent.mkdir(parents=True, exist_ok=True)
        if not target.exists():
            os.link(path, target)


def _hub_blobs(folder: Path) -> None:
    """Each file is a relative link to a blob that has its digest as name, as in the hub's cache."""
    blobs = folder.parent / "blobs"
    blobs.mkdir()
    for path in [path for path in sorted(folder.rglob("*")) if path.is_file()]:
        blob = blobs / hashlib.sha256(path.read_bytes()).hexdigest()
        path.replace(blob)
        path.symlink_to(os.path.relpath(blob, path.parent))


def _mac_leftovers(folder: Path) -> None:
    """A Mac has copied the folder to a share: AppleDouble files beside the weights."""
    apple_double = bytes.fromhex("0005160700020000") + b"Mac OS X        " + bytes(4072)
    files: dict[str, bytes | str] = {".DS_Store": b"\0\0\0\1Bud1" + bytes(6140)}
    for component in COMPONENTS:
        files[f"{component}/._{path_of(folder, component).name}"] = apple_double
        files[f"{component}/._config.json"] = apple_double
    _beside(files)(folder)


def _editor_leftovers(folder: Path) -> None:
    older = (folder / "vae" / "config.json").read_bytes()
    _beside(
        {"vae/config.json~": older, "vae/.config.json.swp": b"b0VIM 9.0" + bytes(4087), "vae/#config.json#": older}
    )(folder)


def _download_leftovers(folder: Path) -> None:
    """A download was broken off, and repeated."""
    part = path_of(folder, "transformer").read_bytes()[:200_000]
    _beside(
        {
            "transformer/diffusion_pytorch_model.safetensors.incomplete": part,
            "transformer/diffusion_pytorch_model.safetensors.aria2": bytes(64),
            "transformer_2/.diffusion_pytorch_model.safetensors.lock": b"",
        }
    )(folder)


def _checksums(folder: Path) -> None:
    lines = [
        f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.relative_to(folder)}"
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    ]
    _beside({"SHA256SUMS": "\n".join(lines) + "\n", "SHA256SUMS.asc": "-----BEGIN PGP SIGNATURE-----\n"})(folder)


def _adapter_beside(folder: Path) -> None:
    """An adapter lies in the repository; nothing loads it."""
    (folder / "loras").mkdir()
    rank = torch.ones(4, 192)
    save_file(
        {
            "transformer.blocks.1.attn1.to_q.lora_A.weight": rank,
            "transformer.blocks.1.attn1.to_q.lora_B.weight": rank.t().contiguous(),
        },
        folder / "loras" / "pytorch_lora_weights.safetensors",
    )


def _notebook(folder: Path) -> None:
    """A notebook server keeps the state before the last edit."""
    data = json.loads((folder / "transformer" / "config.json").read_text(encoding="utf-8"))
    data["eps"] = 1e-5
    _beside({"transformer/.ipynb_checkpoints/config-checkpoint.json": json.dumps(data)})(folder)


def _modular_index(folder: Path) -> None:
    """What diffusers' modular pipelines read, beside ``model_index.json``."""
    index = json.loads((folder / "model_index.json").read_text(encoding="utf-8"))
    parts = {name: value for name, value in index.items() if isinstance(value, list)}
    _beside(
        {
            "modular_model_index.json": json.dumps(
                {"_class_name": "Wan22ModularPipeline", "_blocks_class_name": None, **parts}
            )
        }
    )(folder)


def _hf_quant_config(folder: Path) -> None:
    """ModelOpt's own file beside each configuration, with the same content."""
    for expert in EXPERTS:
        settings = json.loads((folder / expert / "config.json").read_text(encoding="utf-8"))["quantization_config"]
        group = settings["config_groups"]["group_0"]["weights"].get("group_size")
        quantized = {
            "quant_algo": settings["quant_algo"],
            "kv_cache_quant_algo": None,
            **({"group_size": group} if group else {}),
            "exclude_modules": settings["ignore"],
        }
        data = {"producer": settings["producer"], "quantization": quantized}
        _beside({f"{expert}/hf_quant_config.json": json.dumps(data, indent=4)})(folder)


# the same tensors in other files


def _sharded(component: str, name_of: Callable[[str, int], str], **extra: Any) -> Edit:
    """Split a component: ``name_of`` gets a tensor's name and number and gives the name of its file."""

    def make(folder: Path) -> None:
        path = path_of(folder, component)
        kept, tensors = metadata(path), load_file(path)
        places = {name: name_of(name, number) for number, name in enumerate(sorted(tensors))}
        path.unlink()
        for file in sorted(set(places.values())):
            save_file({name: tensors[name] for name in places if places[name] == file}, path.parent / file, kept)
        size = sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
        index = {"metadata": {"total_size": size} if not extra else extra["metadata"], "weight_map": places}
        (path.parent / f"{path.name}.index.json").write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")

    return make


def _halves_with_names(name: str, _number: int) -> str:
    """Files whose names a person chose; the index names them."""
    return "wan-lower.safetensors" if name < "blocks.3" else "wan-upper.safetensors"


def _of_seven(_name: str, number: int) -> str:
    """Tensors are dealt to seven files in turn."""
    return f"diffusion_pytorch_model-{number % 7 + 1:05d}-of-00007.safetensors"


# values that mean the same


def _group_renamed(settings: dict[str, Any]) -> None:
    settings["config_groups"] = {"all_linears": settings["config_groups"]["group_0"]}


def _without(path: str, *keys: str) -> Edit:
    """Leave out keys whose value is the default of the class."""

    def change(data: dict[str, Any]) -> None:
        for key in keys:
            del data[key]

    return lambda folder: edit_json(folder / path, change)


def _after_use(data: dict[str, Any]) -> None:
    """A tokenizer that was saved after a call keeps its padding and truncation; each call states its own."""
    data["truncation"] = {"direction": "Right", "max_length": 512, "strategy": "LongestFirst", "stride": 0}
    data["padding"] = {
        "strategy": {"Fixed": 512},
        "direction": "Right",
        "pad_to_multiple_of": None,
        "pad_id": 0,
        "pad_type_id": 0,
        "pad_token": "<pad>",
    }


def _older_tokenizer(folder: Path) -> None:
    """Keys that transformers 4 wrote."""
    added = {
        str(number): {"content": text, "lstrip": False, "normalized": False, "rstrip": False, "single_word": False}
        | {"special": True}
        for number, text in enumerate(("<pad>", "</s>", "<unk>"))
    }
    values = {"added_tokens_decoder": added, "additional_special_tokens": [], "clean_up_tokenization_spaces": True}
    config("tokenizer/tokenizer_config.json", sp_model_kwargs={}, **values)(folder)


def _tied_twice(folder: Path) -> None:
    """The table of tokens is stored under both of its names."""
    edit(
        folder,
        "text_encoder",
        lambda tensors: {**tensors, "encoder.embed_tokens.weight": tensors["shared.weight"].clone()},
    )


def _zeros_signed(folder: Path) -> None:
    """Zero has two codes in FP4 and in FP8; every zero gets the other sign."""

    def change(tensors: Tensors) -> None:
        for key, tensor in tensors.items():
            if tensor.dtype == torch.uint8:
                for low, sign in ((ZERO_NIBBLE & ~SIGN_NIBBLE, SIGN_NIBBLE), (0x70, 0x80)):
                    tensor = torch.where(tensor & low == 0, tensor ^ sign, tensor)
                tensors[key] = tensor
            elif tensor.dtype == E4M3 and key.endswith(".weight"):
                raw = tensor.view(torch.uint8)
                tensors[key] = torch.where(raw & 0x7F == 0, raw ^ 0x80, raw).view(E4M3)

    for expert in EXPERTS:
        edit(folder, expert, change)


def _scales_rebalanced(folder: Path) -> None:
    """Block scales are half as large and the scale of the tensor twice; both are exact."""

    def change(tensors: Tensors) -> None:
        for key in [key for key in tensors if key.endswith("weight_scale_2")]:
            blocks = tensors[key.removesuffix("_2")]
            halved = (blocks.float() / 2).to(E4M3)
            if not torch.equal(halved.float() * 2, blocks.float()):
                raise ValueError(f"{key}: a block scale is too small")
            tensors[key], tensors[key.removesuffix("_2")] = tensors[key] * 2, halved

    for expert in EXPERTS:
        edit(folder, expert, change)


# faults


def _scales_of_other_expert(folder: Path) -> None:
    """Codes of one expert with the scales of the other, in one Linear."""
    other = load_file(path_of(folder, "transformer_2"))

    def change(tensors: Tensors) -> None:
        for suffix in ("weight_scale", "weight_scale_2"):
            key = f"blocks.1.ffn.net.2.{suffix}"
            tensors[key] = other[key]

    edit(folder, "transformer", change)


def _pairs_of_bytes(raw: torch.Tensor) -> torch.Tensor:
    """Words of 16 bits were read in the other order of bytes."""
    return raw.view(raw.shape[0], -1, 2).flip(2).reshape(raw.shape)


def _inputs_alike(folder: Path) -> None:
    """All Linears of an expert have the input scale of the first."""

    def change(tensors: Tensors) -> None:
        names = sorted(key for key in tensors if key.endswith("input_scale"))
        tensors.update({name: tensors[names[0]].clone() for name in names})

    edit(folder, "transformer", change)


def _first_token_is_end(data: dict[str, Any]) -> None:
    """The end-of-text mark is put before the text too."""
    mark = {"SpecialToken": {"id": "</s>", "type_id": 0}}
    data["post_processor"]["single"].insert(0, mark)


THIRD_EDITS: Final[dict[str, Edit]] = {
    # faults: VAE, text encoder, tokenizer, scheduler
    "vae_conv_in_rolled": each(["vae"], lambda key: key == "decoder.conv_in.weight", lambda t: t.roll(1, 1)),
    "te_ffn_zero": times("encoder.block.1.layer.1.DenseReluDense.wo.weight", 0.0, "text_encoder"),
    "tok_end_first_too": lambda folder: edit_json(folder / "tokenizer" / "tokenizer.json", _first_token_is_end),
    "sched_exponential": config("scheduler/scheduler_config.json", use_exponential_sigmas=True),
    # faults: bytes of the experts
    "scales_of_other_expert": _scales_of_other_expert,
    "bytes_in_other_order": as_bytes(
        lambda key: key == "blocks.3.attn1.to_out.0.weight", _pairs_of_bytes, "transformer"
    ),
    "weight_transposed": as_bytes(
        lambda key: key == "blocks.2.attn2.to_out.0.weight", lambda raw: raw.t().contiguous(), "transformer_2"
    ),
    "input_scales_alike": _inputs_alike,
    # healthy: other files in the folder
    "git_clone": _git_clone,
    "hub_blobs": _hub_blobs,
    "mac_leftovers": _mac_leftovers,
    "editor_leftovers": _editor_leftovers,
    "download_leftovers": _download_leftovers,
    "checksums_beside": _checksums,
    "training_leftovers": _beside(
        {
            "trainer_state.json": json.dumps({"global_step": 4000, "log_history": []}),
            "transformer/all_results.json": json.dumps({"loss": 0.01}),
            "logs/events.out.tfevents.0": bytes(128),
        }
    ),
    "adapter_beside": _adapter_beside,
    "notebook_checkpoint": _notebook,
    "modular_index": _modular_index,
    "hf_quant_config": _hf_quant_config,
    # healthy: the same files in other bytes
    "json_ascii": _texts(lambda value: json.dumps(value, indent=2, ensure_ascii=True)),
    "json_blank_lines": _texts(lambda value: "\n\n" + json.dumps(value, indent=3, ensure_ascii=False) + " \n\n\n"),
    "shards_named_by_hand": together(*(_sharded(expert, _halves_with_names) for expert in EXPERTS)),
    "seven_shards": together(*(_sharded(expert, _of_seven) for expert in EXPERTS)),
    "index_of_one_file": _sharded("transformer", lambda _name, _number: "diffusion_pytorch_model.safetensors"),
    "index_without_size": together(*(_sharded(expert, _of_seven, metadata={}) for expert in EXPERTS)),
    "text_encoder_one_shard": _sharded("text_encoder", lambda _name, _number: "model-00001-of-00001.safetensors"),
    "header_indented": headers(indent=1),
    "vae_older_key": config("vae/config.json", clip_output=False),
    # healthy: values that mean the same
    "kv_cache_nulls": quantization(lambda settings: settings.update(kv_cache_quant_algo=None, kv_cache_scheme=None)),
    "group_renamed": quantization(_group_renamed),
    "ignore_reversed": quantization(lambda settings: settings["ignore"].reverse()),
    "tokenizer_saved_after_use": lambda folder: edit_json(folder / "tokenizer" / "tokenizer.json", _after_use),
    "tokenizer_older_keys": _older_tokenizer,
    "tokenizer_class_fast": together(
        config("tokenizer/tokenizer_config.json", tokenizer_class="T5TokenizerFast"),
        config("model_index.json", tokenizer=["transformers", "T5TokenizerFast"]),
    ),
    "vae_defaults_left_out": _without("vae/config.json", "attn_scales", "dropout", "scale_factor_temporal"),
    "tied_table_twice": _tied_twice,
    "zeros_signed": _zeros_signed,
    "scales_rebalanced": _scales_rebalanced,
}
