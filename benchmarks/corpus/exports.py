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

RECIPES = ("nvfp4", "fp8", "fp8_channel", "nvfp4_awq", "nvfp4_svdquant", "nvfp4_mse", "nvfp4_four_over_six")


def base_folder(target: Path) -> Path:
    """The BF16 base: transformers, configuration and ``model_index.json`` of the tiny model."""
    target.mkdir(parents=True, exist_ok=True)
    shutil.copy(BASE / "model_index.json", target / "model_index.json")
    for expert in EXPERTS:
        shutil.copytree(BASE / expert, target / expert, dirs_exist_ok=True)
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
    model = WanTransformer3DModel.from_pretrained(source, torch_dtype=torch.bfloat16)
    config = quantize_config(recipe)
    mtq.quantize(model, config, lambda module: calibrate(module))
    export_hf_checkpoint(model, export_dir=target, **options)
    return target


def quantize_config(recipe: str) -> dict[str, Any]:
    """ModelOpt's own preset of a recipe, with the Wan policy's exclusions."""
    import modelopt.torch.quantization as mtq

    presets: Mapping[str, Any] = {
        "nvfp4": mtq.NVFP4_DEFAULT_CFG,
        "fp8": mtq.FP8_DEFAULT_CFG,
        "fp8_channel": mtq.FP8_PER_CHANNEL_PER_TOKEN_CFG,
        "nvfp4_awq": mtq.NVFP4_AWQ_LITE_CFG,
        "nvfp4_svdquant": mtq.NVFP4_SVDQUANT_DEFAULT_CFG,
        "nvfp4_mse": mtq.NVFP4_W4A4_WEIGHT_MSE_FP8_SWEEP_CFG,
        "nvfp4_four_over_six": mtq.NVFP4_DEFAULT_CFG,
    }
    config: dict[str, Any] = copy.deepcopy(dict(presets[recipe]))
    # switched on for the blocks only: a Conv3d that once was NVFP4 calls a CUDA kernel even when it is switched off again
    narrowed = [
        {**item, "quantizer_name": item["quantizer_name"].replace("*", "*blocks.*", 1)} if "cfg" in item else item
        for item in config["quant_cfg"]
    ]
    config["quant_cfg"] = [*narrowed, *({"quantizer_name": f"*{name}*", "enable": False} for name in EXCLUDED)]
    return config


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
    found: dict[str, Any] = body.get("quantization_config", {})
    return found
