"""One mutation for every fault that happened and that a checkpoint can carry, at several strengths.

Row numbers are those of the list of incidents that the inspector was built from; rows 4 and 13 lie in a runtime.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from dataclasses import field as default

import torch

from benchmarks.corpus import field_faults as field
from benchmarks.corpus import libraries, published, variants, written
from benchmarks.corpus import published_faults as wild
from benchmarks.corpus import quantizers as further
from benchmarks.corpus.mutations import (
    INFINITE,
    INVERTED,
    INVERTED_FP8,
    ONES,
    ONES_FP8,
    TINY_INPUT,
    ZERO,
    Mutation,
    adaln,
    another_base,
    boundary,
    broken_config,
    bytes_in_scales,
    carried,
    column_scales,
    cut_rows,
    cut_short,
    declare_only,
    declared_twice,
    drift,
    drop,
    exchanged,
    fp8_codes,
    ignored_twice,
    list_quantized,
    misdeclare,
    mixed_exchanged,
    nan_codes,
    nibbles,
    no_boundary,
    nothing,
    other_config,
    packed_width,
    primary_only,
    rename_module,
    renamed_scale,
    shard,
    split_qkv,
    stale,
    swizzled,
    transposed,
    two_conventions,
    undeclare,
    unlist,
    unrounded,
)


@dataclass(frozen=True)
class Fault:
    """One mutant and the name that the inspector must give it."""

    row: int
    name: str
    strength: str
    recipe: str
    mutate: Mutation
    code: str
    """Finding that must be there, as a fault unless ``severity`` says otherwise."""
    severity: str = "fault"
    contracts: tuple[str, ...] = ()
    expected: Mapping[str, str] = default(default_factory=dict)
    note: str = ""
    baseless: bool = False
    """Inspected without a base: the file alone shows it."""

    @property
    def id(self) -> str:
        """``row-name-strength``."""
        return f"{self.row:02d}-{self.name}-{self.strength}"


@dataclass(frozen=True)
class Invisible:
    """A fault that no byte of a checkpoint carries."""

    row: int
    name: str
    why: str


KINDS: tuple[tuple[int, str], ...] = (
    (5, "encoding, scales and runtime defaults"),
    (14, "scales and names"),
    (20, "declarations and layers"),
    (24, "files and index"),
    (30, "shapes, conventions, experts' formats"),
    (35, "pipeline, experts, other weights"),
    (37, "code tables, key sets, shapes"),
    (40, "names and files that are no weights"),
    (45, "tensors and scales that nobody claims; plain weights; configuration"),
    (50, "INT8, MX, blocks, NF4, GGUF"),
    (52, "ComfyUI's markers, msModelSlim's description"),
    (56, "libraries' layouts, merged weights, failed downloads"),
    (57, "weights that are no transformer's, formats that are only named"),
    (58, "parts, shapes and markers of published files"),
    (60, "packed integers, smoothed weights, scales of other rows and blocks"),
    (62, "variants of Wan, other models, converters that change more than weights"),
    (65, "names of other Linears, zero points, lost dtypes, cut markers and downloads, quantizers that are only named"),
)
"""Last row number of each kind, and its title."""


def kind_of(fault: Fault) -> str:
    """Return the title of a fault's kind."""
    return next(title for last, title in KINDS if fault.row <= last)


INVISIBLE = (
    Invisible(4, "kernel-side scale permutation", "the bytes are right: a clean inspection blames the runtime"),
    Invisible(13, "FP8 loads and is never applied", "the bytes are right: receipts of the engine show it"),
)


def _many(row: int, name: str, strengths: str, recipe: str, mutate: Mutation, code: str, **more: object) -> list[Fault]:
    return [Fault(row, name, strength, recipe, mutate, code, **more) for strength in strengths.split()]  # type: ignore[arg-type]


OLD, NEW = ("sglang==0.5.12",), ("sglang==0.5.23",)
BOTH_NVFP4 = {"transformer": "nvfp4", "transformer_2": "nvfp4"}
BASIC_FAULTS: tuple[Fault, ...] = (
    Fault(1, "nibble_default_flipped", "all", "nvfp4", nothing, "nibble_order", contracts=OLD),
    *_many(2, "nibble_order", "all expert layer row", "nvfp4", nibbles, "nibble_order"),
    *_many(3, "input_scale_missing", "all layer", "nvfp4", drop("input_scale"), "input_scale_missing"),
    *_many(5, "scales_swizzled", "all expert layer", "nvfp4", swizzled, "scale_layout"),
    *_many(6, "global_scale_inverted", "all expert layer", "nvfp4", INVERTED, "global_scale_inverted"),
    *_many(6, "fp8_scale_inverted", "all layer", "fp8", INVERTED_FP8, "global_scale_inverted"),
    *_many(7, "global_scale_zero", "all layer", "nvfp4", ZERO, "global_scale_degenerate"),
    *_many(7, "global_scale_inf", "layer", "nvfp4", INFINITE, "global_scale_degenerate"),
    *_many(7, "input_scale_zero", "all layer", "nvfp4", TINY_INPUT, "input_scale_degenerate"),
    *_many(8, "block_scale_nan", "all layer", "nvfp4", bytes_in_scales(0x7F), "block_scale_nan"),
    *_many(8, "block_scale_zero", "all layer", "nvfp4", bytes_in_scales(0), "block_scale_zero"),
    *_many(8, "weight_nan", "all layer", "fp8", nan_codes, "weights_nan"),
    *_many(9, "not_in_ignore", "block layer", "nvfp4", unlist, "ignore_incomplete"),
    *_many(10, "global_scale_missing", "all layer", "nvfp4", drop("weight_scale_2"), "global_scale_missing"),
    *_many(11, "scale_filled_with_ones", "all layer", "nvfp4", ONES, "scale_dropped"),
    *_many(11, "fp8_scale_filled", "all layer", "fp8", ONES_FP8, "scale_dropped"),
    *_many(12, "name_not_mapped", "all layer", "nvfp4", rename_module, "name_unmapped", contracts=NEW),
    *_many(14, "no_metadata", "all expert", "nvfp4", undeclare, "quantization_undeclared"),
    Fault(15, "declared_nvfp4_stored_fp8", "expert", "fp8", misdeclare("NVFP4"), "format_mismatch"),
    Fault(15, "declared_fp8_stored_nvfp4", "expert", "nvfp4", misdeclare("FP8"), "format_mismatch"),
    Fault(15, "mixed_declared_the_other_way", "all", "nvfp4", mixed_exchanged, "format_mismatch"),
    Fault(15, "declared_twice", "expert", "nvfp4", declared_twice, "declarations_differ"),
    Fault(15, "ignored_twice", "expert", "nvfp4", ignored_twice, "declarations_differ", "warning"),
    Fault(16, "patterns_matched_nothing", "all", "base", declare_only, "nothing_quantized"),
    *_many(17, "scales_of_packed_width", "all layer", "nvfp4", packed_width, "scale_columns"),
    *_many(18, "codes_from_unrounded_scale", "all layer", "nvfp4", unrounded, "codes_from_unrounded_scale"),
    Fault(19, "carried_not_ignored", "layer", "nvfp4", carried, "carried_not_ignored"),
    *_many(20, "scale_renamed", "all layer", "fp8", renamed_scale, "scale_renamed"),
    *_many(21, "shard_missing", "expert quarter", "nvfp4", shard("missing"), "shard_missing"),
    Fault(21, "shard_cut_short", "expert", "nvfp4", cut_short, "header_invalid"),
    *_many(22, "unindexed_tensors", "expert", "nvfp4", shard("unindexed"), "unindexed_tensors"),
    *_many(23, "index_stale", "all layer", "nvfp4", shard("stale"), "index_stale"),
    *_many(24, "scale_dropped", "all layer", "fp8", drop("weight_scale"), "scale_missing"),
    *_many(25, "channel_scale_column", "half layer", "fp8_channel", column_scales, "scale_shape"),
    *_many(26, "two_conventions", "half layer", "nvfp4", two_conventions, "two_conventions"),
    *_many(27, "excluded_weights_moved", "all layer", "nvfp4", drift, "excluded_differs"),
    Fault(28, "primary_only", "expert", "nvfp4", primary_only, "unexpected_format", expected=BOTH_NVFP4),
    Fault(28, "primary_only_unstated", "expert", "nvfp4", primary_only, "experts_mixed_precision", "warning",
          note="a valid dialect where the case does not say what it expects"),
    *_many(29, "ignore_beats_tensors", "all layer", "fp8", list_quantized, "ignore_contradicted"),
    Fault(30, "qkv_scales_differ", "expert", "nvfp4", split_qkv, "qkv_scales_differ", "warning",
          note="right where q, k and v run apart"),
    Fault(31, "boundary_ratio_missing", "all", "nvfp4", no_boundary, "boundary_ratio_missing"),
    *_many(31, "boundary_ratio_moved", "small large", "nvfp4", boundary, "boundary_ratio_differs"),
    *_many(32, "config_unreadable", "cut nan", "nvfp4", broken_config, "config_invalid"),
    *_many(33, "adaln_halves_swapped", "all layer", "nvfp4", adaln, "adaln_halves_swapped"),
    Fault(34, "experts_swapped", "both", "nvfp4", exchanged, "experts_swapped"),
    Fault(34, "experts_swapped_fp8", "both", "fp8", exchanged, "experts_swapped"),
    Fault(34, "same_expert_twice", "one", "nvfp4", exchanged, "experts_identical"),
    Fault(35, "another_base", "all", "nvfp4", another_base, "wrong_base"),
    *_many(35, "base_stale_1_percent", "all layer", "nvfp4", stale(0.01), "base_stale"),
    Fault(35, "base_stale_0.2_percent", "all", "nvfp4", stale(0.002), "base_stale"),
    Fault(35, "base_stale_0.2_percent_of_a_float32_base", "all", "nvfp4_wide", stale(0.002), "base_stale"),
    *_many(37, "biases_lost", "all layer", "nvfp4", drop("bias"), "tensor_missing"),
    *_many(37, "wrong_shape", "layer", "nvfp4", cut_rows, "shape_differs"),
    Fault(37, "config_of_another_model", "expert", "nvfp4", other_config, "config_contradicts_tensors"),
    Fault(25, "channel_scales_for_sglang", "all", "fp8_channel", nothing, "runtime_refuses", contracts=NEW),
    *_many(36, "fp8_is_e5m2", "all layer", "fp8", fp8_codes(torch.float8_e5m2), "fp8_code_table"),
    *_many(36, "fp8_is_fnuz", "all layer", "fp8", fp8_codes(torch.float8_e4m3fnuz), "fp8_fnuz"),
    *_many(36, "fp8_transposed", "all layer", "fp8", transposed, "weight_transposed"),
    Fault(38, "blocks_only", "all", "fp8", field.blocks_only, "tensor_missing", baseless=True),
    Fault(38, "norm_absent", "layer", "fp8", field.blocks_only, "tensor_missing", baseless=True),
    Fault(38, "wan_names_in_diffusers_folder", "all", "fp8", field.wan_names, "names_of_another_dialect"),
    Fault(38, "names_mixed", "half", "fp8", field.wan_names, "names_mixed"),
    Fault(38, "layers_without_prefix", "all", "fp8", field.wrong_layers, "layers_unmatched"),
    Fault(39, "lfs_pointer", "expert", "fp8", field.file_of(field.POINTER), "lfs_pointer"),
    Fault(39, "html_page", "expert", "fp8", field.file_of(field.PAGE), "html_page"),
    Fault(39, "zeros", "expert", "fp8", field.file_of(bytes(4096)), "other_file"),
    Fault(39, "gzip", "expert", "fp8", field.file_of(b"\x1f\x8b\x08" + bytes(range(64))), "other_file"),
    Fault(39, "pickle", "expert", "fp8", field.file_of(b"PK\x03\x04" + bytes(64)), "pickle_file", "inconclusive"),
    Fault(39, "no_tensors", "expert", "fp8", field.empty_file, "no_tensors", "inconclusive"),
    Fault(39, "gptq_3_bits", "all", "fp8", field.opaque, "format_not_decoded", "inconclusive"),
    *_many(40, "norms_in_fp8", "all layer", "fp8", field.eight_bit_norms, "dtype_differs"),
    *_many(40, "norms_in_fp8_without_base", "all layer", "fp8", field.eight_bit_norms, "dtype_differs", baseless=True),
    *_many(41, "no_second_level", "all layer", "nvfp4", field.first_level_only, "block_scale_subnormal", baseless=True),
    *_many(41, "scales_in_bf16", "all layer", "fp8", field.rounded_scales, "scale_dtype", severity="warning"),
    *_many(42, "input_scale_of_k", "all layer", "fp8", field.foreign_input(50), "input_scales_differ"),
    *_many(42, "input_scale_of_v", "all layer", "nvfp4", field.foreign_input(0.1, "to_v"), "input_scales_differ"),
    Fault(42, "input_scale_near", "all", "fp8", field.foreign_input(1.5), "input_scales_differ", "warning"),
    *_many(43, "scale_left_over", "all layer", "fp8", field.left_over, "scale_left_over"),
    *_many(43, "scale_orphaned", "all layer", "fp8", field.orphaned, "scale_orphaned"),
    Fault(43, "one_scale", "all", "fp8", field.one_scale, "scale_constant", baseless=True),
    Fault(43, "robbed_of_scales", "all", "fp8", field.robbed, "scale_missing"),
    Fault(43, "robbed_of_scales_without_base", "all", "fp8", field.robbed, "scale_missing", baseless=True),
    Fault(44, "nan_in_bf16", "layer", "base", field.broken_plain(float("nan")), "weights_nan", baseless=True),
    Fault(44, "zeros_in_bf16", "layer", "base", field.broken_plain(0), "weights_zero", "warning", baseless=True),
    Fault(45, "sparse_attention", "expert", "fp8", field.setting("sparse_attention_config", {"block": 64}),
          "config_key_added", "warning"),
    Fault(45, "eps", "expert", "fp8", field.setting("eps", 0.01), "config_differs"),
    *_many(46, "int8_gain", "all layer", "fp8", field.remade(written.int8(True), field.times("weight_scale", 2)),
           "gain"),
    *_many(46, "int8_scale_lost", "all layer", "fp8", field.remade(written.int8(True), field.without("weight_scale")),
           "scale_missing"),
    *_many(46, "int8_scale_zero", "all layer", "fp8", field.remade(written.int8(False), field.times("weight_scale", 0)),
           "global_scale_degenerate"),
    *_many(46, "int8_scale_shape", "all layer", "fp8", field.remade(written.int8(True), field.unfit), "scale_shape"),
    *_many(46, "int8_other_rows", "all layer", "fp8", field.remade(written.int8(False), field.other_rows),
           "weights_unrelated"),
    *_many(47, "mxfp8_exponent", "all layer", "fp8", field.remade(written.mxfp8(), field.plus_one), "gain"),
    *_many(47, "mxfp8_columns", "all layer", "fp8", field.remade(written.mxfp8(), field.half_of_them), "scale_columns"),
    *_many(47, "mxfp4_exponent", "all layer", "fp8", field.remade(written.mxfp4, field.plus_one), "gain"),
    *_many(47, "mxfp4_nibbles", "all layer", "fp8", field.remade(written.mxfp4, field.other_nibbles), "nibble_order"),
    *_many(48, "blocks_gain", "all layer", "fp8", field.remade(written.blocks, field.times("weight_scale_inv", 2)),
           "gain"),
    *_many(48, "e5m2_gain", "all layer", "fp8", field.remade(written.e5m2, field.times("weight_scale", 2)), "gain"),
    *_many(49, "nf4_gain", "all layer", "fp8",
           field.remade(written.nf4(), field.times("weight.absmax", 2), written.BITSANDBYTES), "gain"),
    *_many(49, "nf4_nibbles", "all layer", "fp8",
           field.remade(written.nf4(), field.other_nibbles, written.BITSANDBYTES), "weights_unrelated"),
    Fault(50, "gguf_cut_short", "expert", "fp8", field.cut_gguf, "header_invalid"),
    Fault(50, "gguf_exchanged", "both", "fp8", field.exchanged_gguf, "experts_swapped"),
)  # fmt: skip
LIBRARY_FAULTS: tuple[Fault, ...] = (
    Fault(50, "gguf_scales_doubled", "expert", "fp8", libraries.broken_q4, "gain"),
    Fault(51, "rotation_unmarked", "all", "fp8", libraries.unmarked_rotation, "rotation_differs"),
    Fault(51, "rotation_of_other_width", "all", "fp8", libraries.other_rotation, "rotation_differs"),
    Fault(51, "marker_of_another_format", "all", "fp8", libraries.marked_otherwise, "format_mismatch"),
    Fault(51, "marker_of_another_format", "baseless", "fp8", libraries.marked_otherwise, "format_mismatch",
          baseless=True),
    Fault(51, "nunchaku", "all", "fp8", libraries.nunchaku, "format_not_decoded", "inconclusive"),
    Fault(51, "same_level_twice", "one", "fp8", libraries.same_level_twice, "experts_identical"),
    Fault(52, "described_as_float", "layer", "fp8", libraries.described_wrongly("float"), "ignore_contradicted"),
    Fault(52, "described_as_quantized", "layer", "fp8", libraries.described_wrongly("quantized"), "ignore_incomplete"),
    Fault(52, "described_and_absent", "layer", "fp8", libraries.described_wrongly("absent"), "layers_unmatched"),
    Fault(53, "torchao_scale_lost", "all", "fp8", libraries.without_part("int8", "_weight_scale"), "scale_missing"),
    Fault(53, "torchao_second_level_lost", "all", "fp8",
          libraries.without_part("nvfp4", "_weight_per_tensor_scale"), "global_scale_missing"),
    Fault(53, "scb_divided", "all", "fp8",
          field.remade(libraries.half_scb, libraries.half_scb, {"quant_method": "bitsandbytes", "load_in_8bit": True}),
          "gain"),
    Fault(53, "compressed_global_direct", "all", "fp8", libraries.direct_global, "global_scale_inverted"),
    Fault(53, "quanto_int4", "all", "fp8", libraries.quanto_int4,
          "format_not_decoded", "inconclusive"),
    *_many(54, "scale_inv_is_inverse", "all layer", "fp8", field.remade(written.blocks, libraries.really_inverse),
           "gain"),
    *_many(54, "exponent_nan", "all layer", "fp8", field.remade(written.mxfp8(), libraries.nan_exponents),
           "weights_nan"),
    Fault(54, "rows_of_channel_scales", "all", "fp8", libraries.one_row, "row_gain"),
    Fault(54, "scale_rounded_then_widened", "all", "fp8", libraries.rounded_before, "scale_dtype", "warning"),
    Fault(55, "lora_merged", "5_percent", "fp8", libraries.merged(0.05), "base_stale"),
    Fault(55, "lora_merged", "1_percent", "fp8", libraries.merged(0.01), "base_stale"),
    Fault(56, "object_store_error", "expert", "fp8", field.file_of(libraries.DENIED), "html_page"),
    Fault(56, "json_error", "expert", "fp8", field.file_of(libraries.JSON_ERROR), "html_page"),
)  # fmt: skip
"""Written down with the right answer before they were run for the first time."""
PUBLISHED_FAULTS: tuple[Fault, ...] = (
    *_many(57, "lora", "comfy", "fp8", wild.alone(wild.COMFY_LORA), "not_a_transformer", severity="inconclusive"),
    *_many(57, "lora", "kohya", "fp8", wild.alone(wild.KOHYA_LORA), "not_a_transformer", severity="inconclusive"),
    *_many(57, "lora", "peft", "fp8", wild.alone(wild.PEFT_LORA), "not_a_transformer", severity="inconclusive",
           baseless=True),
    Fault(57, "vace_module", "alone", "fp8", wild.of(lambda edit: published.vace(edit, whole=False)),
          "not_a_transformer", "inconclusive"),
    Fault(57, "vae", "alone", "fp8", wild.alone(wild.VAE), "not_a_transformer", "inconclusive", baseless=True),
    Fault(57, "text_encoder", "alone", "fp8", wild.alone(wild.TEXT_ENCODER), "not_a_transformer", "inconclusive"),
    Fault(57, "mxfp6", "all", "fp8", wild.of(published.lightx2v_mxfp6),
          "format_not_decoded", "inconclusive"),
    Fault(58, "part_missing", "expert", "fp8", wild.part_missing, "shard_missing", baseless=True),
    Fault(58, "patch_embedding_flattened", "all", "fp8", wild.flattened, "shape_differs", baseless=True),
    Fault(58, "same_file_twice", "baseless", "fp8", wild.same_file_twice, "experts_identical", baseless=True),
    Fault(58, "marker_without_weight", "layer", "fp8", wild.marker_without_weight, "scale_orphaned"),
    Fault(58, "marker_of_plain_weight", "layer", "fp8", wild.marker_of_plain_weight, "format_mismatch", baseless=True),
    Fault(58, "other_channels", "all", "fp8", wild.other_channels, "config_contradicts_tensors", baseless=True),
    Fault(58, "vace_scales_lost", "all", "fp8", wild.of(lambda edit: published.vace(edit, scales=False)),
          "scale_missing"),
    Fault(58, "layerwise_norms_too", "all", "fp8", wild.of(lambda edit: published.layerwise(edit, norms=True)),
          "dtype_differs", baseless=True),
    *_many(59, "gptq_gain", "all", "fp8", wild.of(
        lambda edit: written.remake(edit, published.gptq(2.0), published.GPTQ)), "gain"),
    Fault(59, "awq_order", "all", "fp8", wild.of(
        lambda edit: written.remake(edit, published.awq((0, 1, 2, 3, 4, 5, 6, 7)), published.AWQ)),
          "weights_unrelated"),
    Fault(59, "zero_points_lost", "all", "fp8", wild.of(
        lambda edit: published.compressed(edit, 4, symmetric=False, keep_zeros=False)), "scale_missing",
        baseless=True),
    Fault(59, "smoothing_lost", "all", "fp8", wild.of(lambda edit: published.smoothed_int8(edit, keep=False)),
          "weights_unrelated"),
    *_many(60, "scales_of_other_rows", "all layer", "fp8", field.remade(written.int8(True), wild.shifted_rows),
           "scales_unrelated"),
    Fault(60, "block_scales_transposed", "all", "fp8", wild.transposed_blocks, "scales_unrelated"),
    Fault(60, "fused_in_another_order", "all", "fp8", wild.fused_in_another_order, "linears_exchanged"),
    Fault(60, "nf4_declared_fp4", "all", "fp8", wild.other_table, "weights_unrelated"),
)  # fmt: skip
"""Kinds that are published, written down with the right answer before they were run for the first time."""
VARIANT_FAULTS: tuple[Fault, ...] = (
    Fault(61, "marker_e4m3_of_e5m2", "all", "fp8", variants.marked_e4m3, "format_mismatch"),
    Fault(61, "marker_e4m3_of_e5m2", "baseless", "fp8", variants.marked_e4m3, "format_mismatch", baseless=True),
    Fault(61, "two_scales", "all", "fp8", variants.two_scales, "two_scales"),
    Fault(61, "two_scales", "baseless", "fp8", variants.two_scales, "two_scales", baseless=True),
    Fault(61, "dtype_lost", "all", "fp8", variants.plain_bytes, "dtype_lost"),
    Fault(61, "dtype_lost", "baseless", "fp8", variants.plain_bytes, "dtype_lost", baseless=True),
    Fault(61, "nf4_blocksize", "baseless", "fp8", variants.other_state(blocksize=128), "scale_shape", baseless=True),
    Fault(61, "nf4_declared_int8", "baseless", "fp8", variants.declared_eight_bits, "format_mismatch", baseless=True),
    Fault(61, "bias_far_off", "all", "fp8", variants.far_biases, "excluded_differs"),
    Fault(61, "f16_overflow", "row", "base", variants.overflowed, "weights_nan"),
    Fault(62, "distilled", "all", "fp8", variants.distilled, "wrong_base"),
    Fault(62, "block_absent", "middle", "fp8", variants.without_block, "tensor_missing", baseless=True),
    Fault(62, "vace_layers", "one", "fp8", variants.vace_layers, "tensor_missing"),
    Fault(62, "flux", "file", "fp8", variants.flux, "other_model", baseless=True),
)  # fmt: skip
"""Faults of `benchmarks.corpus.variants`."""
QUANTIZER_FAULTS: tuple[Fault, ...] = (
    Fault(63, "adapter_wrapped", "all", "base", further.unmerged(True), "adapters_unmerged"),
    Fault(63, "adapter_wrapped", "baseless", "base", further.unmerged(True), "adapters_unmerged", baseless=True),
    Fault(63, "adapter_beside", "all", "base", further.unmerged(False), "adapters_unmerged", "warning"),
    Fault(63, "q_for_k", "all", "fp8", further.renamed(further.q_for_k), "linears_exchanged"),
    Fault(63, "q_for_k", "bf16", "base", further.renamed(further.q_for_k), "linears_exchanged"),
    Fault(63, "blocks_moved", "all", "fp8", further.renamed(further.next_block), "linears_exchanged"),
    Fault(63, "blocks_moved", "bf16", "base", further.renamed(further.next_block), "linears_exchanged"),
    Fault(63, "half_prefixed", "all", "fp8", further.half_prefixed, "names_mixed"),
    Fault(63, "half_prefixed", "baseless", "fp8", further.half_prefixed, "names_mixed", baseless=True),
    Fault(64, "gptq_v1_called_v2", "all", "fp8", further.zero_points(0, "gptq_v2"), "zero_point_shifted"),
    Fault(64, "gptq_v2_called_v1", "all", "fp8", further.zero_points(1, "gptq"), "zero_point_shifted"),
    Fault(64, "int8_zero_moved", "all", "fp8",
          wild.of(lambda edit: further.asymmetric_int8(edit, 1)), "zero_point_shifted"),
    Fault(64, "gptq_group_size", "all", "fp8", further.group_size, "group_size_contradicted", baseless=True),
    Fault(64, "block_size", "all", "fp8",
          wild.of(lambda edit: further.power_of_two_blocks(edit, (64, 64))), "group_size_contradicted", baseless=True),
    Fault(64, "marker_cut", "all", "fp8", further.broken_marker, "config_invalid", baseless=True),
    Fault(64, "quant_state_cut", "all", "fp8", further.broken_state, "config_invalid", baseless=True),
    Fault(64, "nested_offset_lost", "all", "fp8", further.offset_lost, "global_scale_degenerate", baseless=True),
    Fault(64, "block_scales_as_u8", "all", "nvfp4", further.scales_as(torch.uint8), "dtype_lost", baseless=True),
    Fault(64, "block_scales_as_i8", "all", "nvfp4", further.scales_as(torch.int8), "dtype_lost"),
    Fault(64, "download_unfinished", "recorded", "fp8", further.unfinished, "download_unfinished", baseless=True),
    Fault(64, "download_unfinished", "zeros", "fp8", further.unfinished, "weights_zero"),
    Fault(65, "hqq", "all", "fp8", further.hqq, "format_not_decoded", "inconclusive"),
    Fault(65, "hqq", "baseless", "fp8", further.hqq, "format_not_decoded", "inconclusive", baseless=True),
    Fault(65, "unknown_layout", "all", "fp8", further.unknown_layout, "format_not_decoded", "inconclusive"),
)  # fmt: skip
"""Faults of `benchmarks.corpus.quantizers`."""
FAULTS = (*BASIC_FAULTS, *LIBRARY_FAULTS, *PUBLISHED_FAULTS, *VARIANT_FAULTS, *QUANTIZER_FAULTS)
