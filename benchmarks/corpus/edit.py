"""Open an export, change it, write it back: the tool with which faults and dialects are made."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from benchmarks.corpus.exports import EXPERTS, base_of

Tensors = dict[str, torch.Tensor]


class Edit:
    """One checkpoint folder that may be changed. Untouched experts stay symbolic links to the export."""

    def __init__(self, source: Path, folder: Path) -> None:
        self.folder = folder
        self.base = base_of(source)
        """What the export was made from."""
        folder.mkdir(parents=True, exist_ok=True)
        if (source / "model_index.json").is_file():
            shutil.copy(source / "model_index.json", folder / "model_index.json")
        for expert in EXPERTS:
            if (source / expert).is_dir():
                (folder / expert).symlink_to(source / expert, target_is_directory=True)

    def own(self, expert: str) -> Path:
        """The expert's folder as a real copy."""
        place = self.folder / expert
        if place.is_symlink():
            origin = place.resolve()
            place.unlink()
            shutil.copytree(origin, place)
        return place

    def shards(self, expert: str) -> list[Path]:
        """All safetensors files of one expert."""
        return sorted((self.folder / expert).glob("*.safetensors"))

    def tensors(self, expert: str) -> Tensors:
        """All tensors of one expert."""
        tensors: Tensors = {}
        for shard in self.shards(expert):
            tensors.update(load_file(shard))
        return tensors

    def write(self, expert: str, tensors: Tensors, metadata: dict[str, str] | None = None) -> None:
        """Write one expert back as a single shard."""
        place = self.own(expert)
        kept = self.metadata(expert)
        for old in [*place.glob("*.safetensors"), *place.glob("*.index.json")]:
            old.unlink()
        body = {name: value.contiguous().clone() for name, value in tensors.items()}
        save_file(body, place / "diffusion_pytorch_model.safetensors", metadata={**kept, **(metadata or {})})

    def metadata(self, expert: str) -> dict[str, str]:
        """``__metadata__`` of the first shard."""
        with safe_open(self.shards(expert)[0], framework="pt") as file:
            return dict(file.metadata() or {})

    def split(self, expert: str, parts: int = 2) -> Path:
        """Write one expert as several shards with an index; returns the index file."""
        place = self.own(expert)
        tensors, kept = self.tensors(expert), self.metadata(expert)
        for old in place.glob("*.safetensors"):
            old.unlink()
        names = sorted(tensors)
        weight_map: dict[str, str] = {}
        for part in range(parts):
            file = f"diffusion_pytorch_model-{part + 1:05d}-of-{parts:05d}.safetensors"
            names_of_part = names[part::parts]
            save_file({name: tensors[name].contiguous().clone() for name in names_of_part}, place / file, metadata=kept)
            weight_map |= dict.fromkeys(names_of_part, file)
        index = place / "diffusion_pytorch_model.safetensors.index.json"
        index.write_text(json.dumps({"metadata": {"total_size": 0}, "weight_map": weight_map}), encoding="utf-8")
        return index

    def config(self, expert: str) -> dict[str, Any]:
        """The transformer's ``config.json``."""
        body: dict[str, Any] = json.loads((self.folder / expert / "config.json").read_text(encoding="utf-8"))
        return body

    def write_config(self, expert: str, body: dict[str, Any]) -> None:
        """Write ``config.json``."""
        (self.own(expert) / "config.json").write_text(json.dumps(body, indent=2), encoding="utf-8")

    def quantization(self, expert: str, change: Callable[[dict[str, Any]], object]) -> None:
        """Change ``quantization_config`` in place."""
        body = self.config(expert)
        change(body["quantization_config"])
        self.write_config(expert, body)

    def index(self) -> dict[str, Any]:
        """``model_index.json``."""
        body: dict[str, Any] = json.loads((self.folder / "model_index.json").read_text(encoding="utf-8"))
        return body

    def write_index(self, body: dict[str, Any]) -> None:
        """Write ``model_index.json``."""
        (self.folder / "model_index.json").write_text(json.dumps(body, indent=2), encoding="utf-8")


def quantized(tensors: Tensors) -> list[str]:
    """Names of quantized Linears."""
    return sorted(name.removesuffix(".weight_scale") for name in tensors if name.endswith(".weight_scale"))


def scope(tensors: Tensors, strength: str) -> Iterator[str]:
    """Quantized Linears that a strength touches: ``layer`` one, ``half`` every other, otherwise all."""
    names = quantized(tensors)
    if strength in ("layer", "row", "block"):
        names = [name for name in names if name.endswith("attn1.to_out.0")][:1]
    elif strength == "half":
        names = names[::2]
    yield from names


def swap_nibbles(packed: torch.Tensor) -> torch.Tensor:
    """Exchange the two codes of every byte."""
    return (packed >> 4) | (packed << 4)


def swizzle(scales: torch.Tensor) -> torch.Tensor:
    """ModelOpt's own swizzle (128 x 4 tiles, zero-padded)."""
    from modelopt.torch.export.diffusers_utils import swizzle_nvfp4_scales

    packed = torch.zeros((1, 1), dtype=torch.uint8)
    state = {"x.weight": packed, "x.weight_scale": scales, "x.weight_scale_2": torch.ones(())}
    done: torch.Tensor = swizzle_nvfp4_scales(state)["x.weight_scale"]
    return done
