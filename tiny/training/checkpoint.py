"""Training state on disk: safetensors and JSON only, written atomically."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from torch import Tensor


def save_state(path: Path, tensors: dict[str, Tensor], progress: dict[str, Any]) -> None:
    """Writes `path` with `progress` as JSON in its metadata; the old file stays until the new one is whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    ready = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    save_file(ready, part, metadata={"progress": json.dumps(progress)})
    part.replace(path)


def load_state(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Reads what `save_state` wrote. FileNotFoundError if there is nothing to resume."""
    from safetensors import safe_open

    with safe_open(path, framework="pt") as handle:
        progress = json.loads((handle.metadata() or {})["progress"])
    return load_file(path), progress
