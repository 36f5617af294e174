"""Right checkpoints of kinds that are published for Wan2.x, each with its answer written before its first run.

ComfyUI's and Kijai's files, Musubi Tuner's groups, VACE's blocks, ModelOpt's further recipes, Diffusers' layerwise
casts, packed integers of GPTQ, AWQ, compressed-tensors and quanto.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from safetensors.torch import save_file

from benchmarks.corpus import libraries, written
from benchmarks.corpus.edit import Edit, Tensors, quantized, swizzle
from benchmarks.corpus.exports import EXPERTS
from benchmarks.corpus.mutations import FP8
from benchmarks.corpus.written import Linear

GROUP = 64
"""Columns that share a scale in the packed integers below."""


def per_tensor(name: str = "scale_weight") -> Linear:
    """FP8 with one scale under a name."""

    def change(tensors: Tensors, module: str, weight: torch.Tensor) -> None:
        scale = weight.abs().max() / 448
        tensors[f"{module}.weight"], tensors[f"{module}.{name}"] = (weight / scale).to(FP8), scale

    return change


def both(*parts: Linear) -> Linear:
    """Several changes of a Linear, one after the other."""

    def change(tensors: Tensors, module: str, weight: torch.Tensor) -> None:
        for part in parts:
            part(tensors, module, weight)

    return change


def rewrite(edit: Edit, change: Callable[[Tensors], Tensors]) -> None:
    """Change all tensors of both experts."""
    for expert in EXPERTS:
        edit.write(expert, change(edit.tensors(expert)))


def single(edit: Edit, prefix: str = "", extra: Tensors | None = None) -> None:
    """Each expert as one file under Wan's names, with further tensors under the names that they have."""
    for expert in EXPERTS:
        body = {f"{prefix}{written.wan_name(name)}": value for name, value in edit.tensors(expert).items()}
        body = {name: value.contiguous().clone() for name, value in (body | (extra or {})).items()}
        save_file(body, edit.folder / f"wan2.2_t2v_{written.NOISE[expert]}_noise_14B.safetensors")
    written.drop_folders(edit)


# ComfyUI, Kijai, Musubi Tuner.


def empty_marker(edit: Edit) -> None:
    """ComfyUI's older FP8 behind its prefix: ``scaled_fp8`` of no elements, norms in F32 and biases in F16."""
    written.remake(edit, per_tensor())

    def cast(tensors: Tensors) -> Tensors:
        return {n: v.half() if n.endswith(".bias") else v.float() if "norm" in n else v for n, v in tensors.items()}

    rewrite(edit, cast)
    single(edit, "model.diffusion_model.", {"model.diffusion_model.scaled_fp8": torch.zeros(0, dtype=FP8)})


def full_precision_layers(edit: Edit) -> None:
    """ComfyUI's marked FP8: some layers multiply in full precision, and only the others have a scale of activations."""

    def linear(tensors: Tensors, module: str, weight: torch.Tensor) -> None:
        per_tensor("weight_scale")(tensors, module, weight)
        full = {"full_precision_matrix_mult": True} if ".ffn." in module else {}
        tensors[f"{module}.comfy_quant"] = libraries.marker(format="float8_e4m3fn", **full)
        if not full:
            tensors[f"{module}.input_scale"] = torch.tensor(0.02)

    written.remake(edit, linear)
    single(edit, "model.diffusion_model.")


def as_bytes(tensors: Tensors, module: str, weight: torch.Tensor) -> None:
    """FP8 codes in a tensor of bytes: the marker alone states their type."""
    per_tensor("weight_scale")(tensors, module, weight)
    tensors[f"{module}.weight"] = tensors[f"{module}.weight"].view(torch.uint8)
    tensors[f"{module}.comfy_quant"] = libraries.marker(format="float8_e4m3fn")


def musubi_groups(tensors: Tensors, module: str, weight: torch.Tensor) -> None:
    """Musubi Tuner's FP8 in groups of columns: ``scale_weight`` [N, groups, 1]."""
    groups = weight.reshape(len(weight), -1, GROUP)
    scale = groups.abs().amax(2, keepdim=True) / 448
    tensors[f"{module}.weight"] = (groups / scale).reshape(weight.shape).to(FP8)
    tensors[f"{module}.scale_weight"] = scale


def vace_blocks(tensors: Tensors) -> Tensors:
    """Two blocks of VACE in FP8, copies of block 2 with a projection each, and their patch embedding."""
    generator = torch.Generator().manual_seed(1)
    extra: Tensors = {}
    for number in range(2):
        for name, value in tensors.items():
            if name.startswith("blocks.2."):
                extra[f"vace_blocks.{number}.{name.removeprefix('blocks.2.')}"] = value
        per_tensor()(extra, f"vace_blocks.{number}.after_proj", torch.randn(192, 192, generator=generator) * 0.02)
    extra["vace_patch_embedding.weight"] = torch.randn(192, 96, 1, 2, 2, generator=generator) * 0.02
    return extra


def vace(edit: Edit, whole: bool = True, scales: bool = True) -> None:
    """Kijai's files with VACE's blocks, over the base of T2V: beside the transformer's own (``whole``), or alone."""
    written.remake(edit, per_tensor())
    for expert in EXPERTS:
        body = {written.wan_name(name): value for name, value in edit.tensors(expert).items()}
        extra = vace_blocks(body)
        if not scales:
            extra = {name: value for name, value in extra.items() if not name.endswith(".scale_weight")}
        body = {name: value.contiguous().clone() for name, value in ((body if whole else {}) | extra).items()}
        save_file(body, edit.folder / f"Wan2_2-VACE-{written.NOISE[expert].upper()}_fp8.safetensors")
    written.drop_folders(edit)


def comfy_awq(tensors: Tensors, module: str, weight: torch.Tensor) -> None:
    """comfy-kitchen's AWQ W4A16: ``(code - 8) * scale + zero``, both [groups, N]."""
    groups = weight.reshape(len(weight), -1, GROUP)
    low, high = groups.amin(2), groups.amax(2)
    scale = (high - low).clamp(min=1e-9) / 15
    zero = low + 8 * scale
    codes = ((groups - zero[..., None]) / scale[..., None] + 8).round().clamp(0, 15).reshape(weight.shape)
    tensors[f"{module}.weight"] = pairs(codes)
    tensors[f"{module}.weight_scale"], tensors[f"{module}.weight_zeros"] = scale.T.contiguous(), zero.T.contiguous()
    tensors[f"{module}.comfy_quant"] = libraries.marker(format="awq_w4a16")


def comfy_svdquant(tensors: Tensors, module: str, weight: torch.Tensor) -> None:
    """comfy-kitchen's SVDQuant W4A4: smoothed codes, scales [groups, N], and a low-rank part in full precision."""
    smooth = torch.exp(0.2 * torch.randn(weight.shape[1], generator=torch.Generator().manual_seed(4)))
    left, values, right = torch.linalg.svd(weight, full_matrices=False)
    up, down = left[:, :16] * values[:16], right[:16].T
    groups = ((weight - up @ down.T) * smooth).reshape(len(weight), -1, GROUP)
    scale = groups.abs().amax(2).clamp(min=1e-9) / 7
    tensors[f"{module}.weight"] = pairs((groups / scale[..., None]).round().clamp(-7, 7).reshape(weight.shape))
    tensors[f"{module}.weight_scale"] = scale.T.contiguous()
    tensors[f"{module}.weight_proj_up"], tensors[f"{module}.weight_proj_down"] = up.contiguous(), down.contiguous()
    tensors[f"{module}.weight_smooth_factor"] = smooth
    tensors[f"{module}.comfy_quant"] = libraries.marker(format="svdquant_w4a4")


def pairs(codes: torch.Tensor) -> torch.Tensor:
    """Two codes per byte, the even column in the low nibble, as int8 [N, K / 2]."""
    whole = codes.to(torch.int16) & 15
    return (whole[:, ::2] | (whole[:, 1::2] << 4)).to(torch.uint8).view(torch.int8)


# ModelOpt's further recipes.


def modelopt(edit: Edit, algo: str, **more: Any) -> dict[str, Any]:
    """ModelOpt's declaration."""
    return {"quant_method": "modelopt", "quant_algo": algo, "ignore": written.kept(edit), **more}


def square_blocks(edit: Edit, change: Callable[[torch.Tensor], torch.Tensor] = lambda scale: scale) -> None:
    """FP8_PB_WO: a scale per 128 x 128 block, stored as [N / 128, 1, K / 128, 1]."""

    def linear(tensors: Tensors, module: str, weight: torch.Tensor) -> None:
        written.blocks(tensors, module, weight)
        scale = change(tensors.pop(f"{module}.weight_scale_inv"))
        tensors[f"{module}.weight_scale"] = scale.reshape(scale.shape[0], 1, scale.shape[1], 1).contiguous()

    written.remake(edit, linear, modelopt(edit, "FP8_PB_WO"))


def smoothed_int4(edit: Edit) -> None:
    """W4A16_AWQ: two rows per byte, a scale per group, and ``pre_quant_scale``."""
    from modelopt.torch.export.quant_utils import pack_int4_in_uint8

    generator = torch.Generator().manual_seed(3)

    def linear(tensors: Tensors, module: str, weight: torch.Tensor) -> None:
        smooth = torch.exp(0.2 * torch.randn(weight.shape[1], generator=generator)).to(torch.bfloat16)
        turned = weight / smooth.float()
        scale = turned.reshape(len(weight), -1, GROUP).abs().amax(2) / 7
        tensors[f"{module}.weight"] = pack_int4_in_uint8(turned, scale, GROUP)
        tensors[f"{module}.weight_scale"], tensors[f"{module}.pre_quant_scale"] = scale, smooth

    written.remake(edit, linear, modelopt(edit, "W4A16_AWQ", group_size=GROUP, pre_quant_scale=True))


def smoothed_int8(edit: Edit, keep: bool = True) -> None:
    """W8A8_SQ_PER_CHANNEL: INT8 rows of smoothed weights, with ``pre_quant_scale`` or (a fault) without."""
    generator = torch.Generator().manual_seed(3)

    def linear(tensors: Tensors, module: str, weight: torch.Tensor) -> None:
        smooth = torch.exp(0.5 * torch.randn(weight.shape[1], generator=generator)).to(torch.bfloat16)
        turned = weight / smooth.float()
        scale = turned.abs().amax(1) / 127
        tensors[f"{module}.weight"] = (turned / scale[:, None]).round().to(torch.int8)
        tensors[f"{module}.weight_scale"], tensors[f"{module}.input_scale"] = scale, torch.tensor(0.02)
        if keep:
            tensors[f"{module}.pre_quant_scale"] = smooth

    written.remake(edit, linear, modelopt(edit, "W8A8_SQ_PER_CHANNEL"))


# Packed integers.


def words(codes: torch.Tensor) -> torch.Tensor:
    """Eight unsigned codes of 4 bits per word along the last axis, lowest bits first, as int32."""
    parts = codes.to(torch.int64).reshape(*codes.shape[:-1], -1, 8)
    packed = (parts << (4 * torch.arange(8))).sum(-1)
    return torch.where(packed >= 2**31, packed - 2**32, packed).to(torch.int32)


def affine(weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Codes [N, K] in 0 to 15, scales and zero points [N, groups] of asymmetric integers of 4 bits."""
    groups = weight.reshape(len(weight), -1, GROUP)
    low, high = groups.amin(2).clamp(max=0), groups.amax(2).clamp(min=0)
    scale = ((high - low) / 15).half().float()
    zero = (-low / scale).round().clamp(1, 15)
    codes = (groups / scale[..., None] + zero[..., None]).round().clamp(0, 15).reshape(weight.shape)
    return codes, scale, zero


def gptq(factor: float = 1.0) -> Linear:
    """GPTQ's ``qweight`` [K / 8, N], zero points less 1, ``g_idx``; ``factor``: scales that are too large by it."""

    def change(tensors: Tensors, module: str, weight: torch.Tensor) -> None:
        codes, scale, zero = affine(weight)
        tensors.pop(f"{module}.weight")
        tensors[f"{module}.qweight"] = words(codes).T.contiguous()
        tensors[f"{module}.qzeros"] = words(zero.T - 1)
        tensors[f"{module}.scales"] = (scale.T * factor).contiguous().half()
        tensors[f"{module}.g_idx"] = torch.arange(weight.shape[1], dtype=torch.int32) // GROUP

    return change


GPTQ = {"quant_method": "gptq", "bits": 4, "group_size": GROUP, "desc_act": False, "sym": False}
AWQ = {"quant_method": "awq", "bits": 4, "group_size": GROUP, "zero_point": True, "version": "gemm"}


def awq(order: tuple[int, ...] = (0, 2, 4, 6, 1, 3, 5, 7)) -> Linear:
    """AWQ's ``qweight`` [K, N / 8]: ``order`` is the column of the eight in each nibble of a word."""

    def pack(codes: torch.Tensor) -> torch.Tensor:
        return words(codes.reshape(len(codes), -1, 8)[:, :, list(order)].reshape(codes.shape))

    def change(tensors: Tensors, module: str, weight: torch.Tensor) -> None:
        codes, scale, zero = affine(weight)
        tensors.pop(f"{module}.weight")
        tensors[f"{module}.qweight"], tensors[f"{module}.qzeros"] = pack(codes.T), pack(zero.T)
        tensors[f"{module}.scales"] = scale.T.contiguous().half()

    return change


def compressed(edit: Edit, bits: int, symmetric: bool = True, keep_zeros: bool = True) -> None:
    """compressed-tensors' ``pack-quantized`` of ``bits`` bits, by its own compressor."""
    from compressed_tensors.compressors import PackedQuantizationCompressor
    from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme

    weights: dict[str, Any] = {"num_bits": bits, "type": "int", "symmetric": symmetric}
    weights |= {"strategy": "channel"} if bits == 8 else {"strategy": "group", "group_size": GROUP}
    scheme = QuantizationScheme(targets=["Linear"], weights=QuantizationArgs(**weights))

    def linear(tensors: Tensors, module: str, weight: torch.Tensor) -> None:
        groups = weight.reshape(len(weight), 1 if bits == 8 else -1, weight.shape[1] if bits == 8 else GROUP)
        state = {"weight": weight, "weight_scale": groups.abs().amax(2) / (2 ** (bits - 1) - 1)}
        if not symmetric:
            _, scale, zero = affine(weight)
            state |= {"weight_scale": scale, "weight_zero_point": (zero - 8).to(torch.int8)}
        made = PackedQuantizationCompressor.compress(state, scheme)
        tensors.pop(f"{module}.weight")
        kept = {name: value for name, value in made.items() if keep_zeros or name != "weight_zero_point"}
        tensors.update({f"{module}.{name}": value.detach() for name, value in kept.items()})

    stated = {
        "quant_method": "compressed-tensors",
        "format": "pack-quantized",
        "ignore": written.kept(edit),
        "config_groups": {"group_0": {"weights": weights, "targets": ["Linear"]}},
    }
    written.remake(edit, linear, stated)


def quanto_four(edit: Edit) -> None:
    """optimum-quanto's own ``qint4`` in groups of 64, as its modules save it."""
    from optimum.quanto import MaxOptimizer, qint4, quantize_weight

    def linear(tensors: Tensors, module: str, weight: torch.Tensor) -> None:
        scale, shift = MaxOptimizer()(weight, qtype=qint4, axis=0, group_size=GROUP)
        made = quantize_weight(weight, qtype=qint4, axis=0, scale=scale, shift=shift, group_size=GROUP)
        tensors.pop(f"{module}.weight")
        stored: Tensors = {}
        made.save_to_state_dict(stored, f"{module}.weight.", False)
        tensors.update({name: value.contiguous() for name, value in stored.items()})

    written.remake(edit, linear, {"quant_method": "quanto", "weights_dtype": "int4"})


def quanto_with_activations(edit: Edit) -> None:
    """optimum-quanto's INT8 with the scales of inputs and outputs that its modules always save."""
    written.quanto(edit, "int8")

    def add(tensors: Tensors) -> Tensors:
        stems = [name.removesuffix(".weight._data") for name in tensors if name.endswith(".weight._data")]
        unit = torch.ones((), dtype=torch.bfloat16)
        return tensors | {f"{stem}.{name}": unit for stem in stems for name in ("input_scale", "output_scale")}

    rewrite(edit, add)


def torchao_intx(edit: Edit) -> None:
    """torchao's ``IntxUnpackedToInt8Tensor``: codes of 4 bits in a byte each, groups of 32."""
    from torchao.prototype.safetensors.safetensors_support import flatten_tensor_state_dict
    from torchao.quantization import Int8DynamicActivationIntxWeightConfig, quantize_
    from torchao.quantization.granularity import PerGroup

    for expert in EXPERTS:
        names, tensors = quantized(edit.tensors(expert)), written.base_tensors(edit, expert)
        state: dict[str, Any] = dict(tensors)
        for module in names:
            weight = tensors[f"{module}.weight"].to(torch.bfloat16)
            layer = torch.nn.Linear(weight.shape[1], len(weight), bias=False, dtype=weight.dtype)
            layer.weight = torch.nn.Parameter(weight)
            four: Any = torch.int4  # type: ignore[attr-defined]
            config = Int8DynamicActivationIntxWeightConfig(weight_dtype=four, weight_granularity=PerGroup(32))
            quantize_(layer, config)
            state[f"{module}.weight"] = layer.weight.data
        flat, metadata = flatten_tensor_state_dict(state)
        edit.write(expert, flat, metadata)
        body = edit.config(expert)
        stated = {"default": {"_type": "Int8DynamicActivationIntxWeightConfig"}}
        body["quantization_config"] = {"quant_method": "torchao", "quant_type": stated}
        edit.write_config(expert, body)


def nf4_as_bf16(tensors: Tensors, module: str, weight: torch.Tensor) -> None:
    """bitsandbytes' NF4 with ``bnb_4bit_quant_storage: bfloat16``: the packed bytes are stored as a BF16 tensor."""
    import bitsandbytes.functional as bnb

    packed, state = bnb.quantize_4bit(weight.contiguous(), quant_type="nf4", quant_storage=torch.bfloat16)
    tensors[f"{module}.weight"] = packed
    for name, value in state.as_dict(packed=True).items():
        tensors[f"{module}.weight.{name}"] = value.contiguous()


# LightX2V, Diffusers.


def lightx2v_weights_only(edit: Edit) -> None:
    """LightX2V's NVFP4 as its converter writes it: a scalar reciprocal second level, and no scale of activations."""

    def turn(tensors: Tensors) -> Tensors:
        for module in quantized(tensors):
            tensors[f"{module}.weight_global_scale"] = 1 / tensors.pop(f"{module}.weight_scale_2")
            tensors.pop(f"{module}.input_scale")
            tensors[f"{module}.weight_scale"] = swizzle(tensors[f"{module}.weight_scale"])
        return tensors

    rewrite(edit, turn)
    single(edit)


def lightx2v_mxfp6(edit: Edit) -> None:
    """LightX2V's MXFP6: three bytes per four codes, tiled exponents. Its kernels alone read it."""

    def linear(tensors: Tensors, module: str, weight: torch.Tensor) -> None:
        tensors[f"{module}.weight"] = torch.randint(0, 255, (len(weight), weight.shape[1] * 6 // 8), dtype=torch.uint8)
        exponents = written.exponents(weight, 2).to(torch.uint8).view(FP8)
        tensors[f"{module}.weight_scale"] = swizzle(exponents).view(torch.uint8)

    written.remake(edit, linear)
    single(edit)


def layerwise(edit: Edit, norms: bool = False) -> None:
    """Diffusers' ``enable_layerwise_casting``: Linears are cast with their biases; ``norms`` too is a fault."""
    written.remake(edit, written.cast(FP8))

    def cast(tensors: Tensors) -> Tensors:
        own = {
            f"{name[:-7]}.bias" for name, value in tensors.items() if name.endswith(".weight") and value.dtype == FP8
        }
        return {
            name: value.to(FP8) if name in own or (norms and "norm" in name) else value
            for name, value in tensors.items()
        }

    rewrite(edit, cast)
