"""Import the packages that the ``diffusers`` backend needs, and no others that happen to be installed.

diffusers and transformers look for some forty further packages, and import those that they find. The features of the
packages below are not used here: checkpoints are loaded by this project's own loaders.

Both libraries import the module of a class when the class is named. All classes that a ``model_index.json`` may name
are named here, so that the starter (`harness.engine.starter`) imports them once and no forked engine does it again:
the scheduler alone pulls in scipy.stats, 490 modules.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

NOT_NEEDED = (
    "bitsandbytes", "flax", "jax", "k_diffusion", "librosa", "modelopt", "nvidia_modelopt", "onnx", "onnxruntime",
    "optimum", "peft", "sklearn", "tensorboard", "tensorflow", "timm", "torchao", "torchaudio", "wandb",
)  # fmt: skip
"""Packages that are hidden from diffusers and transformers during their import. No case uses any of them. Attention
kernels are not listed, because a case may name them."""


@contextmanager
def hidden(names: tuple[str, ...] = NOT_NEEDED) -> Iterator[None]:
    """Make these packages look as if they were not installed. Packages that are imported already stay available."""
    absent = [name for name in names if name not in sys.modules]
    sys.modules.update(dict.fromkeys(absent))  # type: ignore[arg-type]  # None: importlib reports no such module
    try:
        yield
    finally:
        for name in absent:
            if sys.modules.get(name, absent) is None:
                del sys.modules[name]


with hidden():
    import diffusers.utils.import_utils
    import transformers.utils.import_utils
    from diffusers import (
        AutoencoderKLWan,
        DPMSolverMultistepScheduler,
        FlowMatchEulerDiscreteScheduler,
        FlowMatchHeunDiscreteScheduler,
        UniPCMultistepScheduler,
        WanImageToVideoPipeline,
        WanPipeline,
        WanTransformer3DModel,
    )
    from transformers import (  # type: ignore[attr-defined]
        T5EncoderModel,
        T5Tokenizer,
        T5TokenizerFast,
        UMT5EncoderModel,
    )

__all__ = [
    "AutoencoderKLWan",
    "DPMSolverMultistepScheduler",
    "FlowMatchEulerDiscreteScheduler",
    "FlowMatchHeunDiscreteScheduler",
    "T5EncoderModel",
    "T5Tokenizer",
    "T5TokenizerFast",
    "UMT5EncoderModel",
    "UniPCMultistepScheduler",
    "WanImageToVideoPipeline",
    "WanPipeline",
    "WanTransformer3DModel",
    "diffusers",
    "transformers",
]
