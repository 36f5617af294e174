"""Names for diffusers' and transformers' objects. Their classes carry no types that a checker can follow: `Any`."""

from __future__ import annotations

from typing import Any, TypeAlias

Vae: TypeAlias = Any  #: diffusers.AutoencoderKLWan
Expert: TypeAlias = Any  #: diffusers.WanTransformer3DModel
TextEncoder: TypeAlias = Any  #: transformers.UMT5EncoderModel
Tokenizer: TypeAlias = Any  #: transformers.T5TokenizerFast
Scheduler: TypeAlias = Any  #: diffusers.UniPCMultistepScheduler
Pipeline: TypeAlias = Any  #: diffusers.WanPipeline
