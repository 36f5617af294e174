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


@contextmanager
def counted_by_driver() -> Iterator[None]:
    """Let torch count GPUs as ``torch.cuda.is_available`` does while a library asks it for its accelerator.

    diffusers does so during its import (``diffusers.utils.torch_utils.torch_device``). torch then calls CUDA, whatever
    ``PYTORCH_NVML_BASED_CUDA_CHECK`` says, and a process that called CUDA cannot be forked. The reply is the same.
    """
    import torch

    asked = torch._C._accelerator_getAccelerator
    torch._C._accelerator_getAccelerator = lambda: torch.device("cuda") if torch.cuda.is_available() else asked()
    try:
        yield
    finally:
        torch._C._accelerator_getAccelerator = asked


with hidden(), counted_by_driver():
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
