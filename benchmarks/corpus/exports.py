"""Real exports of the tiny model by nvidia-modelopt itself: the material that the fault corpus mutates."""

from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

REPOSITORY = Path(__file__).resolve().parents[2]
BASE = REPOSITORY / "tiny" / "weights"
EXPERTS = ("transformer", "transformer_2")
EXCLUDED = ("patch_embedding", "condition_embedder", "proj_out", "blocks.0.", "blocks.5.")
"""ModelOpt's policy for Wan2.2 (embeddings, head, first and last blocks), scaled to six blocks."""

RECIPES = ("nvfp4", "fp8", "fp8_channel", "nvfp4_awq", "nvfp4_svdquant")
WIDE = ("nvfp4", "fp8")
"""Recipes that are also exported from a base in float32, as ``<recipe>_wide``."""


def base_folder(target: Path) -> Path:
    """The BF16 base: transformers, configuration and ``model_index.json`` of the tiny model."""
    target.mkdir(parents=True, exist_ok=True)
    shutil.copy(BASE / "model_index.json", target / "model_index.json")
    for expert in EXPERTS:
        shutil.copytree(BASE / expert, target / expert, dirs_exist_ok=True)
    return target


def base_of(folder: Path) -> Path:
    """The base beside an export, that it was made from."""
    return folder.parent / ("base_wide" if folder.name.endswith("_wide") else "base")


def wide_base(base: Path, target: Path) -> Path:
    """The base in float32, as Wan2.2's is published: it rounds to the BF16 one, and has digits of its own."""
    from safetensors.torch import load_file, save_file

    shutil.copytree(base, target, dirs_exist_ok=True)
    generator = torch.Generator().manual_seed(3)
    for file in target.rglob("*.safetensors"):
        wide = {}
        for name, value in load_file(file).items():
            narrow = value.float()
            other = narrow * (1 + (torch.rand(narrow.shape, generator=generator) - 0.5) * 2**-8)
            wide[name] = torch.where(other.to(value.dtype) == value, other, narrow).contiguous()
        save_file(wide, file, metadata={"format": "pt"})
    return target


def export(recipe: str, target: Path, base: Path = BASE, **options: Any) -> Path:
    """Quantize and export both experts with nvidia-modelopt's ``export_hf_checkpoint``.

    Args:
        recipe: one of ``RECIPES``.
        target: folder to write; ``model_index.json`` is copied from the base as a full export does.
        options: passed to the exporter: ``max_shard_size``, ``enable_swizzle_layout`` ...
    """
    target.mkdir(parents=True, exist_ok=True)
    shutil.copy(base / "model_index.json", target / "model_index.json")
    for expert in EXPERTS:
        export_transformer(recipe, base / expert, target / expert, **options)
    return target


def export_transformer(recipe: str, source: Path, target: Path, **options: Any) -> Path:
    """Quantize and export one transformer."""
    import modelopt.torch.quantization as mtq
    from diffusers import WanTransformer3DModel
    from modelopt.torch.export import export_hf_checkpoint

    torch.manual_seed(0)
    torch.set_num_threads(1)
    model = WanTransformer3DModel.from_pretrained(source, torch_dtype=torch.bfloat16)  # type: ignore[no-untyped-call]
    config = quantize_config(recipe)
    mtq.quantize(model, config, calibrate)
    if recipe in ("nvfp4_awq", "nvfp4_svdquant"):
        smooth(model, low_rank=recipe == "nvfp4_svdquant")
    export_hf_checkpoint(model, export_dir=target, **options)
    return target


def quantize_config(recipe: str) -> dict[str, Any]:
    """ModelOpt's own preset of a recipe, with the Wan policy's exclusions."""
    import modelopt.torch.quantization as mtq

    presets: Mapping[str, Any] = {
        "nvfp4": mtq.NVFP4_DEFAULT_CFG,
        "fp8": mtq.FP8_DEFAULT_CFG,
        "fp8_channel": mtq.FP8_PER_CHANNEL_PER_TOKEN_CFG,
        "nvfp4_awq": mtq.NVFP4_DEFAULT_CFG,
        "nvfp4_svdquant": mtq.NVFP4_DEFAULT_CFG,
    }
    config: dict[str, Any] = copy.deepcopy(dict(presets[recipe]))
    # switched on for the blocks only: a Conv3d that once was NVFP4 calls a CUDA kernel even when switched off
    narrowed = [
        {**item, "quantizer_name": item["quantizer_name"].replace("*", "*blocks.*", 1)} if "cfg" in item else item
        for item in config["quant_cfg"]
    ]
    config["quant_cfg"] = [*narrowed, *({"quantizer_name": f"*{name}*", "enable": False} for name in EXCLUDED)]
    return config


def smooth(model: Any, low_rank: bool) -> None:
    """What AWQ and SVDQuant calibration leave behind, set by hand: their own search needs a GPU.

    AWQ keeps ``W * s`` and scales inputs by ``1 / s`` (``pre_quant_scale``); SVDQuant moves the largest singular
    directions of it into ``svdquant_lora_b @ svdquant_lora_a``. ModelOpt's exporter then writes the tensors as for
    a search on a GPU.
    """
    from modelopt.torch.export.layer_utils import is_quantlinear

    generator = torch.Generator().manual_seed(2)
    for module in model.modules():
        if not is_quantlinear(module) or not module.weight_quantizer.is_enabled:
            continue
        scale = torch.exp(0.3 * torch.randn(module.weight.shape[1], generator=generator)).to(torch.bfloat16)
        weight = module.weight.data.float() / scale.float()
        if low_rank:
            left, values, right = torch.linalg.svd(weight, full_matrices=False)
            a = right[:8].to(torch.bfloat16)
            b = (left[:, :8] * values[:8]).to(torch.bfloat16)
            module.weight_quantizer.register_buffer("svdquant_lora_a", a)
            module.weight_quantizer.register_buffer("svdquant_lora_b", b)
            weight = weight - b.float() @ a.float()
        module.weight.data = weight.to(module.weight.dtype)
        module.input_quantizer._enable_pre_quant_scale = True
        module.input_quantizer.pre_quant_scale = scale
        module.weight_quantizer.amax = module.weight.data.abs().amax()


def calibrate(model: Any) -> None:
    """A few forward passes on random latents: enough for activation scales."""
    generator = torch.Generator().manual_seed(1)
    config = model.config
    for step in (900, 500):
        latents = torch.randn(1, config.in_channels, 5, 8, 12, generator=generator).to(torch.bfloat16)
        text = torch.randn(1, 16, config.text_dim, generator=generator).to(torch.bfloat16)
        with torch.no_grad():
            model(latents, timestep=torch.tensor([step]), encoder_hidden_states=text)


def describe(folder: Path) -> dict[str, Any]:
    """``quantization_config`` as exported."""
    body = json.loads((folder / "transformer" / "config.json").read_text(encoding="utf-8"))
    section: dict[str, Any] = body.get("quantization_config", {})
    return section
