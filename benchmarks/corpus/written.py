"""Right checkpoints in the formats of other programs, made from the base by their libraries where they exist."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from benchmarks.corpus.edit import Edit, Tensors, quantized, swizzle
from benchmarks.corpus.exports import EXPERTS
from benchmarks.corpus.mutations import FP8, pack

Linear = Callable[[Tensors, str, torch.Tensor], None]
"""Replaces ``module.weight`` in the tensors by what a format stores of it."""
WAN_RULES = [
    (r"^condition_embedder\.time_embedder\.linear_1\.", "time_embedding.0."),
    (r"^condition_embedder\.time_embedder\.linear_2\.", "time_embedding.2."),
    (r"^condition_embedder\.text_embedder\.linear_1\.", "text_embedding.0."),
    (r"^condition_embedder\.text_embedder\.linear_2\.", "text_embedding.2."),
    (r"^condition_embedder\.time_proj\.", "time_projection.1."),
    (r"^scale_shift_table", "head.modulation"),
    (r"scale_shift_table", "modulation"),
    (r"^proj_out\.", "head.head."),
    (r"\.attn1\.", ".self_attn."),
    (r"\.attn2\.", ".cross_attn."),
    (r"\.to_out\.0\.", ".o."),
    (r"\.to_([qkv])\.", r".\1."),
    (r"\.ffn\.net\.0\.proj\.", ".ffn.0."),
    (r"\.ffn\.net\.2\.", ".ffn.2."),
    (r"\.norm2\.", ".norm3."),
]
NOISE = {"transformer": "high", "transformer_2": "low"}


def wan_name(name: str) -> str:
    """Diffusers' tensor name as Wan's own repository calls it."""
    for pattern, new in WAN_RULES:
        name = re.sub(pattern, new, name)
    return name


def base_tensors(edit: Edit, expert: str) -> Tensors:
    """The base of one expert."""
    return load_file(next((edit.base / expert).glob("*.safetensors")))


def remake(
    edit: Edit, linear: Linear, declaration: dict[str, Any] | None = None, metadata: dict[str, str] | None = None
) -> None:
    """Write both experts from the base: each Linear that the export quantizes, by ``linear``."""
    for expert in EXPERTS:
        names, tensors = quantized(edit.tensors(expert)), base_tensors(edit, expert)
        for module in names:
            linear(tensors, module, tensors[f"{module}.weight"].float())
        edit.write(expert, tensors, metadata)
        body = edit.config(expert)
        body.pop("quantization_config", None)
        if declaration is not None:
            body["quantization_config"] = declaration
        edit.write_config(expert, body)


def kept(edit: Edit) -> list[str]:
    """Linears that the export leaves unquantized."""
    tensors = edit.tensors("transformer")
    own = set(quantized(tensors))
    return sorted(name[:-7] for name in tensors if name.endswith(".weight") and name[:-7] not in own)


def cast(dtype: torch.dtype) -> Linear:
    """A bare cast."""

    def change(tensors: Tensors, module: str, weight: torch.Tensor) -> None:
        tensors[f"{module}.weight"] = weight.to(dtype)

    return change


def e5m2(tensors: Tensors, module: str, weight: torch.Tensor) -> None:
    """FP8 E5M2, one scale per tensor."""
    scale = weight.abs().max() / 57344
    tensors[f"{module}.weight"] = (weight / scale).to(torch.float8_e5m2)
    tensors[f"{module}.weight_scale"] = scale


def blocks(tensors: Tensors, module: str, weight: torch.Tensor) -> None:
    """DeepSeek's layout: FP8 in blocks of 128 x 128, ``weight_scale_inv`` multiplies."""
    rows, columns = -(-weight.shape[0] // 128), -(-weight.shape[1] // 128)
    padded = torch.zeros(rows * 128, columns * 128)
    padded[: weight.shape[0], : weight.shape[1]] = weight
    tiles = padded.reshape(rows, 128, columns, 128)
    scale = tiles.abs().amax((1, 3)).clamp(min=1e-12) / 448
    codes = (tiles / scale[:, None, :, None]).reshape(rows * 128, columns * 128)
    tensors[f"{module}.weight"] = codes[: weight.shape[0], : weight.shape[1]].to(FP8)
    tensors[f"{module}.weight_scale_inv"] = scale


def int8(per_channel: bool) -> Linear:
    """LightX2V's INT8 [N, 1], or one scale per tensor."""

    def change(tensors: Tensors, module: str, weight: torch.Tensor) -> None:
        scale = (weight.abs().amax(1, keepdim=True) if per_channel else weight.abs().max()).clamp(min=1e-5) / 127
        tensors[f"{module}.weight"] = (weight / scale).round().clamp(-128, 127).to(torch.int8)
        tensors[f"{module}.weight_scale"] = scale

    return change


def exponents(weight: torch.Tensor, largest: int) -> torch.Tensor:
    """OCP MX v1.0, 6.3: shared exponents of blocks of 32, biased by 127."""
    amax = weight.reshape(len(weight), -1, 32).abs().amax(-1).clamp(min=1e-30)
    return torch.floor(torch.log2(amax)) - largest + 127


def mxfp8(tiled: bool = False) -> Linear:
    """MXFP8 with E8M0 exponents as bytes, linear or in 128 x 4 tiles."""

    def change(tensors: Tensors, module: str, weight: torch.Tensor) -> None:
        own = exponents(weight, 8)
        values = weight.reshape(len(weight), -1, 32) / 2.0 ** (own - 127)[..., None]
        tensors[f"{module}.weight"] = values.clamp(-448, 448).reshape(weight.shape).to(FP8)
        scale = own.to(torch.uint8)
        tensors[f"{module}.weight_scale"] = swizzle(scale.view(FP8)).view(torch.uint8) if tiled else scale

    return change


def mxfp4(tensors: Tensors, module: str, weight: torch.Tensor) -> None:
    """MXFP4, low nibble first."""
    own = exponents(weight, 2)
    values = weight.reshape(len(weight), -1, 32) / 2.0 ** (own - 127)[..., None]
    tensors[f"{module}.weight"] = pack(values).reshape(len(weight), -1)
    tensors[f"{module}.weight_scale"] = own.to(torch.uint8)


def nf4(double: bool = False) -> Linear:
    """bitsandbytes' own 4-bit quantizer, as ``Params4bit`` saves it."""

    def change(tensors: Tensors, module: str, weight: torch.Tensor) -> None:
        import bitsandbytes.functional as bnb

        packed, state = bnb.quantize_4bit(
            weight.contiguous(), blocksize=64, compress_statistics=double, quant_type="nf4"
        )
        tensors[f"{module}.weight"] = packed
        for name, value in state.as_dict(packed=True).items():
            tensors[f"{module}.weight.{name}"] = value.contiguous()

    return change


BITSANDBYTES = {
    "quant_method": "bitsandbytes", "load_in_4bit": True, "bnb_4bit_quant_type": "nf4",
    "bnb_4bit_compute_dtype": "bfloat16",
}  # fmt: skip


def torchao(edit: Edit) -> None:
    """torchao's Float8Tensor through its own safetensors layout."""
    from torchao.prototype.safetensors.safetensors_support import flatten_tensor_state_dict
    from torchao.quantization import Float8WeightOnlyConfig, quantize_

    for expert in EXPERTS:
        names, tensors = quantized(edit.tensors(expert)), base_tensors(edit, expert)
        state: dict[str, Any] = dict(tensors)
        for module in names:
            rows, columns = tensors[f"{module}.weight"].shape
            layer = torch.nn.Linear(columns, rows, bias=False, dtype=torch.bfloat16)
            layer.weight = torch.nn.Parameter(tensors[f"{module}.weight"].to(torch.bfloat16))
            quantize_(layer, Float8WeightOnlyConfig())
            state[f"{module}.weight"] = layer.weight.data
        flat, metadata = flatten_tensor_state_dict(state)
        edit.write(expert, flat, metadata)
        body = edit.config(expert)
        kind = {"default": {"_type": "Float8WeightOnlyConfig"}}
        body["quantization_config"] = {"quant_method": "torchao", "quant_type": kind, "modules_to_not_convert": []}
        edit.write_config(expert, body)


def quanto(edit: Edit, kind: str) -> None:
    """optimum-quanto's frozen weights: ``weight._data`` and ``weight._scale``."""
    from optimum.quanto import qfloat8, qint8, quantize_weight

    qtype = {"int8": qint8, "fp8": qfloat8}[kind]

    def change(tensors: Tensors, module: str, weight: torch.Tensor) -> None:
        scale = weight.abs().amax(1, keepdim=True) / (127 if kind == "int8" else 448)
        made = quantize_weight(weight, qtype=qtype, axis=0, scale=scale)
        tensors.pop(f"{module}.weight")
        tensors[f"{module}.weight._data"], tensors[f"{module}.weight._scale"] = made._data, made._scale

    remake(edit, change, {"quant_method": "quanto", "weights_dtype": kind})


def compressed(edit: Edit, kind: str) -> None:
    """compressed-tensors' own quantizer: FP8 or INT8 per channel."""
    from compressed_tensors.quantization import QuantizationArgs
    from compressed_tensors.quantization.lifecycle.forward import quantize

    args = QuantizationArgs(num_bits=8, type="float" if kind == "fp8" else "int", strategy="channel", symmetric=True)

    def change(tensors: Tensors, module: str, weight: torch.Tensor) -> None:
        scale = weight.abs().amax(1, keepdim=True) / (448 if kind == "fp8" else 127)
        dtype = FP8 if kind == "fp8" else torch.int8
        tensors[f"{module}.weight"] = quantize(weight, scale, torch.zeros_like(scale), args, dtype=dtype)
        tensors[f"{module}.weight_scale"] = scale

    weights = {"num_bits": 8, "type": args.type, "strategy": "channel", "symmetric": True}
    declaration = {
        "quant_method": "compressed-tensors", "format": "float-quantized" if kind == "fp8" else "int-quantized",
        "ignore": kept(edit), "config_groups": {"group_0": {"weights": weights, "targets": ["Linear"]}},
    }  # fmt: skip
    remake(edit, change, declaration)


def drop_folders(edit: Edit) -> None:
    """Remove the Diffusers folders and ``model_index.json``."""
    for expert in EXPERTS:
        place = edit.folder / expert
        if place.is_symlink():
            place.unlink()
        else:
            shutil.rmtree(place)
    (edit.folder / "model_index.json").unlink(missing_ok=True)


def single_files(edit: Edit, prefix: str = "", metadata: dict[str, dict[str, str]] | None = None) -> None:
    """Each expert as one file in one folder under Wan's own names, as ComfyUI's repackaged models are."""
    for expert in EXPERTS:
        body = {f"{prefix}{wan_name(name)}": value.contiguous().clone() for name, value in edit.tensors(expert).items()}
        file = edit.folder / f"wan2.2_t2v_{NOISE[expert]}_noise_14B.safetensors"
        save_file(body, file, metadata={"format": "pt", **(metadata or {}).get(expert, {})})
    drop_folders(edit)


def wan_repository(edit: Edit) -> None:
    """Wan's own repository: ``high_noise_model`` and ``low_noise_model``, its names and its config."""
    for expert in EXPERTS:
        tensors = {wan_name(name): value for name, value in edit.tensors(expert).items()}
        edit.write(expert, tensors)
        size = tensors["blocks.0.self_attn.q.weight"].shape[0]
        edit.write_config(expert, {"_class_name": "WanModel", "dim": size, "model_type": "t2v"})
        (edit.folder / expert).rename(edit.folder / f"{NOISE[expert]}_noise_model")
    (edit.folder / "model_index.json").unlink(missing_ok=True)


def packed_qkv(edit: Edit) -> None:
    """q, k and v of each self-attention stored as one Linear, in INT8 per channel."""
    remake(edit, int8(True))
    for expert in EXPERTS:
        tensors = edit.tensors(expert)
        for name in sorted(tensors):
            if ".attn1.to_q." in name:
                parts = [tensors.pop(name.replace(".to_q.", f".to_{part}.")) for part in "qkv"]
                tensors[name.replace(".to_q.", ".to_qkv.")] = torch.cat(parts)
        edit.write(expert, tensors)


def compiled(edit: Edit) -> None:
    """Saved from a module that ``torch.compile`` wrapped."""
    for expert in EXPERTS:
        edit.write(expert, {f"_orig_mod.{name}": value for name, value in edit.tensors(expert).items()})


def lightx2v_nvfp4(edit: Edit) -> None:
    """LightX2V's NVFP4: the reciprocal second level as ``weight_global_scale``, and ``input_absmax``."""
    for expert in EXPERTS:
        tensors = edit.tensors(expert)
        for module in quantized(tensors):
            outer = tensors.pop(f"{module}.weight_scale_2")
            tensors[f"{module}.weight_global_scale"] = (1 / outer).reshape(1)
            tensors[f"{module}.input_absmax"] = (tensors.pop(f"{module}.input_scale") * 2688).reshape(1)
            tensors[f"{module}.weight_scale"] = swizzle(tensors[f"{module}.weight_scale"])
        edit.write(expert, tensors)
        body = edit.config(expert)
        body.pop("quantization_config")
        edit.write_config(expert, body)


def gguf(edit: Edit, kind: str, shapes: bool = True) -> None:
    """Both experts as GGUF files through the ``gguf`` library, in City96's layout.

    ``shapes``: whether the metadata states the shape of a tensor that was flattened.
    """
    from gguf import GGMLQuantizationType, GGUFWriter
    from gguf.quants import quantize

    for expert in EXPERTS:
        names, tensors = set(quantized(edit.tensors(expert))), base_tensors(edit, expert)
        level = NOISE[expert].capitalize()
        file = edit.folder / f"{level}Noise" / f"Wan2.2-T2V-A14B-{level}Noise-{kind}.gguf"
        file.parent.mkdir(parents=True, exist_ok=True)
        writer = GGUFWriter(file, "wan")
        for name, value in sorted(tensors.items()):
            array = value.float().numpy()
            if name.endswith(".weight") and name[:-7] in names:
                type_ = GGMLQuantizationType[kind]
                writer.add_tensor(wan_name(name), quantize(array, type_), raw_dtype=type_)
            elif array.ndim > 4:
                if shapes:
                    writer.add_array(f"comfy.gguf.orig_shape.{wan_name(name)}", list(array.shape))
                writer.add_tensor(wan_name(name), array.reshape(array.shape[0], -1))
            else:
                writer.add_tensor(wan_name(name), array)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
    drop_folders(edit)


def scaled_single_files(edit: Edit) -> None:
    """ComfyUI's scaled FP8: ``scale_weight``, a marker tensor, two files, no config."""
    for expert in EXPERTS:
        tensors = edit.tensors(expert)
        for module in quantized(tensors):
            tensors[f"{module}.scale_weight"] = tensors.pop(f"{module}.weight_scale")
            tensors.pop(f"{module}.input_scale", None)
        tensors["scaled_fp8"] = torch.zeros(2, dtype=FP8)
        edit.write(expert, tensors)
    single_files(edit)


def layered_single_files(edit: Edit, prefix: str = "model.diffusion_model.", written: str | None = None) -> None:
    """ComfyUI's ``_quantization_metadata``: a format per layer, under the names that the tensors have."""
    ahead = prefix if written is None else written
    layers = {
        expert: {
            f"{ahead}{wan_name(f'{module}.')[:-1]}": {"format": "float8_e4m3fn"}
            for module in quantized(edit.tensors(expert))
        }
        for expert in EXPERTS
    }
    body = {
        expert: {"_quantization_metadata": json.dumps({"format_version": "1.0", "layers": own})}
        for expert, own in layers.items()
    }
    single_files(edit, prefix, body)


def unquoted(edit: Edit) -> None:
    """``quant_method: fp8``, and the ignored modules under ``modules_to_not_convert``."""
    for expert in EXPERTS:
        body = edit.config(expert)
        skip = kept(edit)
        body["quantization_config"] = {
            "quant_method": "fp8",
            "activation_scheme": "dynamic",
            "modules_to_not_convert": skip,
        }
        tensors = edit.tensors(expert)
        for module in quantized(tensors):
            tensors.pop(f"{module}.input_scale", None)
        edit.write(expert, tensors)
        edit.write_config(expert, body)


def input_scale_one(edit: Edit) -> None:
    """A constant activation range of 2688: ``input_scale`` is 1 everywhere, and right."""
    for expert in EXPERTS:
        tensors = edit.tensors(expert)
        for module in quantized(tensors):
            tensors[f"{module}.input_scale"] = torch.ones_like(tensors[f"{module}.input_scale"])
        edit.write(expert, tensors)
