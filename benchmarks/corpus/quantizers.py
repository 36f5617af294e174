"""Right checkpoints and faults of further quantizers, converters and downloads.

compressed-tensors' MXFP4 and MXFP8, fbgemm, AMD Quark, DeepSeek's power-of-two blocks, HQQ, Comfy-Org's repository,
adapters that were not merged, Linears under each other's names, zero points of another convention, lost dtypes.
Every row was written down with its right answer before it was run.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from benchmarks.corpus import libraries, published, written
from benchmarks.corpus.edit import Edit, Tensors, quantized
from benchmarks.corpus.exports import EXPERTS
from benchmarks.corpus.mutations import FP8, Mutation

E4M3_MAX = 448


def compressed(edit: Edit, kind: str) -> None:
    """compressed-tensors' own MX compressors: ``mxfp4`` (packed) or ``mxfp8``."""
    from compressed_tensors.compressors.mxfp4 import MXFP4PackedCompressor
    from compressed_tensors.compressors.mxfp8 import MXFP8QuantizationCompressor
    from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme

    bits, largest = (4, 4.0) if kind == "mxfp4" else (8, 256.0)
    compressor = MXFP4PackedCompressor if kind == "mxfp4" else MXFP8QuantizationCompressor
    weights = {"num_bits": bits, "type": "float", "strategy": "group", "group_size": 32, "symmetric": True}
    scheme = QuantizationScheme(targets=["Linear"], weights=QuantizationArgs(**weights))

    def change(tensors: Tensors, module: str, weight: torch.Tensor) -> None:
        amax = tensors.pop(f"{module}.weight").float().reshape(len(weight), -1, 32).abs().amax(-1)
        scale = 2.0 ** torch.floor(torch.log2(amax.clamp(min=1e-30) / largest))
        made = compressor.compress({"weight": weight, "weight_scale": scale}, scheme)
        tensors.update({f"{module}.{name}": value.detach() for name, value in made.items()})

    stated = {
        "quant_method": "compressed-tensors",
        "format": "mxfp4-pack-quantized" if kind == "mxfp4" else "mxfp8-quantized",
        "ignore": written.kept(edit),
        "config_groups": {"group_0": {"weights": weights, "targets": ["Linear"]}},
    }
    written.remake(edit, change, stated)


def asymmetric_int8(edit: Edit, moved: int = 0) -> None:
    """compressed-tensors' asymmetric INT8 per channel; ``moved``: codes that every zero point is too large by."""

    def change(tensors: Tensors, module: str, weight: torch.Tensor) -> None:
        low, high = weight.amin(1, True).clamp(max=0), weight.amax(1, True).clamp(min=0)
        scale = (high - low) / 255
        zero = (-128 - low / scale).round().clamp(-128, 127)
        codes = (weight / scale + zero).round().clamp(-128, 127)
        tensors[f"{module}.weight"], tensors[f"{module}.weight_scale"] = codes.to(torch.int8), scale
        tensors[f"{module}.weight_zero_point"] = (zero + moved).clamp(-128, 127).to(torch.int8)

    weights = {"num_bits": 8, "type": "int", "strategy": "channel", "symmetric": False}
    groups = {"group_0": {"weights": weights, "targets": ["Linear"]}}
    stated = {"quant_method": "compressed-tensors", "format": "int-quantized", "ignore": written.kept(edit)}
    written.remake(edit, change, {**stated, "config_groups": groups})


def fbgemm(edit: Edit) -> None:
    """transformers' ``fbgemm_fp8``: a scale per row, and an upper bound of the activations' scale per Linear."""

    def change(tensors: Tensors, module: str, weight: torch.Tensor) -> None:
        scale = weight.abs().amax(1, keepdim=True) / E4M3_MAX
        tensors[f"{module}.weight"], tensors[f"{module}.weight_scale"] = (weight / scale).to(FP8), scale
        tensors[f"{module}.input_scale_ub"] = torch.tensor([1200.0])

    skip = written.kept(edit)
    written.remake(
        edit, change, {"quant_method": "fbgemm_fp8", "activation_scale_ub": 1200.0, "modules_to_not_convert": skip}
    )


def power_of_two_blocks(edit: Edit, stated: tuple[int, int] = (128, 128)) -> None:
    """DeepSeek's blocks with ``scale_fmt: ue8m0``; ``stated``: the block size of the configuration."""

    def change(tensors: Tensors, module: str, weight: torch.Tensor) -> None:
        rows, columns = -(-weight.shape[0] // 128), -(-weight.shape[1] // 128)
        padded = torch.zeros(rows * 128, columns * 128)
        padded[: weight.shape[0], : weight.shape[1]] = weight
        tiles = padded.reshape(rows, 128, columns, 128)
        scale = 2.0 ** torch.ceil(torch.log2(tiles.abs().amax((1, 3)) / E4M3_MAX))
        codes = (tiles / scale[:, None, :, None]).reshape(padded.shape)[: weight.shape[0], : weight.shape[1]]
        tensors[f"{module}.weight"] = codes.to(FP8)
        tensors[f"{module}.weight_scale_inv"] = scale.to(torch.float8_e8m0fnu)

    written.remake(edit, change, {
        "quant_method": "fp8", "fmt": "e4m3", "scale_fmt": "ue8m0", "activation_scheme": "dynamic",
        "weight_block_size": list(stated), "modules_to_not_convert": written.kept(edit),
    })  # fmt: skip


def quark(edit: Edit, kind: str) -> None:
    """AMD Quark: ``fp8_e4m3`` per tensor, or ``fp4`` in groups of 32 with a power of two (MXFP4)."""
    linear = written.mxfp4 if kind == "fp4" else published.per_tensor("weight_scale")
    weight = {"dtype": kind, "qscheme": "per_group" if kind == "fp4" else "per_tensor", "is_dynamic": False}
    written.remake(
        edit,
        linear,
        {"quant_method": "quark", "exclude": written.kept(edit), "global_quant_config": {"weight": weight}},
    )


def hqq(edit: Edit, strength: str = "") -> None:
    """HQQ: codes, scale and zero of each Linear under its own names, and no weight."""

    def change(tensors: Tensors, module: str, weight: torch.Tensor) -> None:
        tensors.pop(f"{module}.weight")
        groups = weight.reshape(-1, 64)
        low, high = groups.amin(1, True), groups.amax(1, True)
        step = ((high - low) / 15).clamp(min=1e-8)
        codes = ((groups - low) / step).round().to(torch.uint8)
        half = len(codes) // 2
        tensors[f"{module}.W_q"] = (codes[:half] << 4) | codes[half:]
        tensors[f"{module}.scale"], tensors[f"{module}.zero"] = step.half(), (-low / step).half()
        tensors[f"{module}.shape"] = torch.tensor(weight.shape)

    written.remake(edit, change, {"quant_method": "hqq", "skip_modules": written.kept(edit)})


def unknown_layout(edit: Edit, strength: str) -> None:
    """A quantizer of tomorrow: tensors of names that nobody knows in place of the weights."""

    def change(tensors: Tensors, module: str, weight: torch.Tensor) -> None:
        tensors.pop(f"{module}.weight")
        tensors[f"{module}.lattice_points"] = torch.zeros(weight.numel() // 8, dtype=torch.int16)
        tensors[f"{module}.lattice_basis"] = torch.eye(8)

    written.remake(edit, change, {"quant_method": "lattice"})


def attention_scales(edit: Edit) -> None:
    """Scales of quantized attention beside the Linears of the quantized blocks only."""
    for expert in EXPERTS:
        tensors = edit.tensors(expert)
        for module in quantized(tensors):
            if module.endswith(".to_q"):
                stem = module.rpartition(".")[0]
                tensors |= {f"{stem}.{name}_scale": torch.tensor(0.02) for name in ("q", "k", "v", "prob")}
        edit.write(expert, tensors)


def comfy_repository(edit: Edit) -> None:
    """Comfy-Org's repository: the transformers, VAE, text encoder and LoRAs below ``split_files``."""
    written.scaled_single_files(edit)
    for file in list(edit.folder.glob("*.safetensors")):
        place = edit.folder / "split_files" / "diffusion_models" / file.name
        place.parent.mkdir(parents=True, exist_ok=True)
        file.rename(place)
    others: dict[str, Tensors] = {
        "vae/wan_2.1_vae": {"decoder.conv1.weight": torch.ones(4, 4, 3, 3, 3), "encoder.conv1.bias": torch.ones(4)},
        "text_encoders/umt5_xxl_fp8_e4m3fn_scaled": {
            "encoder.block.0.layer.0.SelfAttention.q.weight": torch.ones(8, 8).to(FP8),
            "encoder.block.0.layer.0.SelfAttention.q.scale_weight": torch.tensor(1.0),
        },
        "loras/wan2.2_t2v_lightx2v_4steps_lora_high_noise": {
            "diffusion_model.blocks.0.self_attn.q.lora_down.weight": torch.ones(4, 192)
        },
    }
    for name, tensors in others.items():
        file = edit.folder / "split_files" / f"{name}.safetensors"
        file.parent.mkdir(parents=True, exist_ok=True)
        save_file(tensors, file)


# Faults.


def unmerged(wrapped: bool) -> Mutation:
    """A transformer saved with a LoRA that was not merged; ``wrapped``: by peft, which renames the weights."""

    def mutate(edit: Edit, strength: str) -> None:
        for expert in EXPERTS:
            tensors = edit.tensors(expert)
            for name in [item for item in tensors if item.endswith((".to_q.weight", ".to_q.bias"))]:
                stem, _, suffix = name.rpartition(".")
                if suffix == "weight":
                    rows, columns = tensors[name].shape
                    tensors[f"{stem}.lora_A.default.weight"] = torch.ones(4, columns)
                    tensors[f"{stem}.lora_B.default.weight"] = torch.zeros(rows, 4)
                if wrapped:
                    tensors[f"{stem}.base_layer.{suffix}"] = tensors.pop(name)
            edit.write(expert, tensors)

    return mutate


def renamed(change: Callable[[str], str]) -> Mutation:
    """Tensors of an export under other names."""

    def mutate(edit: Edit, strength: str) -> None:
        for expert in EXPERTS:
            edit.write(expert, {change(name): value for name, value in edit.tensors(expert).items()})

    return mutate


def q_for_k(name: str) -> str:
    """Exchange the names of q and k of self-attentions."""
    swap = {".attn1.to_q.": ".attn1.to_k.", ".attn1.to_k.": ".attn1.to_q."}
    mark = next((item for item in swap if item in name), "")
    return name.replace(mark, swap[mark]) if mark else name


def next_block(name: str) -> str:
    """Move blocks 1 to 4 of the embedded model on by one, the last to the first place."""
    for number in range(1, 5):
        if name.startswith(f"blocks.{number}."):
            return name.replace(f"blocks.{number}.", f"blocks.{number % 4 + 1}.", 1)
    return name


def zero_points(stored: int, stated: str) -> Mutation:
    """GPTQ whose zero points are stored less 1 (``stored=0``) or as they are (1), with a stated format."""

    def linear(tensors: Tensors, module: str, weight: torch.Tensor) -> None:
        published.gptq()(tensors, module, weight)
        _, _, zero = published.affine(weight)
        tensors[f"{module}.qzeros"] = published.words((zero.T - 1 + stored) % 16)

    def mutate(edit: Edit, strength: str) -> None:
        written.remake(edit, linear, {**published.GPTQ, "checkpoint_format": stated})

    return mutate


def half_prefixed(edit: Edit, strength: str) -> None:
    """Every other tensor behind ComfyUI's prefix."""
    written.scaled_single_files(edit)
    for file in edit.folder.glob("*.safetensors"):
        tensors = load_file(file)
        names = sorted(tensors)
        save_file({f"{'model.diffusion_model.' * (i % 2)}{name}": tensors[name] for i, name in enumerate(names)}, file)


def broken_marker(edit: Edit, strength: str) -> None:
    """``comfy_quant`` markers that were cut short."""
    written.remake(edit, published.both(published.per_tensor("weight_scale"), _cut_marker))


def _cut_marker(tensors: Tensors, module: str, weight: torch.Tensor) -> None:
    tensors[f"{module}.comfy_quant"] = libraries.marker(format="float8_e4m3fn")[:-6].clone()


def broken_state(edit: Edit, strength: str) -> None:
    """bitsandbytes' ``quant_state`` cut short."""
    written.remake(edit, written.nf4(), written.BITSANDBYTES)
    for expert in EXPERTS:
        tensors = edit.tensors(expert)
        edit.write(expert, {k: v[:-9].clone() if "quant_state" in k else v for k, v in tensors.items()})


def offset_lost(edit: Edit, strength: str) -> None:
    """bitsandbytes' second quantization without the offset that it subtracted."""
    written.remake(edit, written.nf4(True), written.BITSANDBYTES)
    for expert in EXPERTS:
        tensors = edit.tensors(expert)
        for name in [item for item in tensors if "quant_state" in item]:
            body: dict[str, Any] = json.loads(bytes(tensors[name].tolist()))
            body.pop("nested_offset", None)
            tensors[name] = libraries.marker(**body)
        edit.write(expert, tensors)


def scales_as(dtype: torch.dtype) -> Mutation:
    """NVFP4's block scales as plain bytes."""

    def mutate(edit: Edit, strength: str) -> None:
        for expert in EXPERTS:
            tensors = edit.tensors(expert)
            edit.write(expert, {k: v.view(dtype) if v.dtype == FP8 else v for k, v in tensors.items()})

    return mutate


def unfinished(edit: Edit, strength: str) -> None:
    """A download that reserved the file's whole size and did not end: zeros, and the program's record beside them."""
    place = edit.own("transformer")
    (file,) = place.glob("*.safetensors")
    data = file.read_bytes()
    kept = len(data) * 2 // 3
    file.write_bytes(data[:kept] + bytes(len(data) - kept))
    if strength == "recorded":
        (place / f"{file.name}.aria2").write_bytes(bytes(60))


def group_size(edit: Edit, strength: str) -> None:
    """GPTQ in groups of 64 or 32 columns whose configuration states 128."""
    written.remake(edit, published.gptq(), {**published.GPTQ, "group_size": 128})
