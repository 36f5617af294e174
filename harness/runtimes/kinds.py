"""Generate small checkpoints (kinds), one per way in which a checkpoint can declare itself to a runtime.

All values of a kind are distinguishable, so the weights that a runtime's loader makes of it show how the loader read
the bytes. A kind defines how the bytes are stored and the declaration of every file, and nothing else.
``quantgate learn`` runs loaders over the same kinds that ``benchmarks.contracts`` scores.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
from ml_dtypes import bfloat16, float8_e4m3fn
from numpy.typing import NDArray
from safetensors.numpy import save_file

Array = NDArray[Any]
Format = Literal["nvfp4", "fp8", "bf16"]
Role = Literal["model", "override"]
ScaleShape = Literal["scalar", "one", "channel", "channel_column"]
DIM, FFN, LAYERS, TEXT, FREQ = 128, 256, 4, 64, 256
QUANTIZED_BLOCKS = (1, 2)
"""ModelOpt leaves the first and last blocks in BF16, so these models do too."""
WEIGHTS = "diffusion_pytorch_model.safetensors"
E2M1 = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6], dtype=np.float32)
PRODUCER = {"name": "modelopt", "version": "0.47.0"}
IGNORE = ["blocks.0*", "blocks.3*", "condition_embedder*", "patch_embedding", "proj_out"]
TRANSFORMER: dict[str, Any] = {
    "_class_name": "WanTransformer3DModel",
    "attention_head_dim": 64,
    "num_attention_heads": 2,
    "num_layers": LAYERS,
    "ffn_dim": FFN,
    "freq_dim": FREQ,
    "text_dim": TEXT,
    "in_channels": 16,
    "out_channels": 16,
    "patch_size": [1, 2, 2],
    "cross_attn_norm": True,
    "qk_norm": "rms_norm_across_heads",
    "eps": 1e-6,
    "rope_max_seq_len": 64,
    "added_kv_proj_dim": None,
    "image_dim": None,
    "pos_embed_seq_len": None,
}
INDEX: dict[str, Any] = {
    "_class_name": "WanPipeline", "_diffusers_version": "0.37.0", "boundary_ratio": 0.875,
    "scheduler": ["diffusers", "UniPCMultistepScheduler"], "text_encoder": ["transformers", "UMT5EncoderModel"],
    "tokenizer": ["transformers", "T5TokenizerFast"], "transformer": ["diffusers", "WanTransformer3DModel"],
    "transformer_2": ["diffusers", "WanTransformer3DModel"], "vae": ["diffusers", "AutoencoderKLWan"],
}  # fmt: skip
"""``model_index.json`` of a model."""
ABSENT = object()
"""Value of a key that is taken out of a configuration."""


def without_absent(body: Mapping[str, Any]) -> dict[str, Any]:
    """Return a configuration without the keys whose value is ``ABSENT``."""
    return {key: value for key, value in body.items() if value is not ABSENT}


@dataclass(frozen=True)
class Stored:
    """Storage of the quantized Linears: format, nibble order, scale layout and shape."""

    format: Format = "nvfp4"
    high_first: bool = False
    """The even column is in the high nibble."""
    swizzled: bool = False
    """Block scales are in 128x4 tiles."""
    scale_shape: ScaleShape = "scalar"
    """Shape of an FP8 weight scale: ``[]``, ``[1]``, ``[N]`` or ``[N, 1]``."""


@dataclass(frozen=True)
class Kind:
    """One generated checkpoint: the bytes, and the declarations of every file."""

    name: str
    stored: Stored = field(default_factory=Stored)
    role: Role = "model"
    config: Mapping[str, Any] | None = None
    """``quantization_config`` of the transformer's ``config.json``; ``None``: the file declares nothing."""
    hf_quant: Mapping[str, Any] | None = None
    """``hf_quant_config.json`` beside it."""
    metadata: Mapping[str, Any] = field(default_factory=dict)
    """Header metadata of the weights: key to JSON value."""
    edit: Callable[[dict[str, Array]], dict[str, Array]] | None = None
    """A change of the tensors after they were quantized."""
    config_file: bool = True
    """An override folder may lack a ``config.json``."""
    shards: int = 1


def linear_shapes() -> dict[str, tuple[int, int]]:
    """Return every Linear of the generated transformer: name to ``[N, K]``."""
    shapes = {
        "condition_embedder.time_embedder.linear_1": (DIM, FREQ),
        "condition_embedder.time_embedder.linear_2": (DIM, DIM),
        "condition_embedder.time_proj": (6 * DIM, DIM),
        "condition_embedder.text_embedder.linear_1": (DIM, TEXT),
        "condition_embedder.text_embedder.linear_2": (DIM, DIM),
        "proj_out": (64, DIM),
    }
    for block in range(LAYERS):
        for attention in ("attn1", "attn2"):
            for part in ("to_q", "to_k", "to_v", "to_out.0"):
                shapes[f"blocks.{block}.{attention}.{part}"] = (DIM, DIM)
        shapes[f"blocks.{block}.ffn.net.0.proj"] = (FFN, DIM)
        shapes[f"blocks.{block}.ffn.net.2"] = (DIM, FFN)
    return shapes


def quantized_names() -> tuple[str, ...]:
    """Return the Linears that the generated exports quantize, in the order of their names."""
    wanted = tuple(f"blocks.{block}." for block in QUANTIZED_BLOCKS)
    return tuple(sorted(name for name in linear_shapes() if name.startswith(wanted)))


@cache
def base_tensors(seed: int = 0) -> Mapping[str, Array]:
    """Return the BF16 transformer that every kind quantizes.

    Each row and each block of 16 columns has its own magnitude, so that a wrong scale layout changes the values.
    """
    rng = np.random.default_rng(seed)
    tensors: dict[str, Array] = {}
    for name, (rows, columns) in linear_shapes().items():
        size = np.exp(rng.normal(0, 0.6, (rows, 1))) * np.exp(rng.normal(0, 0.6, (1, -(-columns // 16))))
        weight = rng.normal(0, 0.03, (rows, columns)) * np.repeat(size, 16, axis=1)[:, :columns]
        tensors[f"{name}.weight"] = weight.astype(bfloat16)
        tensors[f"{name}.bias"] = rng.normal(0, 0.02, rows).astype(bfloat16)
    tensors["patch_embedding.weight"] = rng.normal(0, 0.05, (DIM, 16, 1, 2, 2)).astype(bfloat16)
    tensors["patch_embedding.bias"] = rng.normal(0, 0.02, DIM).astype(bfloat16)
    tensors["scale_shift_table"] = rng.normal(0, 0.05, (1, 2, DIM)).astype(bfloat16)
    for block in range(LAYERS):
        tensors[f"blocks.{block}.scale_shift_table"] = rng.normal(0, 0.05, (1, 6, DIM)).astype(bfloat16)
        for norm in ("attn1.norm_q", "attn1.norm_k", "attn2.norm_q", "attn2.norm_k", "norm2"):
            tensors[f"blocks.{block}.{norm}.weight"] = (1 + rng.normal(0, 0.02, DIM)).astype(bfloat16)
        tensors[f"blocks.{block}.norm2.bias"] = rng.normal(0, 0.02, DIM).astype(bfloat16)
    return tensors


def quantize(tensors: Mapping[str, Array], stored: Stored) -> dict[str, Array]:
    """Return the base with the Linears of ``quantized_names`` in the stored format."""
    result = dict(tensors)
    if stored.format == "bf16":
        return result
    for name in quantized_names():
        weight = tensors[f"{name}.weight"].astype(np.float32)
        parts = _nvfp4(weight, stored) if stored.format == "nvfp4" else _fp8(weight, stored)
        for suffix, value in parts.items():
            result[f"{name}.{suffix}"] = value
        result[f"{name}.input_scale"] = np.array(0.011, dtype=np.float32)
    return result


def _nvfp4(weight: Array, stored: Stored) -> dict[str, Array]:
    """Quantize [N, K] by ModelOpt's rule.

    ``ws2 = amax / (6 * 448)``, block scale ``amax / (6 * ws2)`` in E4M3, nearest E2M1 code.
    """
    rows, columns = weight.shape
    blocks = weight.reshape(rows, columns // 16, 16)
    second = np.float32(np.abs(weight).max() / (6 * 448))
    scale = np.clip(np.abs(blocks).max(-1) / (6 * second), 2**-9, 448).astype(float8_e4m3fn)
    values = blocks / (scale.astype(np.float32) * second)[..., None]
    codes = np.abs(np.abs(values)[..., None] - E2M1).argmin(-1).astype(np.uint8)
    codes = np.where(values < 0, codes | 8, codes).reshape(rows, columns)
    even, odd = codes[:, 0::2], codes[:, 1::2]
    packed = (even << 4) | odd if stored.high_first else (odd << 4) | even
    return {
        "weight": packed.astype(np.uint8),
        "weight_scale": swizzled(scale) if stored.swizzled else scale,
        "weight_scale_2": np.array(second, dtype=np.float32),
    }


def swizzled(scale: Array) -> Array:
    """Return row-major block scales ``[N, C]`` in 128x4 tiles, in the same shape (both sides are padded already)."""
    rows, columns = scale.shape
    tiles = scale.reshape(rows // 128, 4, 32, columns // 4, 4)
    return np.ascontiguousarray(tiles.transpose(0, 3, 2, 1, 4)).reshape(rows, columns)


def _fp8(weight: Array, stored: Stored) -> dict[str, Array]:
    channel = stored.scale_shape.startswith("channel")
    amax = np.abs(weight).max(1, keepdims=True) if channel else np.abs(weight).max(keepdims=True)
    scale = (amax / 448).astype(np.float32)
    codes = np.clip(weight / scale, -448, 448).astype(float8_e4m3fn)
    shapes: dict[str, Any] = {"scalar": (), "one": (1,), "channel": (len(weight),), "channel_column": (len(weight), 1)}
    return {"weight": codes, "weight_scale": scale.reshape(shapes[stored.scale_shape])}


def write_kind(kind: Kind, folder: Path) -> Path:
    """Write a kind as a folder: files in ``transformer/`` for a model, directly in the folder for an override.

    Returns:
        The folder.
    """
    shutil.rmtree(folder, ignore_errors=True)
    place = folder / "transformer" if kind.role == "model" else folder
    place.mkdir(parents=True)
    for file, (part, metadata) in files_of(kind).items():
        save_file({name: np.ascontiguousarray(value) for name, value in part.items()}, place / file, metadata)
    if kind.shards > 1:
        weight_map = {name: file for file, (part, _) in files_of(kind).items() for name in part}
        index = {"metadata": {}, "weight_map": weight_map}
        (place / f"{WEIGHTS}.index.json").write_text(json.dumps(index), encoding="utf-8")
    if kind.config_file:
        body = dict(TRANSFORMER)
        if kind.config is not None:
            body["quantization_config"] = kind.config
        (place / "config.json").write_text(json.dumps(body, indent=1), encoding="utf-8")
    if kind.hf_quant is not None:
        (place / "hf_quant_config.json").write_text(json.dumps(kind.hf_quant, indent=1), encoding="utf-8")
    if kind.role == "model":
        for component, value in INDEX.items():
            if isinstance(value, list):  # a runtime looks for the folder of every component that the index names
                (folder / component).mkdir(exist_ok=True)
        (folder / "model_index.json").write_text(json.dumps(INDEX), encoding="utf-8")
    return folder


def files_of(kind: Kind) -> dict[str, tuple[dict[str, Array], dict[str, str]]]:
    """Return the safetensors files of a kind: name to tensors and header metadata. Shards take every n-th tensor."""
    tensors = _quantized(kind.stored)
    if kind.edit is not None:
        tensors = kind.edit(dict(tensors))
    metadata = {"format": "pt", **{key: _text(value) for key, value in kind.metadata.items()}}
    names = sorted(tensors)
    if kind.shards == 1:
        return {WEIGHTS: ({name: tensors[name] for name in names}, metadata)}
    return {
        f"diffusion_pytorch_model-{number + 1:05d}-of-{kind.shards:05d}.safetensors": (
            {name: tensors[name] for name in names[number :: kind.shards]},
            metadata,
        )
        for number in range(kind.shards)
    }


@cache
def _quantized(stored: Stored) -> dict[str, Array]:
    return quantize(base_tensors(), stored)


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def base_kind() -> Kind:
    """Return the BF16 model: overrides replace its transformer, and loaded weights are compared with it."""
    return Kind("base", Stored("bf16"))


def flat(algo: Any = "NVFP4", **more: Any) -> dict[str, Any]:
    """ModelOpt's new schema: everything at the top level of ``quantization_config``."""
    bits = 8 if isinstance(algo, str) and "4" not in algo else 4
    numbers: dict[str, Any] = {"dynamic": False, "num_bits": bits, "type": "float"}
    if bits == 4:
        numbers["group_size"] = 16
    groups = {"group_0": {"input_activations": numbers, "weights": numbers, "targets": ["Linear"]}}
    body: dict[str, Any] = {
        "config_groups": groups, "ignore": list(IGNORE), "quant_algo": algo,
        "producer": PRODUCER, "quant_method": "modelopt",
    }  # fmt: skip
    body.update(more)
    return without_absent(body)


def nested(algo: str = "NVFP4", top: Mapping[str, Any] | None = None, **section: Any) -> dict[str, Any]:
    """ModelOpt's old schema: a section ``quantization``, as ``hf_quant_config.json`` has it."""
    inner: dict[str, Any] = {"quant_algo": algo, "exclude_modules": list(IGNORE), "kv_cache_quant_algo": None}
    if "4" in algo:
        inner["group_size"] = 16
    inner.update(section)
    return {"producer": PRODUCER, "quant_method": "modelopt", "quantization": without_absent(inner), **(top or {})}


LOW, HIGH = Stored(), Stored(high_first=True)
TILED, TILED_HIGH = Stored(swizzled=True), Stored(high_first=True, swizzled=True)
FP8 = Stored("fp8")


def dropping(*suffixes: str) -> Callable[[dict[str, Array]], dict[str, Array]]:
    def edit(tensors: dict[str, Array]) -> dict[str, Array]:
        return {name: value for name, value in tensors.items() if not name.endswith(suffixes)}

    return edit


def with_markers(tensors: dict[str, Array]) -> dict[str, Array]:
    """Comfy's marker of every quantized Linear: a JSON text as bytes."""
    marker = np.frombuffer(b'{"format": "nvfp4"}', dtype=np.uint8)
    return {**tensors, **{f"{name}.comfy_quant": marker.copy() for name in quantized_names()}}


def _comfy_names(tensors: dict[str, Array]) -> dict[str, Array]:
    return {name.replace(".weight_scale", ".scale_weight"): value for name, value in tensors.items()}


def with_bf16_linear(tensors: dict[str, Array]) -> dict[str, Array]:
    """One Linear of a quantized block left in BF16, undeclared."""
    name = quantized_names()[0]
    rest = {key: value for key, value in tensors.items() if not key.startswith(f"{name}.")}
    base = base_tensors()
    return {**rest, **{key: value for key, value in base.items() if key.startswith(f"{name}.")}}


def without_one_scale(tensors: dict[str, Array]) -> dict[str, Array]:
    return {key: value for key, value in tensors.items() if key != f"{quantized_names()[3]}.weight_scale"}


def _renamed(tensors: dict[str, Array]) -> dict[str, Array]:
    return {f"model.diffusion_model.{name}": value for name, value in tensors.items()}


def exact_names() -> list[str]:
    return [*sorted(set(linear_shapes()) - set(quantized_names())), "patch_embedding"]


_RUNTIME_WORDS = (
    ("attn1.to_out.0", "to_out"),
    ("attn1.", ""),
    ("to_out.0", "to_out"),
    ("ffn.net.0.proj", "ffn.fc_in"),
    ("ffn.net.2", "ffn.fc_out"),
)


def sglang_names() -> list[str]:
    """Return SGLang's names of the modules: self-attention is in the block itself, feed-forward is fc_in and fc_out."""
    names = []
    for name in exact_names():
        for old, new in _RUNTIME_WORDS:
            name = name.replace(old, new)
        names.append(name)
    return names


def _layers(format_name: str) -> dict[str, Any]:
    """Return header metadata of Comfy and diffusers: one format per layer."""
    return {"format_version": "1.0", "layers": {name: {"format": format_name} for name in quantized_names()}}


def nvfp4_kinds() -> Iterator[Kind]:
    """Yield NVFP4 kinds: every declaration of nibble order, scale layout, scope and algorithm."""
    yield Kind("nvfp4_silent", LOW, config=flat())
    yield Kind("nvfp4_silent_high", HIGH, config=flat())
    for word, value in (
        ("false", False),
        ("true", True),
        ("null", None),
        ("text_false", "false"),
        ("text_true", "true"),
        ("zero", 0),
        ("one", 1),
        ("empty_text", ""),
    ):
        yield Kind(f"nvfp4_swap_{word}", LOW, config=flat(swap_weight_nibbles=value))
        yield Kind(f"nvfp4_swap_{word}_high", HIGH, config=flat(swap_weight_nibbles=value))
    for word, value in (("true", True), ("false", False)):
        yield Kind(f"nvfp4_packed_{word}", HIGH if value else LOW, config=flat(checkpoint_uses_packed_qkv=value))
        both = {"swap_weight_nibbles": not value, "checkpoint_uses_packed_qkv": value}
        yield Kind(f"nvfp4_packed_{word}_swap_{not value}".lower(), HIGH, config=flat(**both))
        yield Kind(
            f"nvfp4_section_swap_{word}",
            HIGH if value else LOW,
            config=flat(quantization={"swap_weight_nibbles": value}),
        )
        yield Kind(
            f"nvfp4_section_and_top_{word}",
            HIGH,
            config=flat(swap_weight_nibbles=not value, quantization={"swap_weight_nibbles": value}),
        )
        yield Kind(f"nvfp4_nested_swap_{word}", HIGH if value else LOW, config=nested(swap_weight_nibbles=value))
        yield Kind(
            f"nvfp4_nested_top_swap_{word}",
            HIGH if value else LOW,
            config=nested(top={"swap_weight_nibbles": value}),
        )
        yield Kind(
            f"nvfp4_nested_swap_{word}_top_other",
            LOW,
            config=nested(swap_weight_nibbles=value, top={"swap_weight_nibbles": not value}),
        )
        yield Kind(
            f"nvfp4_nested_packed_{word}",
            HIGH if value else LOW,
            config=nested(checkpoint_uses_packed_qkv=value),
        )
        yield Kind(
            f"nvfp4_nested_top_packed_{word}",
            HIGH if value else LOW,
            config=nested(top={"checkpoint_uses_packed_qkv": value}),
        )
        yield Kind(f"nvfp4_hf_quant_swap_{word}", HIGH if value else LOW, hf_quant=nested(swap_weight_nibbles=value))
        yield Kind(
            f"nvfp4_config_silent_hf_quant_swap_{word}",
            HIGH if value else LOW,
            config=flat(),
            hf_quant=nested(swap_weight_nibbles=value),
        )
    yield Kind("nvfp4_nested_silent", LOW, config=nested())
    yield Kind("nvfp4_nested_silent_high", HIGH, config=nested())
    for layout in ("linear", "swizzled"):
        stored = TILED if layout == "swizzled" else LOW
        yield Kind(f"nvfp4_layout_{layout}", stored, config=flat(checkpoint_weight_scale_layout=layout))
        yield Kind(
            f"nvfp4_section_layout_{layout}",
            stored,
            config=flat(quantization={"checkpoint_weight_scale_layout": layout}),
        )
        yield Kind(f"nvfp4_nested_layout_{layout}", stored, config=nested(checkpoint_weight_scale_layout=layout))
        yield Kind(
            f"nvfp4_nested_top_layout_{layout}",
            stored,
            config=nested(top={"checkpoint_weight_scale_layout": layout}),
        )
    yield Kind("nvfp4_layout_upper_case", TILED, config=flat(checkpoint_weight_scale_layout="SWIZZLED"))
    yield Kind("nvfp4_layout_silent_tiled", TILED, config=flat())
    yield Kind(
        "nvfp4_tiled_high_both_keys",
        TILED_HIGH,
        config=flat(swap_weight_nibbles=True, checkpoint_weight_scale_layout="swizzled"),
    )
    for word, more in (
        ("silent", {}),
        ("swap_false", {"swap_weight_nibbles": False}),
        ("layout_linear", {"checkpoint_weight_scale_layout": "linear"}),
    ):
        yield Kind(f"nvfp4_comfy_markers_{word}", TILED_HIGH, config=flat(**more), edit=with_markers)
        yield Kind(f"nvfp4_comfy_markers_{word}_low", LOW, config=flat(**more), edit=with_markers)
    yield Kind("nvfp4_undeclared", LOW)
    yield Kind("nvfp4_undeclared_markers", TILED_HIGH, edit=with_markers)
    yield Kind("nvfp4_metadata_layers", LOW, metadata={"_quantization_metadata": _layers("nvfp4")})
    yield Kind("nvfp4_metadata_config", LOW, metadata={"quantization_config": flat(swap_weight_nibbles=True)})
    yield Kind("nvfp4_two_shards", LOW, config=flat(), shards=2)
    yield Kind("nvfp4_two_shards_swap", HIGH, config=flat(swap_weight_nibbles=True), shards=2)
    for algo in ("nvfp4", "NVFP4_AWQ", "W4A16_NVFP4", "MIXED_PRECISION", "FP4", "NVFP4_SVD", "W4A8_NVFP4_FP8"):
        yield Kind(f"nvfp4_algo_{algo.lower()}{'_lower' if algo.islower() else ''}", LOW, config=flat(algo))
        yield Kind(f"nvfp4_nested_algo_{algo.lower()}{'_lower' if algo.islower() else ''}", LOW, config=nested(algo))
    yield Kind("nvfp4_no_algo", LOW, config=flat(ABSENT))
    for method in (ABSENT, "modelopt_fp4", "nvfp4", "compressed-tensors", "ModelOpt"):
        yield Kind(
            f"nvfp4_method_{'absent' if method is ABSENT else str(method).replace('-', '_')}"
            + ("_cased" if method == "ModelOpt" else ""),
            LOW,
            config=flat(quant_method=method),
        )
    yield Kind("nvfp4_no_group_size", LOW, config=flat(config_groups=ABSENT))
    yield Kind("nvfp4_group_size_top", LOW, config=flat(config_groups=ABSENT, group_size=16))
    yield Kind("nvfp4_group_size_wrong", LOW, config=flat(config_groups=ABSENT, group_size=32))
    yield Kind("nvfp4_nested_no_group_size", LOW, config=nested(group_size=ABSENT))
    yield Kind("nvfp4_ignore_absent", LOW, config=flat(ignore=ABSENT))
    yield Kind("nvfp4_ignore_null", LOW, config=flat(ignore=None))
    yield Kind("nvfp4_ignore_too_wide", LOW, config=flat(ignore=["*"]))
    yield Kind("nvfp4_ignore_wrong_dialect", LOW, config=flat(ignore=["re:.*blocks\\.0.*"]))
    yield Kind("nvfp4_dynamic_inputs", LOW, config=flat(dynamic_input_scale=True), edit=dropping(".input_scale"))
    yield Kind("nvfp4_no_input_scale", LOW, config=flat(), edit=dropping(".input_scale"))
    yield Kind("nvfp4_no_second_scale", LOW, config=flat(), edit=dropping(".weight_scale_2"))
    yield Kind("nvfp4_one_block_scale_missing", LOW, config=flat(), edit=without_one_scale)
    yield Kind("nvfp4_one_linear_bf16", LOW, config=flat(), edit=with_bf16_linear)
    yield Kind("nvfp4_declared_fp8", LOW, config=flat("FP8"))
    yield Kind("nvfp4_comfy_scale_names", LOW, config=flat(), edit=_comfy_names)
    yield Kind("nvfp4_prefixed_names", LOW, config=flat(), edit=_renamed)


def fp8_kinds() -> Iterator[Kind]:
    """Yield FP8 kinds: shapes of the scale, excluded modules, and the words of the declaration."""
    shapes: tuple[ScaleShape, ...] = ("scalar", "one", "channel", "channel_column")
    for shape in shapes:
        yield Kind(f"fp8_scale_{shape}", Stored("fp8", scale_shape=shape), config=flat("FP8"))
    ignores: dict[str, Any] = {
        "globs": list(IGNORE),
        "dot_globs": ["blocks.0.*", "blocks.3.*", "condition_embedder.*", "patch_embedding", "proj_out"],
        "parents": ["blocks.0", "blocks.3", "condition_embedder", "patch_embedding", "proj_out"],
        "regex": ["re:blocks\\.[03].*", "re:condition_embedder.*", "patch_embedding", "proj_out"],
        "exact": exact_names(), "runtime_names": sglang_names(), "empty": [], "star": ["*"], "question": ["blocks.?.*"],
        "leading_star": ["*blocks.0.*", "*blocks.3.*", "*condition_embedder*", "*proj_out"],
        "prefixed": ["transformer.blocks.0*", "transformer.blocks.3*", "transformer.condition_embedder*"],
        "attention_kept": [*IGNORE, "blocks.1.attn1*"],
    }  # fmt: skip
    for word, ignore in ignores.items():
        yield Kind(f"fp8_ignore_{word}", FP8, config=flat("FP8", ignore=ignore))
    yield Kind("fp8_ignore_absent", FP8, config=flat("FP8", ignore=ABSENT))
    yield Kind("fp8_ignore_null", FP8, config=flat("FP8", ignore=None))
    yield Kind("fp8_ignore_other_key", FP8, config=flat("FP8", ignore=ABSENT, exclude_modules=list(IGNORE)))
    yield Kind(
        "fp8_ignore_modules_to_not_convert",
        FP8,
        config=flat("FP8", ignore=ABSENT, modules_to_not_convert=list(IGNORE)),
    )
    yield Kind("fp8_nested", FP8, config=nested("FP8"))
    yield Kind("fp8_nested_exact", FP8, config=nested("FP8", exclude_modules=exact_names()))
    yield Kind(
        "fp8_flat_and_section",
        FP8,
        config=flat("FP8", ignore=ABSENT, quantization={"exclude_modules": list(IGNORE)}),
    )
    for algo in ("fp8", "FP8_DEFAULT", "FP8_PER_CHANNEL_PER_TOKEN", "FP8_PB_WO", "W8A8_FP8", "MXFP8", "NVFP4"):
        stored = Stored("fp8", scale_shape="channel") if "CHANNEL" in algo else FP8
        yield Kind(f"fp8_algo_{algo.lower()}{'_lower' if algo.islower() else ''}", stored, config=flat(algo))
    for method in (ABSENT, "fp8", "modelopt_fp8", "compressed-tensors"):
        yield Kind(
            f"fp8_method_{'absent' if method is ABSENT else str(method).replace('-', '_')}",
            FP8,
            config=flat("FP8", quant_method=method),
        )
    yield Kind(
        "fp8_method_fp8_static",
        FP8,
        config={"quant_method": "fp8", "activation_scheme": "static", "ignored_layers": exact_names()},
    )
    yield Kind(
        "fp8_method_fp8_dynamic",
        FP8,
        config={"quant_method": "fp8", "activation_scheme": "dynamic", "modules_to_not_convert": exact_names()},
        edit=dropping(".input_scale"),
    )
    yield Kind("fp8_undeclared", FP8)
    yield Kind("fp8_hf_quant_only", FP8, hf_quant=nested("FP8"))
    yield Kind("fp8_metadata_layers", FP8, metadata={"_quantization_metadata": _layers("float8_e4m3fn")})
    yield Kind("fp8_no_weight_scale", FP8, config=flat("FP8"), edit=dropping(".weight_scale"))
    yield Kind("fp8_no_input_scale", FP8, config=flat("FP8"), edit=dropping(".input_scale"))
    yield Kind("fp8_one_weight_scale_missing", FP8, config=flat("FP8"), edit=without_one_scale)
    yield Kind("fp8_one_linear_bf16", FP8, config=flat("FP8"), edit=with_bf16_linear)
    yield Kind("fp8_two_shards", FP8, config=flat("FP8"), shards=2)
    yield Kind("fp8_comfy_scale_names", FP8, config=flat("FP8"), edit=_comfy_names)
    yield Kind("fp8_declared_nvfp4", FP8, config=flat("NVFP4"))


def other_kinds() -> Iterator[Kind]:
    """Yield BF16 kinds, with and without a declaration."""
    bf16 = Stored("bf16")
    yield Kind("bf16_plain", bf16)
    yield Kind("bf16_declared_fp8", bf16, config=flat("FP8"))
    yield Kind("bf16_declared_nvfp4", bf16, config=flat())
    yield Kind("bf16_declared_everything_ignored", bf16, config=flat("FP8", ignore=["*"]))


def override_kinds() -> Iterator[Kind]:
    """Yield override kinds: a transformer that replaces the one of the BF16 repository."""
    remaining = {
        "nvfp4_silent", "nvfp4_silent_high", "nvfp4_swap_false", "nvfp4_swap_true_high",
        "nvfp4_swap_true", "nvfp4_swap_text_false",
        "nvfp4_packed_true", "nvfp4_layout_swizzled", "nvfp4_tiled_high_both_keys",
        "nvfp4_undeclared", "nvfp4_undeclared_markers",
        "nvfp4_hf_quant_swap_true", "nvfp4_nested_swap_true", "nvfp4_metadata_layers", "nvfp4_metadata_config",
        "nvfp4_comfy_markers_silent", "nvfp4_algo_nvfp4_awq", "nvfp4_two_shards_swap", "nvfp4_ignore_wrong_dialect",
        "fp8_scale_scalar", "fp8_scale_one", "fp8_scale_channel", "fp8_ignore_parents",
        "fp8_ignore_exact", "fp8_undeclared",
        "fp8_metadata_layers", "fp8_hf_quant_only", "fp8_nested", "fp8_algo_fp8_per_channel_per_token", "bf16_plain",
    }  # fmt: skip
    for kind in (*nvfp4_kinds(), *fp8_kinds(), *other_kinds()):
        if kind.name in remaining:
            yield replace(kind, name=f"override_{kind.name}", role="override")
            if kind.name in ("nvfp4_silent", "fp8_scale_scalar", "nvfp4_metadata_config"):
                yield replace(kind, name=f"override_{kind.name}_without_config", role="override", config_file=False)


def all_kinds() -> tuple[Kind, ...]:
    """Return every kind, in a fixed order. Names are unique."""
    return (*nvfp4_kinds(), *fp8_kinds(), *other_kinds(), *override_kinds())
