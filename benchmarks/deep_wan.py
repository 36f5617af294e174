"""The embedded Wan2.2 with more layers: the same video, a longer step.

Layers are copies of the first block whose three outputs are zero: each costs as much to compute as any other, and adds
nothing to the residual stream.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np

from tiny.tensorfile import Tensor, read, write

WEIGHTS = Path(__file__).parents[1] / "tiny" / "weights"
SILENT = ("attn1.to_out.0.", "attn2.to_out.0.", "ffn.net.2.")
FILE = "diffusion_pytorch_model.safetensors"


def deepened(folder: Path, layers: int) -> Path:
    """Write the model with ``layers`` layers to ``folder``.

    Args:
        folder: must not exist.
        layers: at least as many as the model has.

    Raises:
        ValueError: fewer layers than it has.
    """
    shutil.copytree(WEIGHTS, folder)
    for expert in ("transformer", "transformer_2"):
        config = json.loads((folder / expert / "config.json").read_text(encoding="utf-8"))
        had = int(config["num_layers"])
        if layers < had:
            raise ValueError(f"the model has {had} layers, not {layers}")
        (folder / expert / "config.json").write_text(json.dumps(config | {"num_layers": layers}), encoding="utf-8")
        tensors = read(folder / expert / FILE)
        first = {name.removeprefix("blocks.0."): one for name, one in tensors.items() if name.startswith("blocks.0.")}
        for layer in range(had, layers):
            tensors |= {f"blocks.{layer}.{name}": _silenced(name, one) for name, one in first.items()}
        write(folder / expert / FILE, tensors)
    return folder


def _silenced(name: str, tensor: Tensor) -> Tensor:
    return Tensor(tensor.dtype, np.zeros_like(tensor.array)) if name.startswith(SILENT) else tensor
