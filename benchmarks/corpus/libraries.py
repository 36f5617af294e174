"""Right checkpoints and faults in formats that ggml, comfy-kitchen, torchao, bitsandbytes and compressed-tensors write.

Every row here was written down with its right answer before it was run. Layouts without a library on PyPI (msModelSlim,
nunchaku, LightX2V's files per block) are written by hand from their documentation.
"""

from __future__ import annotations

import ctypes
import json
from collections.abc import Callable
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file

from benchmarks.corpus import written
from benchmarks.corpus.edit import Edit, Tensors, quantized
from benchmarks.corpus.exports import EXPERTS
from benchmarks.corpus.mutations import FP8, Mutation

# GGUF: ggml's own quantizers, which the gguf library lacks for K-quants.


@cache
def _ggml() -> ctypes.CDLL:
    spec = find_spec("xllamacpp")
    if spec is None or not spec.submodule_search_locations:
        raise ModuleNotFoundError("pip install xllamacpp (extra: test): it carries ggml's quantizers")
    (library,) = Path(next(iter(spec.submodule_search_locations))).glob("xllamacpp*.so")
    loaded = ctypes.CDLL(str(library))
    loaded.ggml_quantize_chunk.restype = ctypes.c_size_t
    loaded.ggml_quantize_chunk.argtypes = [
        *(ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p),
        *(ctypes.c_int64, ctypes.c_int64, ctypes.c_int64, ctypes.c_void_p),
    ]
    return loaded


def ggml_quantize(weight: np.ndarray, kind: str) -> np.ndarray:
    """Quantize rows [N, K] with ggml itself (``ggml_quantize_chunk``, without an importance matrix).

    Returns:
        uint8 [N, bytes per row].
    """
    from gguf import GGML_QUANT_SIZES, GGMLQuantizationType

    kind_ = GGMLQuantizationType[kind]
    block, size = GGML_QUANT_SIZES[kind_]
    rows, columns = weight.shape
    source = np.ascontiguousarray(weight, dtype=np.float32)
    target = np.zeros((rows, columns // block * size), dtype=np.uint8)
    _ggml().ggml_quantize_chunk(kind_.value, source.ctypes.data, target.ctypes.data, 0, rows, columns, None)
    return target


FALLBACK = {"Q2_K": "Q4_0", "Q3_K": "Q4_0", "Q4_K": "Q5_0", "Q5_K": "Q5_1", "Q6_K": "Q8_0", "IQ4_XS": "IQ4_NL"}
"""What llama.cpp takes where a row is no multiple of 256 values (``llama_tensor_get_type``)."""


def gguf(edit: Edit, kind: str, plain: str = "F32") -> None:
    """Both experts as City96's GGUF files: the Linears in ``kind`` or its fallback, all other tensors plain."""
    from gguf import GGMLQuantizationType, GGUFWriter

    for expert in EXPERTS:
        names, tensors = set(quantized(edit.tensors(expert))), written.base_tensors(edit, expert)
        level = written.NOISE[expert].capitalize()
        file = edit.folder / f"{level}Noise" / f"Wan2.2-T2V-A14B-{level}Noise-{kind}.gguf"
        file.parent.mkdir(parents=True, exist_ok=True)
        writer = GGUFWriter(file, "wan")
        for name, value in sorted(tensors.items()):
            array, own = value.float().numpy(), written.wan_name(name)
            if name.endswith(".weight") and name[:-7] in names and kind not in ("F16", "BF16"):
                fits = kind not in FALLBACK or array.shape[1] % 256 == 0
                chosen = GGMLQuantizationType[kind if fits else FALLBACK[kind]]
                writer.add_tensor(own, ggml_quantize(array, chosen.name), raw_dtype=chosen)
                continue
            if array.ndim > 4:
                writer.add_array(f"comfy.gguf.orig_shape.{own}", list(array.shape))
                array = array.reshape(array.shape[0], -1)
            if plain == "F16" or (kind == "F16" and array.ndim > 1):
                writer.add_tensor(own, array.astype(np.float16))
            else:
                writer.add_tensor(own, array)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
    written.drop_folders(edit)


# ComfyUI: comfy-kitchen's layouts.


def marker(**fields: Any) -> torch.Tensor:
    """A ``comfy_quant`` tensor: JSON as bytes."""
    return torch.frombuffer(bytearray(json.dumps(fields).encode()), dtype=torch.uint8).clone()


def comfy(edit: Edit, kind: str, group: int = 256, single: bool = True) -> None:
    """comfy-kitchen's own quantizers, ``comfy_quant`` markers, single files behind ComfyUI's prefix.

    Args:
        kind: ``int8``, ``int8_scalar``, ``convrot``, ``nvfp4``, ``mxfp8``, ``fp8`` or ``w4a4``.
        group: columns per rotation; a Linear whose width it does not divide stays unrotated.
        single: one file per expert under Wan's names; otherwise the Diffusers folder.
    """
    written.remake(edit, lambda tensors, module, weight: comfy_linear(tensors, module, weight, kind, group))
    if single:
        written.single_files(edit, "model.diffusion_model.")


def comfy_linear(tensors: Tensors, module: str, weight: torch.Tensor, kind: str, group: int = 256) -> None:
    """Replace one weight by what comfy-kitchen stores of it."""
    from comfy_kitchen.tensor import (
        TensorCoreConvRotW4A4Layout,
        TensorCoreFP8Layout,
        TensorCoreMXFP8Layout,
        TensorCoreNVFP4Layout,
        TensorWiseINT8Layout,
    )

    name = f"{module}.weight"
    if kind in ("int8", "int8_scalar", "convrot"):
        turned = kind == "convrot" and weight.shape[1] % group == 0
        codes, made = TensorWiseINT8Layout.quantize(
            weight, per_channel=kind != "int8_scalar", convrot=turned, convrot_groupsize=group
        )
        tensors[name], tensors[f"{module}.weight_scale"] = codes, made.scale
        extra = {"convrot": True, "convrot_groupsize": group} if turned else {}
        tensors[f"{module}.comfy_quant"] = marker(format="int8_tensorwise", **extra)
    elif kind == "nvfp4":
        codes, made = TensorCoreNVFP4Layout.quantize(weight.to(torch.bfloat16))
        tensors[name], tensors[f"{module}.weight_scale"] = codes, made.block_scale
        tensors[f"{module}.weight_scale_2"] = made.scale
        tensors[f"{module}.comfy_quant"] = marker(format="nvfp4")
    elif kind == "mxfp8":
        codes, made = TensorCoreMXFP8Layout.quantize(weight.to(torch.bfloat16))
        tensors[name], tensors[f"{module}.weight_scale"] = codes, made.scale.view(torch.uint8)
        tensors[f"{module}.comfy_quant"] = marker(format="mxfp8")
    elif kind == "fp8":
        codes, made = TensorCoreFP8Layout.quantize(weight.to(torch.bfloat16), scale="recalculate")
        tensors[name], tensors[f"{module}.weight_scale"] = codes, made.scale.float()
        tensors[f"{module}.comfy_quant"] = marker(format="float8_e4m3fn")
    else:
        codes, made = TensorCoreConvRotW4A4Layout.quantize(weight.to(torch.bfloat16), convrot_groupsize=64)
        tensors[name], tensors[f"{module}.weight_scale"] = codes, made.scale
        tensors[f"{module}.comfy_quant"] = marker(format="convrot_w4a4", convrot_groupsize=64)


def marked(kind: str, group: int = 256, **fields: Any) -> Mutation:
    """comfy-kitchen's codes of a ``kind`` (see `comfy`) beside markers that hold other ``fields``."""

    def mutate(edit: Edit, strength: str) -> None:
        comfy(edit, kind, group, single=False)
        for expert in EXPERTS:
            tensors = edit.tensors(expert)
            markers = {name: marker(**fields) for name in tensors if name.endswith(".comfy_quant")}
            edit.write(expert, tensors | markers)

    return mutate


unmarked_rotation = marked("convrot", 64, format="int8_tensorwise")
"""ConvRot's codes whose markers lost ``convrot``: a loader multiplies rotated weights with plain inputs."""
other_rotation = marked("convrot", 64, format="int8_tensorwise", convrot=True, convrot_groupsize=16)
"""Rotated in groups of 64 columns, declared in groups of 16."""
marked_otherwise = marked("int8", format="float8_e4m3fn")
"""Markers that say ``float8_e4m3fn`` beside INT8 codes."""


def whole_pipeline(edit: Edit) -> None:
    """ComfyUI's file of a whole pipeline: the transformer, a VAE and a text encoder in one file per expert."""
    comfy(edit, "fp8")
    for file in edit.folder.glob("*.safetensors"):
        body = load_file(file)
        body["vae.decoder.conv_in.weight"] = torch.randn(4, 4, 3, 3)
        body["text_encoders.umt5xxl.transformer.shared.weight"] = torch.randn(8, 8).to(FP8)
        save_file(body, file)


def kijai(edit: Edit, dtype: torch.dtype = FP8) -> None:
    """Kijai's scaled files: ``scale_weight``, the marker tensor ``scaled_fp8``, E5M2 as well, no declaration."""

    def change(tensors: Tensors, module: str, weight: torch.Tensor) -> None:
        scale = weight.abs().max() / torch.finfo(dtype).max
        tensors[f"{module}.weight"], tensors[f"{module}.scale_weight"] = (weight / scale).to(dtype), scale

    written.remake(edit, change)
    for expert in EXPERTS:
        tensors = edit.tensors(expert)
        tensors["scaled_fp8"] = torch.zeros(2, dtype=dtype)
        edit.write(expert, tensors)
    written.single_files(edit)


# torchao, bitsandbytes, compressed-tensors, optimum-quanto.


def torchao(edit: Edit, kind: str) -> None:
    """torchao's tensor classes through its own safetensors layout: ``int8``, ``mxfp8`` or ``nvfp4``."""
    from torchao.prototype.safetensors.safetensors_support import flatten_tensor_state_dict

    for expert in EXPERTS:
        names, tensors = quantized(edit.tensors(expert)), written.base_tensors(edit, expert)
        state: dict[str, Any] = dict(tensors)
        for module in names:
            state[f"{module}.weight"] = torchao_weight(tensors[f"{module}.weight"].to(torch.bfloat16), kind)
        flat, metadata = flatten_tensor_state_dict(state)
        edit.write(expert, flat, metadata)
        body = edit.config(expert)
        names_ = {"int8": "Int8WeightOnlyConfig", "mxfp8": "MXDynamicActivationMXWeightConfig"}
        stated = {"default": {"_type": names_.get(kind, "NVFP4DynamicActivationNVFP4WeightConfig")}}
        body["quantization_config"] = {"quant_method": "torchao", "quant_type": stated, "modules_to_not_convert": []}
        edit.write_config(expert, body)


def torchao_weight(weight: torch.Tensor, kind: str) -> Any:
    """One weight as torchao's tensor class."""
    if kind == "int8":
        from torchao.quantization import Int8WeightOnlyConfig, quantize_

        layer = torch.nn.Linear(weight.shape[1], weight.shape[0], bias=False, dtype=weight.dtype)
        layer.weight = torch.nn.Parameter(weight)
        quantize_(layer, Int8WeightOnlyConfig(version=2))
        return layer.weight.data
    if kind == "mxfp8":
        from torchao.prototype.mx_formats.mx_tensor import MXTensor

        return MXTensor.to_mx(weight, FP8, 32)
    from torchao.prototype.mx_formats.nvfp4_tensor import NVFP4Tensor, per_tensor_amax_to_scale

    return NVFP4Tensor.to_nvfp4(weight, 16, per_tensor_amax_to_scale(weight.abs().max()))


def bitsandbytes(edit: Edit, kind: str, blocksize: int = 64) -> None:
    """bitsandbytes' own quantizers: ``fp4`` or ``nf4`` in blocks of ``blocksize``, or ``int8`` rows (LLM.int8)."""
    import bitsandbytes.functional as bnb

    def four(tensors: Tensors, module: str, weight: torch.Tensor) -> None:
        packed, state = bnb.quantize_4bit(weight.contiguous(), blocksize=blocksize, quant_type=kind)
        tensors[f"{module}.weight"] = packed
        for name, value in state.as_dict(packed=True).items():
            tensors[f"{module}.weight.{name}"] = value.contiguous()

    def eight(tensors: Tensors, module: str, weight: torch.Tensor) -> None:
        codes, rows, _ = bnb.int8_vectorwise_quant(weight.to(torch.float16))
        tensors[f"{module}.weight"], tensors[f"{module}.SCB"] = codes, rows
        tensors[f"{module}.weight_format"] = torch.tensor(0, dtype=torch.uint8)

    if kind == "int8":
        written.remake(edit, eight, {"quant_method": "bitsandbytes", "load_in_8bit": True})
    else:
        written.remake(edit, four, {**written.BITSANDBYTES, "bnb_4bit_quant_type": kind})


def compressed(edit: Edit, kind: str) -> None:
    """compressed-tensors' own compressors: ``nvfp4``, ``block`` (FP8 in 128 x 128) or ``w4a16`` (packed into int32)."""
    from compressed_tensors.compressors import NVFP4PackedCompressor, PackedQuantizationCompressor
    from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme

    arguments: dict[str, dict[str, Any]] = {
        "nvfp4": {"num_bits": 4, "type": "float", "strategy": "tensor_group", "group_size": 16},
        "w4a16": {"num_bits": 4, "type": "int", "strategy": "group", "group_size": 64},
        "block": {"num_bits": 8, "type": "float", "strategy": "block", "block_structure": [128, 128]},
    }
    weights = {**arguments[kind], "symmetric": True}
    args = QuantizationArgs(**weights)
    scheme = QuantizationScheme(targets=["Linear"], weights=args)

    def change(tensors: Tensors, module: str, weight: torch.Tensor) -> None:
        if kind == "block":
            written.blocks(tensors, module, weight)
            tensors[f"{module}.weight_scale"] = tensors.pop(f"{module}.weight_scale_inv")
            return
        state: dict[str, torch.Tensor] = {"weight": weight}
        if kind == "nvfp4":
            outer = (448 * 6 / weight.abs().max()).reshape(1).float()
            inner = weight.reshape(len(weight), -1, 16).abs().amax(-1) / 6 * outer
            scale = inner.clamp(2**-9, 448).to(FP8).float()
            made = NVFP4PackedCompressor.compress(
                {**state, "weight_scale": scale, "weight_global_scale": outer}, scheme
            )
        else:
            scale = weight.reshape(len(weight), -1, 64).abs().amax(-1) / 7.5
            made = PackedQuantizationCompressor.compress({**state, "weight_scale": scale}, scheme)
        tensors.pop(f"{module}.weight")
        tensors.update({f"{module}.{name}": value.detach() for name, value in made.items()})

    forms = {"nvfp4": "nvfp4-pack-quantized", "w4a16": "pack-quantized", "block": "float-quantized"}
    stated = {
        "quant_method": "compressed-tensors",
        "format": forms[kind],
        "ignore": written.kept(edit),
        "config_groups": {"group_0": {"weights": weights, "targets": ["Linear"]}},
    }
    written.remake(edit, change, stated)


def quanto(edit: Edit, kind: str) -> None:
    """optimum-quanto: ``e5m2`` rows, or ``qint4`` packed in groups (named, not decoded)."""
    from optimum.quanto import qfloat8_e5m2, quantize_weight

    def change(tensors: Tensors, module: str, weight: torch.Tensor) -> None:
        tensors.pop(f"{module}.weight")
        if kind == "e5m2":
            scale = weight.abs().amax(1, keepdim=True) / 57344
            made = quantize_weight(weight, qtype=qfloat8_e5m2, axis=0, scale=scale)
            tensors[f"{module}.weight._data"], tensors[f"{module}.weight._scale"] = made._data, made._scale
            return
        rows, columns = weight.shape
        tensors[f"{module}.weight._data"] = torch.zeros(rows, columns // 2, dtype=torch.uint8)
        tensors[f"{module}.weight._scale"] = torch.ones(rows * columns // 64, 1)
        tensors[f"{module}.weight._shift"] = torch.zeros(rows * columns // 64, 1, dtype=torch.uint8)

    written.remake(edit, change, {"quant_method": "quanto", "weights_dtype": "float8" if kind == "e5m2" else "int4"})


# Layouts whose writers are not on PyPI.


def modelslim(edit: Edit, kind: str = "W8A8_DYNAMIC", change: Callable[[dict[str, Any]], None] | None = None) -> None:
    """msModelSlim's files for MindIE-SD: Wan's names, I8 codes, scale and offset [N, 1], a description of every tensor.

    Args:
        kind: ``W8A8_DYNAMIC``, ``W8A8`` (static: input scale, offset, quant_bias, deq_scale) or ``W8A8_MXFP8``.
        change: edits the description before it is written.
    """

    def linear(tensors: Tensors, module: str, weight: torch.Tensor) -> None:
        if kind == "W8A8_MXFP8":
            written.mxfp8()(tensors, module, weight)
            return
        written.int8(True)(tensors, module, weight)
        scale = tensors[f"{module}.weight_scale"]
        tensors[f"{module}.weight_offset"] = torch.zeros_like(scale)
        if kind == "W8A8":
            tensors[f"{module}.input_scale"] = torch.tensor([0.02])
            tensors[f"{module}.input_offset"] = torch.tensor([3.0])
            tensors[f"{module}.quant_bias"] = torch.zeros(len(weight), dtype=torch.int32)
            tensors[f"{module}.deq_scale"] = (scale * 0.02).reshape(-1)

    written.remake(edit, linear)
    for expert in EXPERTS:
        tensors = edit.tensors(expert)
        own = set(quantized(tensors))
        lines = {
            written.wan_name(name): kind if name.rpartition(".")[0] in own and not name.endswith(".bias") else "FLOAT"
            for name in tensors
        }
        body: dict[str, Any] = {"model_quant_type": kind, "version": "1.0.0", **lines}
        if change is not None:
            change(body)
        edit.write(expert, {written.wan_name(name): value for name, value in tensors.items()})
        place = edit.folder / expert
        (file,) = place.glob("*.safetensors")
        file.rename(place / f"quant_model_weight_{kind.lower()}.safetensors")
        (place / "config.json").unlink()
        (place / f"quant_model_description_{kind.lower()}.json").write_text(json.dumps(body), encoding="utf-8")
        place.rename(edit.folder / f"{written.NOISE[expert]}_noise_model")
    (edit.folder / "model_index.json").unlink(missing_ok=True)


def described_wrongly(kind: str) -> Mutation:
    """A description that calls a quantized Linear FLOAT, an unquantized one W8A8, or names an absent Linear."""

    def edit_description(body: dict[str, Any]) -> None:
        if kind == "float":
            body["blocks.2.self_attn.q.weight"] = "FLOAT"
        elif kind == "quantized":
            body["blocks.0.self_attn.q.weight"] = "W8A8_DYNAMIC"
        else:
            body["blocks.2.self_attn.gate.weight"] = "W8A8_DYNAMIC"

    def mutate(edit: Edit, strength: str) -> None:
        modelslim(edit, change=edit_description)

    return mutate


def quanto_int4(edit: Edit, strength: str) -> None:
    """optimum-quanto's 4-bit groups: named, not decoded."""
    quanto(edit, "int4")


def nunchaku(edit: Edit, strength: str) -> None:
    """SVDQuant in nunchaku's layout: I8 words, ``wscales`` and low-rank factors, packed for its kernels."""

    def change(tensors: Tensors, module: str, weight: torch.Tensor) -> None:
        rows, columns = weight.shape
        tensors.pop(f"{module}.weight")
        tensors[f"{module}.qweight"] = torch.zeros(rows, columns // 2, dtype=torch.int8)
        tensors[f"{module}.wscales"] = torch.ones(columns // 64, rows, dtype=torch.bfloat16)
        tensors[f"{module}.smooth_factor"] = torch.ones(columns, dtype=torch.bfloat16)
        tensors[f"{module}.proj_down"] = torch.zeros(columns, 32, dtype=torch.bfloat16)
        tensors[f"{module}.proj_up"] = torch.zeros(rows, 32, dtype=torch.bfloat16)

    written.remake(edit, change)


def lightx2v_blocks(edit: Edit) -> None:
    """LightX2V's FP8 with a file per block: ``block_0.safetensors`` ... and ``non_block.safetensors``, no index."""

    def linear(tensors: Tensors, module: str, weight: torch.Tensor) -> None:
        scale = weight.abs().amax(1, keepdim=True) / 448
        tensors[f"{module}.weight"], tensors[f"{module}.weight_scale"] = (weight / scale).to(FP8), scale

    written.remake(edit, linear)
    for expert in EXPERTS:
        tensors = {written.wan_name(name): value.contiguous() for name, value in edit.tensors(expert).items()}
        place = edit.own(expert)
        for file in place.iterdir():
            file.unlink()
        parts: dict[str, Tensors] = {}
        for name, value in tensors.items():
            key = f"block_{name.split('.')[1]}" if name.startswith("blocks.") else "non_block"
            parts.setdefault(key, {})[name] = value.clone()
        for key, own in parts.items():
            save_file(own, place / f"{key}.safetensors")
        place.rename(edit.folder / f"{written.NOISE[expert]}_noise_model")
    (edit.folder / "model_index.json").unlink(missing_ok=True)


def prefixed(edit: Edit, prefix: str) -> None:
    """A prefix that a training framework leaves in front of every name."""
    for expert in EXPERTS:
        edit.write(expert, {f"{prefix}{name}": value for name, value in edit.tensors(expert).items()})


def half(edit: Edit) -> None:
    """The base in F16, as ComfyUI repackages it."""
    for expert in EXPERTS:
        tensors = {name: value.to(torch.float16) for name, value in written.base_tensors(edit, expert).items()}
        edit.write(expert, tensors)
    written.single_files(edit)


# Faults.


def merged(share: float) -> Mutation:
    """A LoRA merged into the weights before they were quantized: a rank-4 update of ``share`` of each weight's norm."""

    def mutate(edit: Edit, strength: str) -> None:
        generator = torch.Generator().manual_seed(5)

        def linear(tensors: Tensors, module: str, weight: torch.Tensor) -> None:
            down = torch.randn(4, weight.shape[1], generator=generator)
            up = torch.randn(weight.shape[0], 4, generator=generator)
            update = up @ down
            other = (weight + update * (share * weight.norm() / update.norm())).to(torch.bfloat16).float()
            scale = other.abs().max() / 448
            tensors[f"{module}.weight"], tensors[f"{module}.weight_scale"] = (other / scale).to(FP8), scale

        written.remake(edit, linear, {"quant_method": "fp8", "modules_to_not_convert": written.kept(edit)})

    return mutate


def rounded_before(edit: Edit, strength: str) -> None:
    """FP8 codes made with a float32 scale that was rounded to BF16 and stored as F32 again."""

    def linear(tensors: Tensors, module: str, weight: torch.Tensor) -> None:
        scale = weight.abs().max() / 448
        rounded = scale.to(torch.bfloat16).float()
        if abs(float(rounded / scale) - 1) < 0.0005:  # rounding that changed nothing is no fault
            scale = scale * 1.0012
        tensors[f"{module}.weight"], tensors[f"{module}.weight_scale"] = (weight / scale).to(FP8), rounded

    written.remake(edit, linear, {"quant_method": "fp8", "modules_to_not_convert": written.kept(edit)})


def one_row(edit: Edit, strength: str) -> None:
    """The per-channel scale of two rows of every Linear is twice what it must be."""

    def linear(tensors: Tensors, module: str, weight: torch.Tensor) -> None:
        written.int8(True)(tensors, module, weight)
        tensors[f"{module}.weight_scale"][3:5] *= 2

    written.remake(edit, linear)


def really_inverse(tensors: Tensors, module: str, weight: torch.Tensor) -> None:
    """``weight_scale_inv`` that holds the inverse, which its name says and its readers do not expect."""
    tensors[f"{module}.weight_scale_inv"] = 1 / tensors[f"{module}.weight_scale_inv"]


def direct_global(edit: Edit, strength: str) -> None:
    """compressed-tensors' NVFP4 whose global scale was not turned into its reciprocal."""
    compressed(edit, "nvfp4")
    for expert in EXPERTS:
        tensors = edit.tensors(expert)
        for name in [item for item in tensors if item.endswith(".weight_global_scale")]:
            tensors[name] = 1 / tensors[name]
        edit.write(expert, tensors)


def without_part(kind: str, suffix: str) -> Mutation:
    """torchao's tensors without one of their parts."""

    def mutate(edit: Edit, strength: str) -> None:
        torchao(edit, kind)
        for expert in EXPERTS:
            tensors = edit.tensors(expert)
            for name in [item for item in tensors if item.endswith(suffix)]:
                tensors.pop(name)
            edit.write(expert, tensors)

    return mutate


def half_scb(tensors: Tensors, module: str, weight: torch.Tensor) -> None:
    """LLM.int8 codes whose ``SCB`` was divided by 127 already, as a plain scale."""
    import bitsandbytes.functional as bnb

    codes, rows, _ = bnb.int8_vectorwise_quant(weight.to(torch.float16))
    tensors[f"{module}.weight"], tensors[f"{module}.SCB"] = codes, rows / 127


def nan_exponents(tensors: Tensors, module: str, weight: torch.Tensor) -> None:
    """E8M0 bytes of 255, which are NaN."""
    tensors[f"{module}.weight_scale"][2:4] = 255


def same_level_twice(edit: Edit, strength: str) -> None:
    """ComfyUI's two files, and both hold the expert of high noise."""
    written.scaled_single_files(edit)
    (high,), (low,) = edit.folder.glob("*high*.safetensors"), edit.folder.glob("*low*.safetensors")
    low.write_bytes(high.read_bytes())


def broken_q4(edit: Edit, strength: str) -> None:
    """Block scales of Q4_0 twice as large in one GGUF file."""
    gguf(edit, "Q4_0")
    file = next(edit.folder.rglob("*High*.gguf"))
    from gguf import GGUFReader

    reader = GGUFReader(file, "r+")
    for tensor in reader.tensors:
        if tensor.tensor_type.name == "Q4_0":
            scales = tensor.data.reshape(-1, 18)[:, :2].copy().view(np.float16) * np.float16(2)
            tensor.data.reshape(-1, 18)[:, :2] = scales.view(np.uint8)
    reader.data.flush()


# Bodies of an object store's answers, where the weights should be.

DENIED = (
    b'<?xml version="1.0" encoding="UTF-8"?>\n<Error><Code>AccessDenied</Code><Message>Access Denied</Message></Error>'
)
JSON_ERROR = b'{"error":"Repository not found","statusCode":404}'
