"""Translate the dialects of tensor names to Diffusers' names, by one table.

Diffusers: ``blocks.0.attn1.to_q.weight``. Wan's own repository, ComfyUI, LightX2V and GGUF files:
``blocks.0.self_attn.q.weight``, often behind ``model.diffusion_model.``. torchao and optimum-quanto split
a weight into tensors of their own names. Scales keep their suffix in every other dialect.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

PREFIXES: dict[str, str] = {
    "model.diffusion_model.": "ComfyUI",
    "diffusion_model.": "ComfyUI",
    "_orig_mod.": "torch.compile",
    "module.": "DistributedDataParallel",
    "_fsdp_wrapped_module.": "FullyShardedDataParallel",
    "transformer.": "a pipeline's state dict",
    "model.": "a training wrapper",
    "dit.": "a training wrapper",
}
"""Known prefixes, and the programs that write them."""
_RULES: tuple[tuple[str, str], ...] = (
    (r"^time_embedding\.0\.", "condition_embedder.time_embedder.linear_1."),
    (r"^time_embedding\.2\.", "condition_embedder.time_embedder.linear_2."),
    (r"^text_embedding\.0\.", "condition_embedder.text_embedder.linear_1."),
    (r"^text_embedding\.2\.", "condition_embedder.text_embedder.linear_2."),
    (r"^time_projection\.1\.", "condition_embedder.time_proj."),
    (r"^img_emb\.proj\.0\.", "condition_embedder.image_embedder.norm1."),
    (r"^img_emb\.proj\.1\.", "condition_embedder.image_embedder.ff.net.0.proj."),
    (r"^img_emb\.proj\.3\.", "condition_embedder.image_embedder.ff.net.2."),
    (r"^img_emb\.proj\.4\.", "condition_embedder.image_embedder.norm2."),
    (r"^img_emb\.emb_pos$", "condition_embedder.image_embedder.pos_embed"),
    (r"^head\.modulation$", "scale_shift_table"),
    (r"^head\.head\.", "proj_out."),
    (r"^(blocks\.\d+)\.modulation$", r"\1.scale_shift_table"),
    (r"^(blocks\.\d+)\.norm3\.", r"\1.norm2."),
    (r"^(blocks\.\d+)\.ffn\.0\.", r"\1.ffn.net.0.proj."),
    (r"^(blocks\.\d+)\.ffn\.2\.", r"\1.ffn.net.2."),
    (r"^(blocks\.\d+)\.cross_attn\.k_img\.", r"\1.attn2.add_k_proj."),
    (r"^(blocks\.\d+)\.cross_attn\.v_img\.", r"\1.attn2.add_v_proj."),
    (r"^(blocks\.\d+)\.cross_attn\.norm_k_img\.", r"\1.attn2.norm_added_k."),
    (r"^(blocks\.\d+)\.self_attn\.norm_([qk])\.", r"\1.attn1.norm_\2."),
    (r"^(blocks\.\d+)\.cross_attn\.norm_([qk])\.", r"\1.attn2.norm_\2."),
    (r"^(blocks\.\d+)\.self_attn\.qkv\.", r"\1.attn1.to_qkv."),
    (r"^(blocks\.\d+)\.cross_attn\.kv\.", r"\1.attn2.to_kv."),
    (r"^(blocks\.\d+)\.self_attn\.([qkv])\.", r"\1.attn1.to_\2."),
    (r"^(blocks\.\d+)\.cross_attn\.([qkv])\.", r"\1.attn2.to_\2."),
    (r"^(blocks\.\d+)\.self_attn\.o\.", r"\1.attn1.to_out.0."),
    (r"^(blocks\.\d+)\.cross_attn\.o\.", r"\1.attn2.to_out.0."),
)
"""Wan's own names to Diffusers'. Source: diffusers scripts/convert_wan_to_diffusers.py and models/transformers."""
WAN = re.compile(
    r"^(blocks\.\d+\.(self_attn|cross_attn)\.|head\.head\.|time_embedding\.|text_embedding\.|time_projection\.|img_emb\.)"
)
DIFFUSERS = re.compile(r"^(blocks\.\d+\.attn[12]\.|condition_embedder\.|proj_out\.)")
_COMPILED = tuple((re.compile(pattern), new) for pattern, new in _RULES)
_PARTS: tuple[tuple[re.Pattern[str], str, str], ...] = (
    (re.compile(r"\._weight_qdata$"), ".weight", "torchao"),
    (re.compile(r"\._weight_per_tensor_scale$"), ".weight_scale_2", "torchao"),
    (re.compile(r"\._weight_act_per_tensor_scale$"), ".input_scale", "torchao"),
    (re.compile(r"\._weight_(scale|zero_point|act_pre_scale)$"), r".weight_\1", "torchao"),
    (re.compile(r"\.weight\._data(\._data)?$"), ".weight", "quanto"),
    (re.compile(r"\.weight\._scale$"), ".weight_scale", "quanto"),
    (re.compile(r"\.weight\._shift$"), ".weight_zero_point", "quanto"),
    (re.compile(r"\.weight_quantizer\._scale$"), ".weight_scale", "modelopt"),
    (re.compile(r"\.weight_quantizer\._double_scale$"), ".weight_scale_2", "modelopt"),
    (re.compile(r"\.input_quantizer\._pre_quant_scale$"), ".pre_quant_scale", "modelopt"),
    (re.compile(r"\.(weight|input|output)_quantizer\._amax$"), r".\1_amax", "modelopt"),
    (re.compile(r"\.base_layer\.(?=[\w.]+$)"), ".", "peft"),
)
"""How libraries split one weight into several tensors; the third column is the library."""
BLOCK = re.compile(r"(^|\.)blocks\.\d+\.")
OTHER_COMPONENTS = (
    "first_stage_model.",
    "cond_stage_model.",
    "text_encoders.",
    "vae.",
    "text_encoder.",
    "clip_vision.",
)
"""Prefixes of components beside the transformer in a ComfyUI file that holds a whole pipeline."""
MARKERS = ("scaled_fp8", "model.diffusion_model.scaled_fp8", "diffusion_model.scaled_fp8")
"""Tensors without a value of their own by which ComfyUI recognises a file."""


@dataclass(frozen=True)
class Naming:
    """The dialect of one file set, and every stored name's translation."""

    dialect: str = "diffusers"
    """``diffusers``, ``wan``, or ``mixed`` if one transformer has names of both."""
    prefix: str = ""
    """Prefix of every name."""
    library: str = ""
    """``torchao``, ``quanto`` or ``modelopt`` if a library's own tensor names were translated."""
    names: Mapping[str, str] = field(default_factory=dict)
    """Stored name to Diffusers' name."""
    other: tuple[str, ...] = ()
    """Stored names of other components and of markers, which are no tensors of the transformer."""
    clashes: tuple[str, ...] = ()
    """Translated names that two stored names share."""
    prefixes: Mapping[str, int] = field(default_factory=dict)
    """Tensors of blocks by the prefix that they have, if there are several; without ``_orig_mod.``."""


def to_diffusers(name: str) -> str:
    """Return Diffusers' name of a tensor name without prefix; names of unknown modules are returned unchanged."""
    for pattern, new in _COMPILED:
        if pattern.search(name):
            return pattern.sub(new, name)
    return name


def split_parts(name: str) -> tuple[str, str]:
    """Return a tensor name with the usual suffix (``weight``, ``weight_scale`` ...), and the library that it is from.

    For example, ``to_q.weight._data`` gives ``("to_q.weight", "quanto")``. The library is empty if no rule applies.
    """
    for pattern, new, library in _PARTS:
        if pattern.search(name):
            return pattern.sub(new, name), library
    return name, ""


def common_prefix(names: Collection[str]) -> str:
    """Return the most frequent prefix of ``blocks.N.``; empty if there is none."""
    counts = Counter(name[: match.start(0) + len(match[1])] for name in names if (match := BLOCK.search(name)))
    return counts.most_common(1)[0][0] if counts else ""


ATTENTION = re.compile(r"(^|\.)blocks\.\d+\.(self_attn|cross_attn|attn[12])\.")


def mixed_prefixes(names: Collection[str]) -> dict[str, int]:
    """Return the number of attention tensors by prefix if a file set has several prefixes; empty if it has one.

    Only known prefixes and their absence count: another component of a whole pipeline has blocks too.
    """
    counts = Counter(
        name[: match.start(0) + len(match[1])].replace("_orig_mod.", "")
        for name in names
        if (match := ATTENTION.search(name)) and not name.startswith(OTHER_COMPONENTS)
    )
    plain = {prefix: count for prefix, count in counts.items() if not prefix or prefix in PREFIXES}
    return dict(sorted(plain.items())) if len(plain) > 1 else {}


def translate(stored: Collection[str]) -> Naming:
    """Find the dialect of a file set's tensor names and translate every name."""
    prefix = common_prefix(stored)
    names: dict[str, str] = {}
    other: list[str] = []
    libraries: Counter[str] = Counter()
    dialects: Counter[str] = Counter()
    inner = prefix.replace("_orig_mod.", "")
    prefixes = mixed_prefixes(stored)
    others = sorted((item for item in prefixes if item and item != prefix), key=len, reverse=True)
    for name in stored:
        if name in MARKERS or (prefix and name.startswith(OTHER_COMPONENTS)):
            other.append(name)
            continue
        bare = name.removeprefix(prefix)
        # torch.compile's part may be in some names only: then the rest of the prefix is removed alone
        if bare == name and inner != prefix:
            bare = name.removeprefix(inner)
        bare = next((name.removeprefix(item) for item in others if bare == name and name.startswith(item)), bare)
        bare = bare.replace("_orig_mod.", "")
        if WAN.match(bare):
            dialects["wan"] += 1
        elif DIFFUSERS.match(bare):
            dialects["diffusers"] += 1
        part, library = split_parts(bare)
        libraries.update([library] if library else [])
        names[name] = to_diffusers(part)
    twice = sorted(name for name, count in Counter(names.values()).items() if count > 1)
    dialect = "mixed" if len(dialects) > 1 else next(iter(dialects), "diffusers")
    library = libraries.most_common(1)[0][0] if libraries else ""
    return Naming(dialect, prefix, library, names, tuple(sorted(other)), tuple(twice), prefixes)


def module_to_diffusers(name: str, prefix: str) -> str:
    """Return Diffusers' name of a module that a configuration or header metadata names."""
    bare = name.removeprefix(prefix).replace("_orig_mod.", "")
    return to_diffusers(f"{bare}.").removesuffix(".")
