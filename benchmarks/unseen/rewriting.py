"""The same export written in another way: edits of a copy, by name."""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from benchmarks.unseen.edits import COMPONENTS, EXPERTS, Edit, as_bytes, quantization, together
from benchmarks.unseen.tensors import edit_json, metadata, path_of


def _resharded(folder: Path) -> None:
    """Every expert in three files with an index."""
    for expert in EXPERTS:
        path = path_of(folder, expert)
        kept, tensors = metadata(path), load_file(path)
        path.unlink()
        names = sorted(tensors)
        parts = [names[start::3] for start in range(3)]
        places: dict[str, str] = {}
        for number, part in enumerate(parts, start=1):
            file = f"diffusion_pytorch_model-{number:05d}-of-00003.safetensors"
            save_file({name: tensors[name] for name in part}, path.parent / file, kept)
            places.update(dict.fromkeys(part, file))
        size = sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
        index = {"metadata": {"total_size": size}, "weight_map": dict(sorted(places.items()))}
        (path.parent / "diffusion_pytorch_model.safetensors.index.json").write_text(json.dumps(index, indent=2))


def _one_shard(folder: Path) -> None:
    """One file, with an index that names it."""
    for expert in EXPERTS:
        path = path_of(folder, expert)
        tensors = load_file(path)
        file = "diffusion_pytorch_model-00001-of-00001.safetensors"
        path.rename(path.parent / file)
        size = sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
        index = {"metadata": {"total_size": size}, "weight_map": dict.fromkeys(tensors, file)}
        (path.parent / "diffusion_pytorch_model.safetensors.index.json").write_text(json.dumps(index))


def _rewritten(components: Iterable[str], note: dict[str, str] | None = None, pad: int = 0) -> Edit:
    """The same tensors in a file written by hand: sorted by name, other metadata, a padded header."""

    def make(folder: Path) -> None:
        for component in components:
            path = path_of(folder, component)
            with path.open("rb") as opened:
                (length,) = struct.unpack("<Q", opened.read(8))
                header = json.loads(opened.read(length))
                data = opened.read()
            kept = header.pop("__metadata__", {})
            made: dict[str, Any] = {"__metadata__": {**kept, **(note or {})}}
            body, begin = [], 0
            for name in sorted(header):
                first, last = header[name]["data_offsets"]
                made[name] = {**header[name], "data_offsets": [begin, begin + last - first]}
                body.append(data[first:last])
                begin += last - first
            text = json.dumps(made).encode()
            text += b" " * (-len(text) % 8 + pad)
            path.unlink()
            path.write_bytes(struct.pack("<Q", len(text)) + text + b"".join(body))

    return make


def _json_files(folder: Path) -> list[Path]:
    return [path for path in sorted(folder.rglob("*.json")) if path.parent.name != "tokenizer"]


def _reformatted(indent: int | None, sort: bool) -> Edit:
    def make(folder: Path) -> None:
        for path in _json_files(folder):
            data = json.loads(path.read_text(encoding="utf-8"))
            path.write_text(json.dumps(data, indent=indent, sort_keys=sort), encoding="utf-8")

    return make


def _without(*keys: str) -> Edit:
    def make(folder: Path) -> None:
        for path in _json_files(folder):
            edit_json(path, lambda data: _drop(data, keys))

    return make


def _with(**values: Any) -> Edit:
    def make(folder: Path) -> None:
        for path in folder.rglob("config.json"):
            edit_json(path, lambda data: data.update(values))

    return make


def _links(folder: Path) -> None:
    """Files as links into a folder of blobs, as the hub's cache keeps them."""
    blobs = folder.parent / "blobs"
    blobs.mkdir()
    for number, path in enumerate(sorted(path for path in folder.rglob("*") if path.is_file())):
        target = blobs / f"{number:040x}"
        path.rename(target)
        path.symlink_to(Path("../" * len(path.relative_to(folder).parents)) / "blobs" / target.name)


def _added(name: str, text: str) -> Edit:
    def make(folder: Path) -> None:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")

    return make


def _touched(folder: Path) -> None:
    for path in folder.rglob("*"):
        os.utime(path, (1_600_000_000, 1_600_000_000))


def _readonly(folder: Path) -> None:
    for path in folder.rglob("*"):
        if path.is_file():
            path.chmod(0o444)


def _tokenizer_reformatted(folder: Path) -> None:
    for path in (folder / "tokenizer").glob("*.json"):
        data = json.loads(path.read_text(encoding="utf-8"))
        path.write_text(json.dumps(data, ensure_ascii=False), encoding="utf-8")


def _ties(folder: Path) -> None:
    """Another rounding of ties: a few codes of magnitude between two neighbours move to the other (1 in 4000)."""

    def change(raw: torch.Tensor) -> torch.Tensor:
        random = torch.Generator().manual_seed(4)
        hit = torch.rand(raw.shape, generator=random) < 1 / 4000
        low = raw & 0x07
        return torch.where(hit & (low > 1) & (low < 7), raw + 1, raw)

    as_bytes(lambda key: key.startswith("blocks.2.ffn") and key.endswith(".weight"), change, *EXPERTS)(folder)


def _drop(data: dict[str, Any], keys: Sequence[str]) -> None:
    for key in keys:
        data.pop(key, None)


def _reversed(folder: Path) -> None:
    """Keys of every configuration in the opposite order."""
    for path in folder.glob("*/config.json"):
        data = json.loads(path.read_text(encoding="utf-8"))
        path.write_text(json.dumps(dict(reversed(data.items()))), encoding="utf-8")


def _crlf(folder: Path) -> None:
    """Line ends of another operating system."""
    for path in _json_files(folder):
        path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n"))


REWRITES: dict[str, Edit] = {
    "resharded": _resharded,
    "one_shard": _one_shard,
    "reordered": _rewritten(COMPONENTS),
    "reordered_vae": _rewritten(["vae"]),
    "reordered_text_encoder": _rewritten(["text_encoder"]),
    "header_padded": _rewritten(EXPERTS, pad=512),
    "metadata_added": _rewritten(COMPONENTS, {"made_by": "another tool", "date": "2026-11-01"}),
    "json_compact": _reformatted(None, sort=False),
    "json_sorted": _reformatted(4, sort=True),
    "json_reversed": _reversed,
    "json_version_gone": _without("_diffusers_version", "transformers_version"),
    "json_name_or_path": _with(_name_or_path="/home/somebody/checkpoints/wan"),
    "json_other_version": _with(_diffusers_version="0.41.0"),
    "json_crlf": _crlf,
    "json_producer": quantization(lambda q: q.update(producer={"name": "modelopt", "version": "0.48.1"})),
    "tokenizer_reformatted": _tokenizer_reformatted,
    "readme_added": _added("README.md", "# Wan2.2\nquantized\n"),
    "licence_added": _added("LICENSE.txt", "Apache 2.0\n"),
    "assets_added": _added("assets/example.txt", "a picture\n"),
    "readme_in_component": _added("transformer/README.md", "weights\n"),
    "gitattributes_added": _added(".gitattributes", "*.safetensors filter=lfs\n"),
    "cache_folder_added": _added(".cache/huggingface/download/model_index.json.metadata", "abc\n"),
    "links": _links,
    "touched": _touched,
    "readonly": _readonly,
    "copied": lambda _folder: None,
    "config_defaults_left_out": _without("image_dim", "added_kv_proj_dim", "pos_embed_seq_len"),
    "everything_rewritten": together(
        _rewritten(COMPONENTS, {"v": "2"}), _reformatted(1, sort=True), _added("README.md", "x\n")
    ),
    "sharded_and_documented": together(_resharded, _added("README.md", "x\n"), _with(_name_or_path="x")),
    "ties": _ties,
    "model_index_version": lambda folder: edit_json(
        folder / "model_index.json", lambda data: data.update(_diffusers_version="0.43.0.dev0")
    ),
    "scheduler_reformatted": lambda folder: edit_json(
        folder / "scheduler" / "scheduler_config.json", lambda data: data.update(_diffusers_version="0.43.0")
    ),
}
