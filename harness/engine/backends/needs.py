"""Imports what the ``diffusers`` backend needs, and nothing else that happens to be installed.

diffusers and transformers look for some forty further packages, and import those that they find. What they would do
with the ones below is not asked of them here: checkpoints are loaded by this project's own loaders.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

NOT_NEEDED = (
    "bitsandbytes", "flax", "jax", "k_diffusion", "librosa", "modelopt", "nvidia_modelopt", "onnx", "onnxruntime",
    "optimum", "peft", "sklearn", "tensorboard", "tensorflow", "timm", "torchao", "torchaudio", "wandb",
)  # fmt: skip
"""Packages that are hidden from diffusers and transformers while they are imported. None of them takes part in what a
case does: attention kernels, which a case may name, are not among them."""


@contextmanager
def hidden(names: tuple[str, ...] = NOT_NEEDED) -> Iterator[None]:
    """Let these packages look as if they were not installed. What is imported already stays as it is."""
    absent = [name for name in names if name not in sys.modules]
    sys.modules.update(dict.fromkeys(absent))  # type: ignore[arg-type]  # None: importlib says that there is no such module
    try:
        yield
    finally:
        for name in absent:
            if sys.modules.get(name, absent) is None:
                del sys.modules[name]


with hidden():
    import diffusers.utils.import_utils
    import transformers.utils.import_utils
    from diffusers import AutoencoderKLWan, WanPipeline, WanTransformer3DModel
    from transformers import T5TokenizerFast, UMT5EncoderModel  # type: ignore[attr-defined]

__all__ = [
    "AutoencoderKLWan",
    "T5TokenizerFast",
    "UMT5EncoderModel",
    "WanPipeline",
    "WanTransformer3DModel",
    "diffusers",
    "transformers",
]
