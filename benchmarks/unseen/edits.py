"""What edits of an export are made of: tensors, bytes and JSON values."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch

from benchmarks.unseen.tensors import Tensors, edit, edit_json, path_of

EXPERTS = ("transformer", "transformer_2")
COMPONENTS = (*EXPERTS, "vae", "text_encoder")
Edit = Callable[[Path], None]


def times(name: str, factor: float, *components: str) -> Edit:
    """Multiply tensors whose name holds ``name``."""
    return each(components, lambda key: name in key, lambda tensor: (tensor.float() * factor).to(tensor.dtype))


def each(
    components: Iterable[str], pick: Callable[[str], bool], change: Callable[[torch.Tensor], torch.Tensor]
) -> Edit:
    """Change every tensor whose name ``pick`` takes; LookupError where there is none."""

    def make(folder: Path) -> None:
        hits = 0

        def every(tensors: Tensors) -> None:
            nonlocal hits
            for key in list(tensors):
                if pick(key):
                    tensors[key] = change(tensors[key])
                    hits += 1

        for component in components:
            edit(folder, component, every)
        if not hits:
            raise LookupError("no such tensor")

    return make


def exchange(component: str, first: str, second: str) -> Edit:
    """Exchange all tensors of two modules."""

    def make(folder: Path) -> None:
        def change(tensors: Tensors) -> Tensors:
            if not any(key.startswith(first) for key in tensors):
                raise LookupError(first)
            return {renamed(key, first, second): value for key, value in tensors.items()}

        edit(folder, component, change)

    return make


def renamed(key: str, first: str, second: str) -> str:
    if key.startswith(first):
        return second + key.removeprefix(first)
    return first + key.removeprefix(second) if key.startswith(second) else key


def config(file: str, **values: Any) -> Edit:
    """Set keys of a JSON file."""
    return lambda folder: edit_json(folder / file, lambda data: data.update(values))


def quantization(change: Callable[[dict[str, Any]], None]) -> Edit:
    """Change the quantization settings of both experts."""

    def make(folder: Path) -> None:
        for expert in EXPERTS:
            edit_json(folder / expert / "config.json", lambda data: change(data["quantization_config"]))

    return make


def tokenizer(change: Callable[[dict[str, Any]], None]) -> Edit:
    """Change the tokenizer's settings."""
    return lambda folder: edit_json(folder / "tokenizer" / "tokenizer.json", change)


def headers(change: Callable[[dict[str, Any]], dict[str, Any]] = dict, indent: int | None = None) -> Edit:
    """Change the header of every file, whose tensors keep their places; ``indent``: JSON with line breaks."""

    def make(folder: Path) -> None:
        for component in COMPONENTS:
            path = path_of(folder, component)
            data = path.read_bytes()
            (length,) = struct.unpack("<Q", data[:8])
            text = json.dumps(change(json.loads(data[8 : 8 + length])), indent=indent).encode()
            text += b" " * (-len(text) % 8)
            path.unlink()
            path.write_bytes(struct.pack("<Q", len(text)) + text + data[8 + length :])

    return make


def together(*edits: Edit) -> Edit:
    """One edit after the other."""

    def make(folder: Path) -> None:
        for change in edits:
            change(folder)

    return make


def as_bytes(pick: Callable[[str], bool], change: Callable[[torch.Tensor], torch.Tensor], *components: str) -> Edit:
    """Change tensors as bytes: the change gets and gives uint8 of the tensor's shape."""
    return each(components, pick, lambda tensor: change(tensor.view(torch.uint8).clone()).view(tensor.dtype))
