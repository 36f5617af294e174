"""Name the model that tensors belong to by their names: further parts of Wan's variants, and models that are no Wan."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from typing import Final

PARTS: Final[tuple[tuple[re.Pattern[str], str], ...]] = (
    (re.compile(r"^vace_(blocks|patch_embedding)\b"), "VACE"),
    (re.compile(r"^(pose_patch_embedding|motion_encoder|face_adapter|face_encoder)\b"), "Animate"),
    (
        re.compile(
            r"^(casual_audio_encoder|audio_injector|cond_encoder|frame_packer|trainable_cond_mask|"
            r"causal_audio_encoder|adain_\w+)\b"
        ),
        "S2V",
    ),
    (re.compile(r"^(audio_proj|blocks\.\d+\.(audio_cross_attn|norm_x))\b"), "MultiTalk"),
    (re.compile(r"^(ref_conv|control_adapter|full_ref|ref_patch_embedding)\b"), "Fun's control"),
    (re.compile(r"^(camera_encoder|cam_encoder|blocks\.\d+\.(cam_encoder|projector))\b"), "camera control"),
    (re.compile(r"^(condition_embedder\.image_embedder|blocks\.\d+\.attn2\.(add_[kv]_proj|norm_added_k))\b"), "I2V"),
)
"""Parts of Wan's variants that plain T2V lacks (Wan2.2's and VACE's own repositories, diffusers transformer_wan_*)."""
OTHER_MODELS: Final[tuple[tuple[re.Pattern[str], str], ...]] = (
    (re.compile(r"(^|\.)(double_blocks|single_blocks|single_transformer_blocks)\.\d+\."), "FLUX or HunyuanVideo"),
    (re.compile(r"(^|\.)joint_blocks\.\d+\."), "Stable Diffusion 3"),
    (re.compile(r"(^|\.)(input_blocks|output_blocks|middle_block|down_blocks|mid_block)\.\d+\."), "a U-Net"),
    (re.compile(r"(^|\.)transformer_blocks\.\d+\."), "Qwen-Image, LTX, CogVideoX or another transformer of Diffusers"),
    (re.compile(r"(^|\.)(model\.)?layers\.\d+\.(self_attn|attention|mlp|feed_forward)\."), "a language model"),
)
"""Block names of other models, under their own or Diffusers' names."""
WAN: Final = re.compile(
    r"^(blocks\.\d+\.|patch_embedding\.|condition_embedder\.|proj_out\.|scale_shift_table$|vace_|face_adapter\.)"
)
"""Names of a Wan transformer after translation."""


def parts_of(names: Iterable[str]) -> list[str]:
    """Return the variants of Wan whose further parts are among Diffusers' ``names``, in the order of `PARTS`."""
    present = {title for name in names for pattern, title in PARTS if pattern.search(name)}
    return [title for _, title in PARTS if title in present]


def other_model(names: Collection[str]) -> str | None:
    """Return the model that has such tensor names, empty if none is known; ``None`` if a Wan transformer has some.

    Args:
        names: after translation to Diffusers' names.
    """
    if not names or any(WAN.match(name) for name in names):
        return None
    return next((title for pattern, title in OTHER_MODELS if any(pattern.search(name) for name in names)), "")
