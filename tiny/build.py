# mypy: disable-error-code="no-untyped-call"
"""Constructs the untrained modules and puts trained ones together as a real diffusers `WanPipeline`."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from tiny.modules import Expert, Pipeline, Scheduler, TextEncoder, Vae
from tiny.spec import BOUNDARY_RATIO, FLOW_SHIFT, LATENT_CHANNELS, TRAIN_TIMESTEPS
from tiny.vocab.tokenizer import build_tokenizer, pieces

TEXT_DIM = 128
HEADS, HEAD_DIM, FFN_DIM, LAYERS = 4, 48, 768, 6


def build_vae() -> Vae:
    """The VAE in miniature: 8x in space and 4x in time to 16 channels, like A14B's.

    The residual variant (Wan2.2 5B's, patch 2 inside) is used: it trains in minutes where the plain one does not.
    Initialised so that it trains fast: each residual block starts as the identity, and channel 0 starts as the constant
    one, because RMS normalisation over channels would otherwise erase amplitude.
    """
    from diffusers import AutoencoderKLWan
    from diffusers.models.autoencoders.autoencoder_kl_wan import WanResidualBlock

    vae: Vae = AutoencoderKLWan(
        base_dim=24,
        decoder_base_dim=24,
        z_dim=LATENT_CHANNELS,
        dim_mult=[1, 2, 2],
        num_res_blocks=1,
        temperal_downsample=[True, True],
        latents_mean=[0.0] * LATENT_CHANNELS,
        latents_std=[1.0] * LATENT_CHANNELS,
        is_residual=True,
        in_channels=12,
        out_channels=12,
        patch_size=2,
        scale_factor_temporal=4,
        scale_factor_spatial=8,
    )
    with torch.no_grad():
        for module in vae.modules():
            if isinstance(module, WanResidualBlock):
                for parameter in module.conv2.parameters():
                    parameter.zero_()
        for conv in (vae.encoder.conv_in, vae.decoder.conv_in):
            conv.weight[0].zero_()
            conv.bias[0] = 1.0
    return vae


def build_transformer() -> Expert:
    """One expert: 6 blocks of width 192, patch (1, 2, 2), cross-attention to the text; about 4 M parameters."""
    from diffusers import WanTransformer3DModel

    model: Expert = WanTransformer3DModel(
        patch_size=(1, 2, 2),
        num_attention_heads=HEADS,
        attention_head_dim=HEAD_DIM,
        in_channels=LATENT_CHANNELS,
        out_channels=LATENT_CHANNELS,
        text_dim=TEXT_DIM,
        freq_dim=256,
        ffn_dim=FFN_DIM,
        num_layers=LAYERS,
        cross_attn_norm=True,
        qk_norm="rms_norm_across_heads",
        eps=1e-6,
        rope_max_seq_len=64,
    )
    with torch.no_grad():
        nn.init.zeros_(model.proj_out.weight)
        nn.init.zeros_(model.proj_out.bias)
    return model


def build_text_encoder() -> TextEncoder:
    """A UMT5 encoder of 3 layers and width 128 over the caption vocabulary; trained with the experts."""
    from transformers import UMT5Config, UMT5EncoderModel

    config = UMT5Config(
        vocab_size=len(pieces()),
        d_model=TEXT_DIM,
        d_kv=32,
        d_ff=256,
        num_layers=3,
        num_heads=4,
        dropout_rate=0.0,
        feed_forward_proj="gated-gelu",
        pad_token_id=0,
        eos_token_id=1,
        decoder_start_token_id=0,
    )
    return UMT5EncoderModel(config)


def build_scheduler() -> Scheduler:
    """UniPC on flow sigmas with shift 3, as Wan2.2 uses it."""
    from diffusers import UniPCMultistepScheduler

    return UniPCMultistepScheduler(
        num_train_timesteps=TRAIN_TIMESTEPS,
        prediction_type="flow_prediction",
        use_flow_sigmas=True,
        flow_shift=FLOW_SHIFT,
    )


def assemble(
    vae: Vae,
    text_encoder: TextEncoder,
    high: Expert,
    low: Expert,
) -> Pipeline:
    """A Wan2.2-A14B-shaped pipeline: `high` is `transformer`, `low` is `transformer_2`, boundary 0.875."""
    from diffusers import WanPipeline

    return WanPipeline(
        tokenizer=build_tokenizer(),
        text_encoder=text_encoder,
        vae=vae,
        scheduler=build_scheduler(),
        transformer=high,
        transformer_2=low,
        boundary_ratio=BOUNDARY_RATIO,
    )


def component_dtypes() -> dict[str, Any]:
    """The dtype of each component of the committed weights, as `from_pretrained(dtype=...)` takes it."""
    return {"default": torch.bfloat16, "vae": torch.float32}
