"""A Wan2.2-shaped pipeline with random weights, smaller than the embedded one: for plumbing, not for pictures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKLWan, UniPCMultistepScheduler, WanPipeline, WanTransformer3DModel
from transformers import T5TokenizerFast, UMT5Config, UMT5EncoderModel

PIECES = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -2.0), *((chr(97 + i), -3.0) for i in range(26))]


def transformer() -> WanTransformer3DModel:
    """Two blocks of width 64."""
    return WanTransformer3DModel(
        patch_size=(1, 2, 2),
        num_attention_heads=2,
        attention_head_dim=32,
        in_channels=4,
        out_channels=4,
        text_dim=32,
        freq_dim=32,
        ffn_dim=128,
        num_layers=2,
        rope_max_seq_len=32,
    )


def make_pipeline(folder: Path) -> Path:
    """Write a Diffusers repository: two bf16 experts, fp32 VAE, bf16 text encoder."""
    torch.manual_seed(0)
    vae = AutoencoderKLWan(
        base_dim=8, z_dim=4, dim_mult=[1, 1, 1, 1], num_res_blocks=1, latents_mean=[0.0] * 4, latents_std=[1.0] * 4
    )
    encoder = UMT5EncoderModel(
        UMT5Config(vocab_size=len(PIECES), d_model=32, d_kv=16, d_ff=64, num_layers=1, num_heads=2, pad_token_id=0)
    )
    WanPipeline(
        tokenizer=T5TokenizerFast(vocab=PIECES, extra_ids=0),
        text_encoder=encoder.to(torch.bfloat16),
        vae=vae,
        scheduler=UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=5.0),
        transformer=transformer().to(torch.bfloat16),
        transformer_2=transformer().to(torch.bfloat16),
        boundary_ratio=0.875,
    ).save_pretrained(folder, safe_serialization=True)
    return folder


def export(source: Path, folder: Path, form: str) -> Path:
    """Quantize one expert of ``source`` with modelopt and write it as modelopt does."""
    import modelopt.torch.quantization as mtq
    from modelopt.torch.export import export_hf_checkpoint

    model: Any = WanTransformer3DModel.from_pretrained(str(source), torch_dtype=torch.bfloat16)
    model = model.to(torch.bfloat16)
    generator = torch.Generator().manual_seed(1)

    def calibrate(target: Any) -> None:
        with torch.no_grad():
            target(
                hidden_states=torch.randn(1, 4, 2, 4, 4, generator=generator).to(torch.bfloat16),
                timestep=torch.tensor([900]),
                encoder_hidden_states=torch.randn(1, 8, 32, generator=generator).to(torch.bfloat16),
            )

    mtq.quantize(model, mtq.NVFP4_DEFAULT_CFG if form == "nvfp4" else mtq.FP8_DEFAULT_CFG, forward_loop=calibrate)
    # ModelOpt leaves condition_embedder and proj_out of Wan alone; here only the blocks are quantized.
    export_hf_checkpoint(model, export_dir=str(folder))
    return folder
