"""Valid checkpoints in every dialect that is in use: the inspector must say nothing against them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from benchmarks.corpus import libraries, published, quantizers, variants, written
from benchmarks.corpus.edit import Edit, Tensors, quantized, swap_nibbles, swizzle
from benchmarks.corpus.exports import EXPERTS
from benchmarks.corpus.mixed import mixed
from benchmarks.corpus.mutations import FP8, pack, stale

Make = Callable[[Edit], None]


@dataclass(frozen=True)
class Dialect:
    """One way to write a right checkpoint."""

    name: str
    recipe: str
    make: Make
    contracts: tuple[str, ...] = ()
    expected: Mapping[str, str] = field(default_factory=dict)
    override: bool = False
    """Inspect the base with this checkpoint's ``transformer`` as an override of the primary expert."""


def as_is(edit: Edit) -> None:
    """The exporter's own output."""


def every(edit: Edit, change: Callable[[Tensors, str], None]) -> None:
    """Change all quantized Linears of both experts."""
    for expert in EXPERTS:
        tensors = edit.tensors(expert)
        for module in quantized(tensors):
            change(tensors, module)
        edit.write(expert, tensors)


def declare(edit: Edit, **fields: Any) -> None:
    """Add fields to both experts' ``quantization_config``."""
    for expert in EXPERTS:
        edit.quantization(expert, lambda body: body.update(fields))


def sglang_converted(edit: Edit) -> None:
    """SGLang's converter: scalars of shape [1], ``quant_type`` and ``swap_weight_nibbles`` written out."""

    def change(tensors: Tensors, module: str) -> None:
        for suffix in ("weight_scale_2", "input_scale"):
            tensors[f"{module}.{suffix}"] = tensors[f"{module}.{suffix}"].reshape(1)

    every(edit, change)
    declare(edit, quant_type="NVFP4", swap_weight_nibbles=False)


def sglang_fp8(edit: Edit) -> None:
    """SGLang's FP8 converter divides in float32 and writes [1]."""
    for expert in EXPERTS:
        base = load_file(next((edit.base / expert).glob("*.safetensors")))
        tensors = edit.tensors(expert)
        for module in quantized(tensors):
            scale = tensors[f"{module}.weight_scale"].float()
            tensors[f"{module}.weight"] = (base[f"{module}.weight"].float() / scale).clamp(-448, 448).to(FP8)
            tensors[f"{module}.weight_scale"] = scale.reshape(1)
            tensors[f"{module}.input_scale"] = tensors[f"{module}.input_scale"].reshape(1)
        edit.write(expert, tensors)


def compressed_tensors(edit: Edit) -> None:
    """llm-compressor: ``weight_packed``, global scales as reciprocals of shape [1], ``nvfp4-pack-quantized``."""

    def change(tensors: Tensors, module: str) -> None:
        tensors[f"{module}.weight_packed"] = tensors.pop(f"{module}.weight")
        tensors[f"{module}.weight_global_scale"] = (1 / tensors.pop(f"{module}.weight_scale_2")).reshape(1)
        tensors[f"{module}.input_global_scale"] = (1 / tensors.pop(f"{module}.input_scale")).reshape(1)

    every(edit, change)
    for expert in EXPERTS:
        body = edit.config(expert)
        ignore = body["quantization_config"]["ignore"]
        weights = {"num_bits": 4, "type": "float", "group_size": 16, "strategy": "tensor_group", "symmetric": True}
        body["quantization_config"] = {
            "quant_method": "compressed-tensors",
            "format": "nvfp4-pack-quantized",
            "ignore": [f"re:{pattern.replace('.', chr(92) + '.').replace('*', '.*')}" for pattern in ignore],
            "config_groups": {"group_0": {"weights": weights, "targets": ["Linear"]}},
        }
        edit.write_config(expert, body)


def comfy(edit: Edit) -> None:
    """Comfy / BFL: high nibble first, swizzled scales, a ``comfy_quant`` marker at each Linear."""
    marker = torch.frombuffer(bytearray(b'{"format": "nvfp4"}'), dtype=torch.uint8)

    def change(tensors: Tensors, module: str) -> None:
        tensors[f"{module}.weight"] = swap_nibbles(tensors[f"{module}.weight"])
        tensors[f"{module}.weight_scale"] = swizzle(tensors[f"{module}.weight_scale"])
        tensors[f"{module}.comfy_quant"] = marker

    every(edit, change)
    for expert in EXPERTS:
        body = edit.config(expert)
        body.pop("quantization_config")
        edit.write_config(expert, body)


def swizzled_declared(edit: Edit) -> None:
    def change(tensors: Tensors, module: str) -> None:
        tensors[f"{module}.weight_scale"] = swizzle(tensors[f"{module}.weight_scale"])

    every(edit, change)
    declare(edit, checkpoint_weight_scale_layout="swizzled")


def four_over_six(edit: Edit) -> None:
    """ "4 over 6": each block takes 6 or 4 as its largest code, whichever errs less; ws2 = amax / (6 * 256)."""
    for expert in EXPERTS:
        base = load_file(next((edit.base / expert).glob("*.safetensors")))
        tensors = edit.tensors(expert)
        for module in quantized(tensors):
            weight = base[f"{module}.weight"].float()
            blocks = weight.reshape(len(weight), -1, 16)
            outer = weight.abs().amax() / (6 * 256)
            best = (torch.empty(0), torch.empty(0))
            least = torch.full(blocks.shape[:2], float("inf"))
            for largest in (6.0, 4.0):
                scale = (blocks.abs().amax(-1) / (largest * outer)).clamp(2**-9, 448).to(FP8)
                codes = pack(blocks / (scale.float() * outer)[..., None]).reshape(*scale.shape, 8)
                error = (decode(codes) * (scale.float() * outer)[..., None] - blocks).square().sum(-1)
                if best[0].numel():
                    better = error < least
                    codes = torch.where(better[..., None], codes, best[0])
                    scale = torch.where(better, scale.view(torch.uint8), best[1].view(torch.uint8)).view(FP8)
                best, least = (codes, scale), error
            tensors[f"{module}.weight"] = best[0].reshape(len(weight), -1).contiguous()
            tensors[f"{module}.weight_scale"], tensors[f"{module}.weight_scale_2"] = best[1], outer
        edit.write(expert, tensors)


def decode(codes: torch.Tensor) -> torch.Tensor:
    """E2M1 values of packed bytes, low nibble first."""
    table = torch.tensor([0, 0.5, 1, 1.5, 2, 3, 4, 6, -0.0, -0.5, -1, -1.5, -2, -3, -4, -6])
    both = torch.stack([codes & 15, codes >> 4], -1).reshape(*codes.shape[:-1], -1)
    return table[both.long()]


def sharded(edit: Edit) -> None:
    for expert in EXPERTS:
        edit.split(expert, 3)


def old_config(edit: Edit) -> None:
    """``hf_quant_config.json`` beside the weights, nothing in ``config.json``."""
    for expert in EXPERTS:
        _declare_the_old_way(edit, expert, edit.folder / expert)


def _declare_the_old_way(edit: Edit, expert: str, place: Path) -> None:
    """Move one expert's declaration out of its ``config.json`` into ``hf_quant_config.json`` at ``place``."""
    body = edit.config(expert)
    new = body.pop("quantization_config")
    edit.write_config(expert, body)
    section = {"quant_algo": new["quant_algo"], "exclude_modules": new["ignore"], "group_size": 16}
    old = {"producer": new["producer"], "quantization": section}
    (place / "hf_quant_config.json").write_text(json.dumps(old), encoding="utf-8")


def shard_metadata(edit: Edit) -> None:
    """The declaration only in ``__metadata__`` of the shard, as ModelOpt's single-file post-processing writes it."""
    for expert in EXPERTS:
        body = edit.config(expert)
        new = body.pop("quantization_config")
        tensors = edit.tensors(expert)
        edit.write_config(expert, body)
        edit.write(expert, tensors, {"quantization_config": json.dumps(new)})


def dynamic_inputs(edit: Edit) -> None:
    """No input scales, and the config says that activations are scaled while running."""

    def change(tensors: Tensors, module: str) -> None:
        tensors.pop(f"{module}.input_scale", None)

    every(edit, change)
    declare(edit, dynamic_input_scale=True)


def again(edit: Edit) -> None:
    """The control of the stale mutants: the same remake from the unchanged base, each Linear with its own scales."""
    stale(0.0)(edit, "all")


def mixed_weight_only(edit: Edit) -> None:
    mixed(edit, weight_only=True)


def comfy_two_formats(edit: Edit) -> None:
    """Comfy's ``_quantization_metadata`` in the shard, a format a layer, nothing in ``config.json``."""
    mixed(edit)
    for expert in EXPERTS:
        body, tensors = edit.config(expert), edit.tensors(expert)
        listed = body.pop("quantization_config")["quantized_layers"]
        layers = {
            name: {"format": "nvfp4" if entry["quant_algo"] == "NVFP4" else "float8_e4m3fn"}
            for name, entry in listed.items()
        }
        edit.write_config(expert, body)
        edit.write(expert, tensors, {"_quantization_metadata": json.dumps({"format_version": "1.0", "layers": layers})})


def variant_beside(edit: Edit) -> None:
    """Weights of another precision in the same folder, ``….fp16.safetensors``, as diffusers calls a variant."""
    for expert in EXPERTS:
        edit.own(expert)
        (shard,) = edit.shards(expert)
        shutil.copy(shard, shard.with_name(shard.name.replace(".safetensors", ".fp16.safetensors")))


def scaled_fp8(edit: Edit) -> None:
    """Comfy's older FP8: ``scale_weight`` and ``scale_input``, and no declaration but the names."""

    def change(tensors: Tensors, module: str) -> None:
        tensors[f"{module}.scale_weight"] = tensors.pop(f"{module}.weight_scale")
        tensors[f"{module}.scale_input"] = tensors.pop(f"{module}.input_scale")

    every(edit, change)
    for expert in EXPERTS:
        body = edit.config(expert)
        body.pop("quantization_config")
        edit.write_config(expert, body)


def root_config(edit: Edit) -> None:
    """One ``hf_quant_config.json`` at the root, and a second expert that stays in BF16."""
    _declare_the_old_way(edit, "transformer", edit.folder)
    (edit.folder / "transformer_2").unlink()
    (edit.folder / "transformer_2").symlink_to(edit.base / "transformer_2", target_is_directory=True)


def channel_column(edit: Edit) -> None:
    def change(tensors: Tensors, module: str) -> None:
        tensors[f"{module}.weight_scale"] = tensors[f"{module}.weight_scale"].reshape(-1, 1)

    every(edit, change)


def single_transformer(edit: Edit) -> None:
    """One transformer with its files at the root, as the lmsys overrides are published."""
    place = edit.own("transformer")
    for file in place.iterdir():
        file.rename(edit.folder / file.name)
    place.rmdir()
    (edit.folder / "transformer_2").unlink()
    (edit.folder / "model_index.json").unlink()


def modelopt_fp8(edit: Edit) -> dict[str, Any]:
    """ModelOpt's declaration of FP8 weights alone."""
    return {"quant_method": "modelopt", "quant_algo": "W8A16_FP8", "ignore": written.kept(edit)}


def in_blocks(edit: Edit) -> dict[str, Any]:
    """DeepSeek's declaration."""
    skip = written.kept(edit)
    return {"quant_method": "fp8", "fmt": "e4m3", "weight_block_size": [128, 128], "modules_to_not_convert": skip}


def microscaling(edit: Edit, algo: str) -> dict[str, Any]:
    """ModelOpt's declaration of a microscaling format."""
    return {"quant_method": "modelopt", "quant_algo": algo, "ignore": written.kept(edit)}


BOTH = {"transformer": "nvfp4", "transformer_2": "nvfp4"}
NEW = ("sglang==0.5.13", "sglang==0.5.23")
BASIC_DIALECTS: tuple[Dialect, ...] = (
    Dialect("modelopt NVFP4", "nvfp4", as_is, NEW, BOTH),
    Dialect("modelopt FP8 per tensor", "fp8", as_is, ("sglang==0.5.12", *NEW)),
    Dialect("modelopt FP8 per channel", "fp8_channel", as_is),
    Dialect("FP8 per channel [N, 1]", "fp8_channel", channel_column),
    Dialect("SGLang-converted NVFP4", "nvfp4", sglang_converted, ("sglang==0.5.12", *NEW), BOTH),
    Dialect("SGLang-converted FP8", "fp8", sglang_fp8, ("sglang==0.5.12", *NEW)),
    Dialect("compressed-tensors NVFP4", "nvfp4", compressed_tensors),
    Dialect("Comfy / BFL with markers", "nvfp4", comfy, ("sglang==0.5.23",)),
    Dialect("swizzled and declared", "nvfp4", swizzled_declared, ("sglang==0.5.23",)),
    Dialect("4 over 6", "nvfp4", four_over_six, NEW),
    Dialect("AWQ", "nvfp4_awq", as_is),
    Dialect("SVDQuant", "nvfp4_svdquant", as_is),
    Dialect("sharded with an index", "nvfp4", sharded, NEW),
    Dialect("old hf_quant_config.json", "nvfp4", old_config, NEW),
    Dialect("declared in shard metadata", "nvfp4", shard_metadata, NEW),
    Dialect("exported again without QKV fusion", "nvfp4", again, NEW),
    Dialect("dynamic input scales", "nvfp4", dynamic_inputs),
    Dialect(
        "primary-only override",
        "nvfp4",
        single_transformer,
        NEW,
        {"transformer": "nvfp4", "transformer_2": "bf16"},
        override=True,
    ),
    Dialect("modelopt NVFP4, base in float32", "nvfp4_wide", as_is, NEW, BOTH),
    Dialect("modelopt FP8, base in float32", "fp8_wide", as_is, NEW),
    Dialect("NVFP4 made from float32 itself", "nvfp4_wide", again, NEW),
    Dialect("modelopt mixed precision", "nvfp4", mixed),
    Dialect("modelopt mixed precision, NVFP4 weights only", "nvfp4", mixed_weight_only),
    Dialect("Comfy with two formats", "nvfp4", comfy_two_formats),
    Dialect("with a variant beside it", "nvfp4", variant_beside, NEW),
    Dialect("Comfy scaled FP8", "fp8", scaled_fp8),
    Dialect("declared at the root, one expert BF16", "nvfp4", root_config),
    Dialect("BF16", "base", as_is, NEW),
    Dialect("FP8 cast E4M3", "fp8", lambda edit: written.remake(edit, written.cast(FP8))),
    Dialect("FP8 cast E5M2", "fp8", lambda edit: written.remake(edit, written.cast(torch.float8_e5m2))),
    Dialect("FP8 E5M2 per tensor", "fp8", lambda edit: written.remake(edit, written.e5m2, modelopt_fp8(edit))),
    Dialect("FP8 in blocks of 128", "fp8", lambda edit: written.remake(edit, written.blocks, in_blocks(edit))),
    Dialect("FP8 with modules_to_not_convert", "fp8", written.unquoted),
    Dialect("INT8 per channel (LightX2V)", "fp8", lambda edit: written.remake(edit, written.int8(True))),
    Dialect("INT8 per tensor", "fp8", lambda edit: written.remake(edit, written.int8(False))),
    Dialect("MXFP8", "fp8", lambda edit: written.remake(edit, written.mxfp8(), microscaling(edit, "MXFP8"))),
    Dialect(
        "MXFP8, swizzled", "fp8", lambda edit: written.remake(edit, written.mxfp8(True), microscaling(edit, "MXFP8"))
    ),
    Dialect("MXFP4", "fp8", lambda edit: written.remake(edit, written.mxfp4, microscaling(edit, "MXFP4"))),
    Dialect("bitsandbytes NF4", "fp8", lambda edit: written.remake(edit, written.nf4(), written.BITSANDBYTES)),
    Dialect(
        "bitsandbytes NF4, double", "fp8", lambda edit: written.remake(edit, written.nf4(True), written.BITSANDBYTES)
    ),
    Dialect("torchao Float8", "fp8", written.torchao),
    Dialect("optimum-quanto INT8", "fp8", lambda edit: written.quanto(edit, "int8")),
    Dialect("optimum-quanto FP8", "fp8", lambda edit: written.quanto(edit, "fp8")),
    Dialect("compressed-tensors FP8", "fp8", lambda edit: written.compressed(edit, "fp8")),
    Dialect("compressed-tensors INT8", "fp8", lambda edit: written.compressed(edit, "int8")),
    Dialect("GGUF Q8_0", "fp8", lambda edit: written.gguf(edit, "Q8_0")),
    Dialect("GGUF Q5_0", "fp8", lambda edit: written.gguf(edit, "Q5_0")),
    Dialect("GGUF Q4_0", "fp8", lambda edit: written.gguf(edit, "Q4_0")),
    Dialect("Comfy scaled FP8, two files, Wan's names", "fp8", written.scaled_single_files),
    Dialect("Comfy with a format per layer and a prefix", "fp8", written.layered_single_files),
    Dialect("LightX2V NVFP4", "nvfp4", written.lightx2v_nvfp4),
    Dialect("NVFP4 with input_scale 1", "nvfp4", written.input_scale_one),
    Dialect("packed QKV, INT8 per channel", "fp8", written.packed_qkv),
    Dialect("_orig_mod. in front", "fp8", written.compiled),
    Dialect("Wan's own repository, BF16", "base", written.wan_repository),
)
LIBRARY_DIALECTS: tuple[Dialect, ...] = (
    Dialect("GGUF Q6_K (ggml)", "fp8", lambda edit: libraries.gguf(edit, "Q6_K")),
    Dialect("GGUF Q5_K (ggml)", "fp8", lambda edit: libraries.gguf(edit, "Q5_K", "F16")),
    Dialect("GGUF Q4_K (ggml)", "fp8", lambda edit: libraries.gguf(edit, "Q4_K", "F16")),
    Dialect("GGUF Q3_K (ggml)", "fp8", lambda edit: libraries.gguf(edit, "Q3_K")),
    Dialect("GGUF Q2_K (ggml)", "fp8", lambda edit: libraries.gguf(edit, "Q2_K")),
    Dialect("GGUF IQ4_XS (ggml)", "fp8", lambda edit: libraries.gguf(edit, "IQ4_XS")),
    Dialect("GGUF F16", "fp8", lambda edit: libraries.gguf(edit, "F16")),
    Dialect("comfy-kitchen INT8, rotated by 256", "fp8", lambda edit: libraries.comfy(edit, "convrot")),
    Dialect("comfy-kitchen INT8, rotated by 64", "fp8", lambda edit: libraries.comfy(edit, "convrot", 64)),
    Dialect("comfy-kitchen INT8 per channel", "fp8", lambda edit: libraries.comfy(edit, "int8")),
    Dialect("comfy-kitchen INT8 per tensor", "fp8", lambda edit: libraries.comfy(edit, "int8_scalar", single=False)),
    Dialect("comfy-kitchen NVFP4", "fp8", lambda edit: libraries.comfy(edit, "nvfp4")),
    Dialect("comfy-kitchen MXFP8", "fp8", lambda edit: libraries.comfy(edit, "mxfp8")),
    Dialect("comfy-kitchen FP8", "fp8", lambda edit: libraries.comfy(edit, "fp8")),
    Dialect("ComfyUI, a whole pipeline per file", "fp8", libraries.whole_pipeline),
    Dialect("Kijai scaled FP8 E4M3", "fp8", libraries.kijai),
    Dialect("Kijai scaled FP8 E5M2", "fp8", lambda edit: libraries.kijai(edit, torch.float8_e5m2)),
    Dialect("torchao INT8", "fp8", lambda edit: libraries.torchao(edit, "int8")),
    Dialect("torchao MXFP8", "fp8", lambda edit: libraries.torchao(edit, "mxfp8")),
    Dialect("torchao NVFP4", "fp8", lambda edit: libraries.torchao(edit, "nvfp4")),
    Dialect("bitsandbytes FP4", "fp8", lambda edit: libraries.bitsandbytes(edit, "fp4")),
    Dialect("bitsandbytes NF4 in blocks of 128", "fp8", lambda edit: libraries.bitsandbytes(edit, "nf4", 128)),
    Dialect("bitsandbytes LLM.int8", "fp8", lambda edit: libraries.bitsandbytes(edit, "int8")),
    Dialect("compressed-tensors' NVFP4 compressor", "fp8", lambda edit: libraries.compressed(edit, "nvfp4")),
    Dialect("compressed-tensors FP8 in blocks", "fp8", lambda edit: libraries.compressed(edit, "block")),
    Dialect("optimum-quanto FP8 E5M2", "fp8", lambda edit: libraries.quanto(edit, "e5m2")),
    Dialect("msModelSlim W8A8_DYNAMIC", "fp8", libraries.modelslim),
    Dialect("msModelSlim W8A8", "fp8", lambda edit: libraries.modelslim(edit, "W8A8")),
    Dialect("msModelSlim W8A8_MXFP8", "fp8", lambda edit: libraries.modelslim(edit, "W8A8_MXFP8")),
    Dialect("LightX2V FP8, a file per block", "fp8", libraries.lightx2v_blocks),
    Dialect("FSDP's prefix", "fp8", lambda edit: libraries.prefixed(edit, "_fsdp_wrapped_module.")),
    Dialect("F16, two single files", "base", libraries.half),
)
"""Written down with the right answer before they were run for the first time."""
PUBLISHED_DIALECTS: tuple[Dialect, ...] = (
    Dialect("ComfyUI FP8, marker of no elements behind a prefix", "fp8", published.empty_marker),
    Dialect("ComfyUI FP8 with layers in full precision", "fp8", published.full_precision_layers),
    Dialect("ComfyUI FP8 stored as bytes", "fp8", lambda edit: written.remake(edit, published.as_bytes)),
    Dialect("Musubi Tuner FP8 in groups [N, G, 1]", "fp8", lambda edit: written.remake(edit, published.musubi_groups)),
    Dialect("Kijai FP8 with VACE's blocks", "fp8", published.vace),
    Dialect("ModelOpt FP8_PB_WO [N / 128, 1, K / 128, 1]", "fp8", published.square_blocks),
    Dialect("ModelOpt INT4 AWQ", "fp8", published.smoothed_int4),
    Dialect("ModelOpt INT8 SmoothQuant", "fp8", published.smoothed_int8),
    Dialect("compressed-tensors W4A16", "fp8", lambda edit: published.compressed(edit, 4)),
    Dialect("compressed-tensors W4A16_ASYM", "fp8", lambda edit: published.compressed(edit, 4, symmetric=False)),
    Dialect("compressed-tensors W8A16 in words", "fp8", lambda edit: published.compressed(edit, 8)),
    Dialect("GPTQ", "fp8", lambda edit: written.remake(edit, published.gptq(), published.GPTQ)),
    Dialect("AWQ (AutoAWQ)", "fp8", lambda edit: written.remake(edit, published.awq(), published.AWQ)),
    Dialect("optimum-quanto qint4", "fp8", published.quanto_four),
    Dialect("optimum-quanto INT8 with scales of activations", "fp8", published.quanto_with_activations),
    Dialect("comfy-kitchen ConvRot W4A4", "fp8", lambda edit: libraries.comfy(edit, "w4a4")),
    Dialect("comfy-kitchen AWQ W4A16", "fp8", lambda edit: written.remake(edit, published.comfy_awq)),
    Dialect("comfy-kitchen SVDQuant W4A4", "fp8", lambda edit: written.remake(edit, published.comfy_svdquant)),
    Dialect("torchao 4-bit codes in bytes", "fp8", published.torchao_intx),
    Dialect("bitsandbytes NF4 stored as BF16", "fp8", lambda edit: written.remake(
        edit, published.nf4_as_bf16, {**written.BITSANDBYTES, "bnb_4bit_quant_storage": "bfloat16"})),
    Dialect("LightX2V NVFP4, weights only", "nvfp4", published.lightx2v_weights_only),
    Dialect("Diffusers' layerwise cast", "fp8", published.layerwise),
)  # fmt: skip
"""Kinds that are published, written down with the right answer before they were run for the first time."""
VARIANT_DIALECTS: tuple[Dialect, ...] = (
    Dialect("ComfyUI FP8 cast with scales of 1", "fp8", variants.unit_scales),
    Dialect("FP8 with learned rounding", "fp8", lambda edit: variants.single(edit, variants.learned_rounding)),
    Dialect("FP8 with corrected biases", "fp8", lambda edit: variants.single(edit, variants.corrected_biases(1.0))),
    Dialect("MXFP8 with a scale per tensor too", "fp8", lambda edit: variants.single(edit, variants.hybrid_mxfp8)),
    Dialect("FP8 with a scale under two names", "fp8", variants.same_scale_twice),
    Dialect("Animate, scaled FP8", "fp8", variants.animate),
)
"""Wan's variants, and converters that change more than the weights."""
MODELOPT_DIALECTS: tuple[Dialect, ...] = (
    Dialect("ModelOpt FP8 in blocks (its exporter)", "fp8", variants.modelopt("FP8_2D_BLOCKWISE_WEIGHT_ONLY_CFG")),
    Dialect("ModelOpt W4A8_NVFP4_FP8", "fp8", variants.modelopt("W4A8_NVFP4_FP8_CFG")),
    Dialect("ModelOpt compressed in memory", "fp8", variants.compressed_in_memory),
    Dialect("ModelOpt fake quantization in BF16", "fp8", variants.fake_quantized),
)
"""ModelOpt's further formats, written by itself."""
QUANTIZER_DIALECTS: tuple[Dialect, ...] = (
    Dialect("compressed-tensors' MXFP4 compressor", "fp8", lambda edit: quantizers.compressed(edit, "mxfp4")),
    Dialect("compressed-tensors' MXFP8 compressor", "fp8", lambda edit: quantizers.compressed(edit, "mxfp8")),
    Dialect("compressed-tensors INT8, asymmetric", "fp8", quantizers.asymmetric_int8),
    Dialect("fbgemm FP8 with upper bounds", "fp8", quantizers.fbgemm),
    Dialect("FP8 in blocks of 128, scales as powers of two", "fp8", quantizers.power_of_two_blocks),
    Dialect("Quark FP8", "fp8", lambda edit: quantizers.quark(edit, "fp8_e4m3")),
    Dialect("Quark MXFP4", "fp8", lambda edit: quantizers.quark(edit, "fp4")),
    Dialect("FP8 with scales of attention", "fp8", quantizers.attention_scales),
    Dialect("Comfy-Org's repository", "fp8", quantizers.comfy_repository),
    Dialect("two prefixes of a trainer", "fp8", lambda edit: libraries.prefixed(edit, "generator_ema.model.")),
    Dialect("GPTQ v2", "fp8", lambda edit: quantizers.zero_points(1, "gptq_v2")(edit, "")),
)
"""Further quantizers and layouts of repositories."""
DIALECTS = (
    *BASIC_DIALECTS,
    *LIBRARY_DIALECTS,
    *PUBLISHED_DIALECTS,
    *VARIANT_DIALECTS,
    *MODELOPT_DIALECTS,
    *QUANTIZER_DIALECTS,
)


def make(dialect: Dialect, exports: Path, folder: Path) -> Path:
    """Write one dialect."""
    edit = Edit(exports / dialect.recipe, folder)
    dialect.make(edit)
    return folder
