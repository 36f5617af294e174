"""Checkpoints that were written by hand or drawn after the rules of the contracts were settled.

`benchmarks.contracts` asks real runtimes about them.

None of them was in view while the rules were written. What the first comparison with the real runtimes showed to be
predicted wrongly was mended afterwards; docs/runtimes.md lists it.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from ml_dtypes import bfloat16, float8_e5m2

from harness.runtimes.kinds import (
    IGNORE,
    PRODUCER,
    Array,
    Kind,
    Stored,
    dropping,
    exact_names,
    flat,
    linear_shapes,
    nested,
    quantized_names,
    sglang_names,
    with_bf16_linear,
    with_markers,
    without_one_scale,
)

LOW, HIGH, TILED = Stored(), Stored(high_first=True), Stored(swizzled=True)
TILED_HIGH, FP8 = Stored(high_first=True, swizzled=True), Stored("fp8")
GROUP = {"dynamic": False, "num_bits": 4, "type": "float", "group_size": 16}


def _flat(algorithm: Any = "NVFP4", **more: Any) -> dict[str, Any]:
    numbers = dict(GROUP) if "4" in str(algorithm) else {"dynamic": False, "num_bits": 8, "type": "float"}
    groups = {"group_0": {"input_activations": numbers, "weights": numbers, "targets": ["Linear"]}}
    return {
        "config_groups": groups, "ignore": list(IGNORE), "producer": PRODUCER, "quant_algo": algorithm,
        "quant_method": "modelopt", **more,
    }  # fmt: skip


def _nested(algorithm: str = "NVFP4", **more: Any) -> dict[str, Any]:
    section: dict[str, Any] = {"quant_algo": algorithm, "exclude_modules": list(IGNORE), "kv_cache_quant_algo": None}
    if "4" in algorithm:
        section["group_size"] = 16
    return {"producer": PRODUCER, "quant_method": "modelopt", "quantization": section, **more}


def _without(body: dict[str, Any], *names: str) -> dict[str, Any]:
    return {key: value for key, value in body.items() if key not in names}


def _cast(suffix: str, dtype: Any, shape: tuple[int, ...] | None = None) -> Any:
    def edit(tensors: dict[str, Array]) -> dict[str, Array]:
        return {
            name: value.astype(dtype).reshape(shape if shape is not None else value.shape)
            if name.endswith(suffix)
            else value
            for name, value in tensors.items()
        }

    return edit


def _unquantized_in(dtype: Any) -> Any:
    def edit(tensors: dict[str, Array]) -> dict[str, Array]:
        return {name: value.astype(dtype) if value.dtype == bfloat16 else value for name, value in tensors.items()}

    return edit


def _with(**extra: Array) -> Any:
    return lambda tensors: {**tensors, **extra}


def _each_linear(suffix: str, value: Array, names: tuple[str, ...] | None = None) -> Any:
    chosen = names if names is not None else quantized_names()
    return lambda tensors: {**tensors, **{f"{name}.{suffix}": value.copy() for name in chosen}}


def _marker(text: str) -> Array:
    return np.frombuffer(text.encode(), dtype=np.uint8)


def _without_biases(tensors: dict[str, Array]) -> dict[str, Array]:
    return {name: value for name, value in tensors.items() if not name.endswith(".bias")}


def _one_block_in_bf16(tensors: dict[str, Array]) -> dict[str, Array]:
    from harness.runtimes.kinds import base_tensors

    rest = {key: value for key, value in tensors.items() if not key.startswith("blocks.2.")}
    return {**rest, **{key: value for key, value in base_tensors().items() if key.startswith("blocks.2.")}}


def _mixed(tensors: dict[str, Array]) -> dict[str, Array]:
    """Block 2 in FP8 beside block 1 in NVFP4."""
    from harness.runtimes.kinds import base_tensors, quantize

    other = quantize(base_tensors(), FP8)
    rest = {key: value for key, value in tensors.items() if not key.startswith("blocks.2.")}
    return {**rest, **{key: value for key, value in other.items() if key.startswith("blocks.2.")}}


def _to_e5m2(tensors: dict[str, Array]) -> dict[str, Array]:
    return {
        name: value.astype(np.float32).astype(float8_e5m2) if value.dtype.name == "float8_e4m3fn" else value
        for name, value in tensors.items()
    }


def _a_norm_in_fp8(tensors: dict[str, Array]) -> dict[str, Array]:
    name = "blocks.1.attn1.norm_q.weight"
    return {**tensors, name: tensors[name].astype(np.float32).astype("float8_e4m3fn")}


def unseen_kinds() -> tuple[Kind, ...]:
    """Return the checkpoints: where keys stand, what counts as true, ignore dialects, mixtures, markers, dtypes."""
    layers = {name: {"quant_algo": "NVFP4", "group_size": 16} for name in quantized_names()}
    two_sizes = {"group_0": {"weights": {**GROUP}}, "group_1": {"weights": {**GROUP, "group_size": 32}}}
    exact_quantized = [name for name in linear_shapes() if name not in quantized_names()]
    last = quantized_names()[-1]
    kinds: list[tuple[str, Stored, dict[str, Any]]] = [
        # what counts as true
        ("swap_two", HIGH, {"config": _flat(swap_weight_nibbles=2)}),
        ("swap_zero_float", LOW, {"config": _flat(swap_weight_nibbles=0.0)}),
        ("swap_empty_list", HIGH, {"config": _flat(swap_weight_nibbles=[])}),
        ("swap_list_of_false", HIGH, {"config": _flat(swap_weight_nibbles=[False])}),
        ("swap_empty_object", LOW, {"config": _flat(swap_weight_nibbles={})}),
        ("packed_text_false", HIGH, {"config": _flat(checkpoint_uses_packed_qkv="false")}),
        ("packed_null_swap_absent", LOW, {"config": _flat(checkpoint_uses_packed_qkv=None)}),
        ("packed_true_swap_null", HIGH, {"config": _flat(checkpoint_uses_packed_qkv=True, swap_weight_nibbles=None)}),
        # where keys stand, and how they are written
        ("swap_other_case", HIGH, {"config": _flat(Swap_Weight_Nibbles=True)}),
        ("swap_dashes", HIGH, {"config": _flat(**{"swap-weight-nibbles": True})}),
        (
            "swap_in_group",
            HIGH,
            {"config": _flat(config_groups={"group_0": {"weights": {**GROUP, "swap_weight_nibbles": True}}})},
        ),
        ("swap_in_producer", HIGH, {"config": _flat(producer={**PRODUCER, "swap_weight_nibbles": True})}),
        ("layout_true", TILED, {"config": _flat(checkpoint_weight_scale_layout=True)}),
        ("layout_null", TILED, {"config": _flat(checkpoint_weight_scale_layout=None)}),
        ("layout_spaced", TILED, {"config": _flat(checkpoint_weight_scale_layout=" swizzled ")}),
        ("layout_128x4", TILED, {"config": _flat(checkpoint_weight_scale_layout="128x4")}),
        ("layout_list", TILED, {"config": _flat(checkpoint_weight_scale_layout=["swizzled"])}),
        ("algo_null_section_names_it", LOW, {"config": {**_nested(), "quant_algo": None}}),
        ("algo_empty_section_names_it", LOW, {"config": {**_nested(), "quant_algo": ""}}),
        ("section_is_a_list", LOW, {"config": _flat(quantization=["NVFP4"])}),
        ("section_is_text", LOW, {"config": _flat(quantization="NVFP4")}),
        ("section_null", LOW, {"config": _flat(quantization=None)}),
        (
            "section_in_section",
            HIGH,
            {"config": _nested(quantization={"quantization": {"quant_algo": "NVFP4"}, "swap_weight_nibbles": True})},
        ),
        ("nested_exclude_at_top", LOW, {"config": {**_nested(), "ignore": ["*"]}}),
        ("declared_empty", LOW, {"config": {}}),
        ("declared_text", LOW, {"config": "modelopt"}),
        ("declared_list", LOW, {"config": [_flat()]}),
        # algorithms
        ("algo_list", LOW, {"config": _flat(["NVFP4"])}),
        ("algo_spaced", LOW, {"config": _flat("NVFP4 ")}),
        ("algo_w4a4", LOW, {"config": _flat("W4A4_NVFP4")}),
        ("algo_fp8_and_nvfp4", LOW, {"config": _flat("FP8_NVFP4")}),
        ("algo_number", LOW, {"config": _flat(4)}),
        ("mixed_precision_layers", LOW, {"config": _flat("MIXED_PRECISION", quantized_layers=layers)}),
        ("nvfp4_with_quantized_layers", LOW, {"config": _flat(quantized_layers=layers)}),
        ("mixed_fp8_block_declared_nvfp4", LOW, {"config": _flat(), "edit": _mixed}),
        ("mixed_fp8_block_declared_fp8", LOW, {"config": _flat("FP8"), "edit": _mixed}),
        ("mixed_fp8_block_undeclared", LOW, {"edit": _mixed}),
        # group sizes
        ("group_size_text", LOW, {"config": _flat(group_size="16")}),
        ("group_size_float", LOW, {"config": _flat(group_size=16.0)}),
        ("group_sizes_differ", LOW, {"config": _flat(config_groups=two_sizes)}),
        ("groups_empty", LOW, {"config": _flat(config_groups={})}),
        ("groups_list", LOW, {"config": _flat(config_groups=[{"weights": GROUP}])}),
        (
            "nested_group_size_32",
            LOW,
            {
                "config": _nested(
                    quantization={"quant_algo": "NVFP4", "exclude_modules": list(IGNORE), "group_size": 32}
                )
            },
        ),
        # ignore lists
        ("ignore_text", FP8, {"config": _flat("FP8", ignore="blocks.0*")}),
        ("ignore_text_star", FP8, {"config": _flat("FP8", ignore="*")}),
        ("ignore_number_in_list", FP8, {"config": _flat("FP8", ignore=[*IGNORE, 3])}),
        ("ignore_object", FP8, {"config": _flat("FP8", ignore=dict.fromkeys(IGNORE, True))}),
        ("ignore_classes", FP8, {"config": _flat("FP8", ignore=["Conv3d", "Embedding"])}),
        ("ignore_brackets", FP8, {"config": _flat("FP8", ignore=["blocks.[03].*", "proj_out"])}),
        ("ignore_other_case", FP8, {"config": _flat("FP8", ignore=["Blocks.0*", "Blocks.3*", "Proj_Out"])}),
        ("ignore_weight_names", FP8, {"config": _flat("FP8", ignore=[f"{name}.weight" for name in exact_quantized])}),
        (
            "ignore_double_star",
            FP8,
            {"config": _flat("FP8", ignore=["blocks.0.**", "blocks.3.**", "proj_out", "condition_embedder.**"])},
        ),
        ("ignore_middle_star", FP8, {"config": _flat("FP8", ignore=["b*0.*", "b*3.*", "p*_out"])}),
        ("ignore_with_newline", FP8, {"config": _flat("FP8", ignore=["blocks.0*\n", "blocks.3*", "proj_out"])}),
        ("ignore_all_but_one_block", LOW, {"config": _flat(ignore=[*IGNORE, "blocks.2*"]), "edit": _one_block_in_bf16}),
        ("ignore_misses_a_bf16_block", LOW, {"config": _flat(), "edit": _one_block_in_bf16}),
        ("ignore_stored_nvfp4", LOW, {"config": _flat(ignore=[*IGNORE, "blocks.1.attn2*"])}),
        ("fp8_nested_ignore_at_top", FP8, {"config": {**_nested("FP8"), "ignore": ["*"]}}),
        (
            "fp8_nested_exclude_null",
            FP8,
            {"config": _nested("FP8", quantization={"quant_algo": "FP8", "exclude_modules": None})},
        ),
        # markers
        (
            "one_marker",
            TILED_HIGH,
            {"config": _flat(), "edit": _each_linear("comfy_quant", _marker('{"format": "nvfp4"}'), (last,))},
        ),
        (
            "marker_of_fp8",
            LOW,
            {"config": _flat(), "edit": _each_linear("comfy_quant", _marker('{"format": "float8_e4m3fn"}'))},
        ),
        ("marker_empty", TILED_HIGH, {"config": _flat(), "edit": _each_linear("comfy_quant", _marker("{}"))}),
        (
            "markers_on_fp8",
            FP8,
            {"config": _flat("FP8"), "edit": _each_linear("comfy_quant", _marker('{"format": "float8_e4m3fn"}'))},
        ),
        (
            "markers_on_fp8_undeclared",
            FP8,
            {"edit": _each_linear("comfy_quant", _marker('{"format": "float8_e4m3fn"}'))},
        ),
        ("marker_at_top", TILED_HIGH, {"config": _flat(), "edit": _with(comfy_quant=_marker('{"format": "nvfp4"}'))}),
        (
            "marker_other_case",
            LOW,
            {"config": _flat(), "edit": _each_linear("Comfy_Quant", _marker('{"format": "nvfp4"}'))},
        ),
        (
            "markers_nested_swap_false",
            TILED_HIGH,
            {"config": _nested(swap_weight_nibbles=False), "edit": _each_linear("comfy_quant", _marker("{}"))},
        ),
        # other tensors and dtypes
        (
            "pre_quant_scale",
            LOW,
            {"config": _flat(), "edit": _each_linear("pre_quant_scale", np.ones(128, dtype=bfloat16))},
        ),
        (
            "amax_left_over",
            FP8,
            {"config": _flat("FP8"), "edit": _each_linear("input_quantizer._amax", np.ones((), dtype=np.float32))},
        ),
        (
            "output_scale",
            FP8,
            {"config": _flat("FP8"), "edit": _each_linear("output_scale", np.ones((), dtype=np.float32))},
        ),
        (
            "extra_norm",
            LOW,
            {"config": _flat(), "edit": _with(**{"blocks.1.norm3.weight": np.ones(128, dtype=bfloat16)})},
        ),
        ("no_biases", LOW, {"config": _flat(), "edit": _without_biases}),
        ("bf16_weight_scales", FP8, {"config": _flat("FP8"), "edit": _cast(".weight_scale", bfloat16)}),
        ("second_scale_of_one_element", LOW, {"config": _flat(), "edit": _cast(".weight_scale_2", np.float32, (1,))}),
        ("input_scale_of_one_element", LOW, {"config": _flat(), "edit": _cast(".input_scale", np.float32, (1,))}),
        (
            "block_scales_in_float",
            LOW,
            {"config": _flat(), "edit": _cast("blocks.1.ffn.net.2.weight_scale", np.float32)},
        ),
        (
            "packed_as_int8",
            LOW,
            {
                "config": _flat(),
                "edit": lambda t: {n: v.view(np.int8) if v.dtype == np.uint8 else v for n, v in t.items()},
            },
        ),
        ("e5m2", FP8, {"config": _flat("FP8"), "edit": _to_e5m2}),
        ("float32_rest", LOW, {"config": _flat(), "edit": _unquantized_in(np.float32)}),
        ("float16_rest", FP8, {"config": _flat("FP8"), "edit": _unquantized_in(np.float16)}),
        ("a_norm_in_fp8", FP8, {"config": _flat("FP8"), "edit": _a_norm_in_fp8}),
        # other declarations
        ("metadata_text_swap", HIGH, {"metadata": {"quantization_config": _flat(swap_weight_nibbles="yes")}}),
        (
            "metadata_not_json",
            LOW,
            {"config": _flat(), "metadata": {"_quantization_metadata": "nvfp4", "quantization_config": "{"}},
        ),
        (
            "metadata_against_config",
            HIGH,
            {"config": _flat(), "metadata": {"quantization_config": _flat(swap_weight_nibbles=True)}},
        ),
        (
            "metadata_quant_type",
            LOW,
            {"metadata": {"_quantization_metadata": {"quant_type": "nvfp4", "group_size": 16}}},
        ),
        (
            "metadata_one_layer",
            LOW,
            {
                "config": _flat(),
                "metadata": {
                    "_quantization_metadata": {"format_version": "1.0", "layers": {last: {"format": "nvfp4"}}}
                },
            },
        ),
        ("method_upper", LOW, {"config": _flat(quant_method="MODELOPT")}),
        ("method_modelopt_fp4_swap", HIGH, {"config": _flat(quant_method="modelopt_fp4", swap_weight_nibbles=True)}),
        ("method_modelopt_fp8_nested", FP8, {"config": _nested("FP8", quant_method="modelopt_fp8")}),
        ("method_modelopt_mixed", LOW, {"config": _flat(quant_method="modelopt_mixed")}),
        ("hf_quant_against_config", LOW, {"config": _flat(), "hf_quant": _nested("FP8")}),
        (
            "kv_cache_named",
            LOW,
            {"config": _flat(kv_cache_scheme={"num_bits": 8, "type": "float"}, kv_cache_quant_algo="FP8")},
        ),
        (
            "sparse_attention",
            FP8,
            {"config": _flat("FP8", sparse_attention_config={"method": "skip_softmax", "threshold": 0.1})},
        ),
        ("fp8_dynamic_declared", FP8, {"config": _flat("FP8", dynamic_input_scale=True, activation_scheme="dynamic")}),
        (
            "fp8_generic_both_lists",
            FP8,
            {
                "config": {
                    "quant_method": "fp8",
                    "activation_scheme": "static",
                    "ignored_layers": [],
                    "modules_to_not_convert": exact_quantized,
                }
            },
        ),
        ("three_shards_swap", HIGH, {"config": _flat(swap_weight_nibbles=True), "shards": 3}),
        ("fp8_three_shards_undeclared", FP8, {"shards": 3}),
    ]
    asked = [Kind(f"unseen_{name}", stored, **more) for name, stored, more in kinds]
    overrides = {
        "swap_list_of_false", "packed_text_false", "swap_in_group", "section_is_text", "declared_empty",
        "mixed_fp8_block_undeclared", "mixed_fp8_block_declared_nvfp4", "ignore_all_but_one_block",
        "ignore_stored_nvfp4", "one_marker", "markers_on_fp8_undeclared", "markers_on_fp8", "metadata_text_swap",
        "metadata_against_config", "metadata_quant_type", "metadata_not_json", "hf_quant_against_config", "e5m2",
        "ignore_text", "three_shards_swap", "method_modelopt_fp8_nested", "fp8_generic_both_lists",
    }  # fmt: skip
    asked += [
        Kind(f"unseen_override_{name}", stored, role="override", **more)
        for name, stored, more in kinds
        if name in overrides
    ]
    return tuple(asked)


def drawn_kinds(seed: int, count: int) -> tuple[Kind, ...]:
    """Return kinds whose every property is drawn at random: no rule was written with these in view.

    Args:
        seed: seed of the draw.
        count: number of kinds.
    """
    rng = np.random.default_rng(seed)

    def pick(*options: Any) -> Any:
        return options[int(rng.integers(len(options)))]

    kinds = []
    for number in range(count):
        fp8 = rng.random() < 0.4
        if fp8:
            stored = Stored("fp8", scale_shape=pick("scalar", "scalar", "one", "channel"))
            algo = pick("FP8", "FP8", "FP8", "FP8_PER_CHANNEL_PER_TOKEN", "fp8", "W8A8_FP8", "NVFP4")
        else:
            stored = Stored("nvfp4", high_first=bool(pick(0, 0, 1)), swizzled=bool(pick(0, 0, 1)))
            algo = pick("NVFP4", "NVFP4", "NVFP4", "NVFP4", "nvfp4", "NVFP4_AWQ", "FP8")
        keys: dict[str, Any] = {}
        if rng.random() < 0.5:
            keys["swap_weight_nibbles"] = pick(True, False, None, "true", "false", 0, 1)
        if rng.random() < 0.3:
            keys["checkpoint_uses_packed_qkv"] = pick(True, False)
        if rng.random() < 0.3:
            keys["checkpoint_weight_scale_layout"] = pick("swizzled", "linear")
        ignore = pick(
            list(IGNORE),
            list(IGNORE),
            exact_names(),
            sglang_names(),
            ["blocks.0*", "proj_out"],
            ["*"],
            [],
            ["blocks.[03]*"],
        )
        body = (
            nested(algo, top=pick({}, keys), **{"exclude_modules": ignore, **pick({}, keys)})
            if rng.random() < 0.35
            else flat(algo, ignore=ignore, **pick(keys, keys, {"quantization": keys}))
        )
        place = pick("config", "config", "config", "config", "hf_quant", "metadata", "nowhere")
        edits = [None, None, None, None, None, dropping(".input_scale"), without_one_scale, with_bf16_linear]
        edits += [dropping(".weight_scale")] if fp8 else [with_markers, dropping(".weight_scale_2")]
        kinds.append(
            Kind(
                f"drawn_{seed}_{number:03d}",
                stored,
                role=pick("model", "model", "override"),
                config=body if place == "config" else None,
                hf_quant=body if place == "hf_quant" else None,
                metadata={pick("quantization_config", "_quantization_metadata"): body} if place == "metadata" else {},
                edit=pick(*edits),
                shards=pick(1, 1, 1, 2),
            )
        )
    return tuple(kinds)
