"""Recognise weights that are no transformer's by their tensors' names: adapters, modules, autoencoders, encoders."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from harness.formats.header import TensorEntry

TRANSFORMER = re.compile(r"(^|\.)blocks\.\d+\.(self_attn|cross_attn|attn[12])\.")
"""Names that only a Wan transformer has, under Diffusers' or Wan's own names, and adapters of one."""
LORA = re.compile(
    r"^lora_(unet|te\d?)_|\.lora_(A|B|down|up)(\.\w+)?\.weight$|\.lora_[AB]$|\.(hada|lokr)_w\d|\.dora_scale$|"
    r"\.diff(_[bm])?$|\.alpha$"
)
"""Names of an adapter's factors and differences."""
FACTORS = re.compile(r"\.lora_(A|B|down|up|embedding_[AB]|magnitude_vector)(\.\w+)?(\.weight)?$|\.(hada|lokr)_w\d")
"""Names of an adapter's factors beside the weights of a transformer."""
FACTOR = re.compile(r"\.lora_(A|down)(\.\w+)?\.weight$")
"""The factor [rank, K] of a pair."""


@dataclass(frozen=True, slots=True)
class OtherWeights:
    """Contents of a weight file without a transformer."""

    text: str
    """Completes "FILE is ..."."""
    next_command: str


_RULES: tuple[tuple[re.Pattern[str], str, str], ...] = (
    (
        re.compile(r"(^|\.)vace_(blocks|patch_embedding)\b"),
        "a VACE module: blocks beside those of a transformer, which is another file",
        "inspect the transformer that it is loaded beside, or the file that holds both",
    ),
    (
        re.compile(
            r"^((first_stage_model|vae)\.)?(encoder|decoder)\.(conv1|conv_in|conv_out|middle|mid_block|downsamples|upsamples|"
            r"down_blocks|up_blocks|head|norm_out|conv_norm_out)\b"
        ),
        "a VAE: the autoencoder of a pipeline, and no transformer",
        "inspect the transformer's file; a VAE is checked as a part of its pipeline's folder",
    ),
    (
        re.compile(
            r"(^|\.)(encoder\.block\.\d+\.layer\.\d+\.|blocks\.\d+\.(attn\.[qkvo]|ffn\.gate\.0|pos_embedding\.embedding)\.|"
            r"enc\.(blk\.\d+|output_norm)\.)"
        ),
        "a text encoder (T5), and no transformer",
        "inspect the transformer's file; a text encoder is checked as a part of its pipeline's folder",
    ),
    (
        re.compile(r"(^|\.)(visual\.transformer\.|vision_model\.encoder\.layers\.\d+\.)"),
        "an image encoder (CLIP), and no transformer",
        "inspect the transformer's file",
    ),
)


def other_weights(tensors: Mapping[str, TensorEntry]) -> OtherWeights | None:
    """Return the contents of weights that are no transformer's; ``None`` if they may be one.

    Args:
        tensors: by the names that the file has.
    """
    if not tensors or any(TRANSFORMER.search(name) and not LORA.search(name) for name in tensors):
        return None
    factors = sum(LORA.search(name) is not None for name in tensors)
    if factors * 2 > len(tensors):
        ranks = {tensors[name].shape[0] for name in tensors if FACTOR.search(name) and tensors[name].shape}
        rank = f" of rank {min(ranks)}" if len(ranks) == 1 else ""
        return OtherWeights(
            f"a LoRA{rank}: factors that are added to a transformer's weights, and no transformer",
            "inspect the transformer that it is added to, or the file that they were merged into",
        )
    for pattern, text, remedy in _RULES:
        if sum(pattern.search(name) is not None for name in tensors) * 2 > len(tensors):
            return OtherWeights(text, remedy)
    return None
