"""Safetensors files of an export's copy, changed in place."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

Tensors = dict[str, torch.Tensor]
NAMES = {"text_encoder": "model.safetensors"}


def path_of(folder: Path, component: str) -> Path:
    """The weights of one component."""
    return folder / component / NAMES.get(component, "diffusion_pytorch_model.safetensors")


def metadata(path: Path) -> dict[str, str]:
    """The ``__metadata__`` of a header."""
    with safe_open(path, "pt") as opened:
        return dict(opened.metadata() or {})


def edit(folder: Path, component: str, change: Callable[[Tensors], Tensors | None]) -> None:
    """Read all tensors, change them, write the file anew with its metadata.

    Args:
        folder: the repository.
        component: its folder.
        change: changes the mapping in place, or gives another one.
    """
    path = path_of(folder, component)
    kept, tensors = metadata(path), load_file(path)
    made = change(tensors) or tensors
    path.unlink()
    save_file({name: tensor.contiguous() for name, tensor in made.items()}, path, kept)


def edit_json(path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Change a JSON object."""
    data = json.loads(path.read_text(encoding="utf-8"))
    change(data)
    path.write_text(json.dumps(data, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
