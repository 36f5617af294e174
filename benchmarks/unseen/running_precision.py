"""Injections that lower the precision in one place."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from diffusers.models.autoencoders.vae import DecoderOutput

from benchmarks.unseen.injections import Injection, after_timesteps, as_fp8, loop, transformer_wan
from benchmarks.unseen.patch import Patch
from benchmarks.unseen.running_model import attention_in
from harness.engine.backends import diffusers_backend
from harness.frames.clip import Clip

Tensor = torch.Tensor
BF16, FP16, FP8 = torch.bfloat16, torch.float16, torch.float8_e4m3fn


def _through(dtype: torch.dtype) -> Callable[[Tensor], Tensor]:
    """Round values to ``dtype`` and widen them again."""
    return lambda values: values.to(dtype).to(values.dtype)


def _rope(patch: Patch) -> None:
    """Angles (position times frequency) computed in bfloat16."""
    for expert in patch.experts:
        for name in ("freqs_cos", "freqs_sin"):
            patch.values(getattr(expert.rope, name), _through(BF16))


def _rope_angles(patch: Patch) -> None:
    """Angles as bfloat16 products of position and frequency."""
    for expert in patch.experts:
        rope = expert.rope
        cos, sin = [], []
        for dim in (rope.t_dim, rope.h_dim, rope.w_dim):
            frequency = (1.0 / 10000 ** (torch.arange(0, dim, 2).float() / dim)).to(BF16)
            angles = (torch.arange(rope.max_seq_len).to(BF16)[:, None] * frequency[None]).float()
            cos.append(angles.cos().repeat_interleave(2, -1))
            sin.append(angles.sin().repeat_interleave(2, -1))
        patch.values(rope.freqs_cos, lambda _old, made=cos: torch.cat(made, 1))  # type: ignore[misc]
        patch.values(rope.freqs_sin, lambda _old, made=sin: torch.cat(made, 1))  # type: ignore[misc]


def _norms(patch: Patch) -> None:
    """Layer norms computed step by step in bfloat16."""
    for expert in patch.experts:
        for module in list(expert.modules()):
            if type(module).__name__ == "FP32LayerNorm":

                def forward(original: Any, states: Tensor) -> Tensor:
                    norm, x = original.__self__, states.to(BF16)
                    centred = x - x.mean(-1, keepdim=True)
                    made = centred * torch.rsqrt(centred.pow(2).mean(-1, keepdim=True) + norm.eps)
                    if norm.weight is not None:
                        made = made * norm.weight.to(BF16) + norm.bias.to(BF16)
                    return made.to(states.dtype)

                patch.override(module, "forward", forward)


def _qk_norms(patch: Patch) -> None:
    for expert in patch.experts:
        for name, module in list(expert.named_modules()):
            if name.endswith(("norm_q", "norm_k")):

                def forward(original: Any, states: Tensor) -> Any:
                    norm, x = original.__self__, states.to(BF16)
                    return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + norm.eps) * norm.weight.to(BF16)

                patch.override(module, "forward", forward)


def _residual(patch: Patch) -> None:
    """Sums and modulation of every block in bfloat16 (no widening)."""
    for expert in patch.experts:
        for block in expert.blocks:

            def forward(original: Any, states: Tensor, text: Tensor, temb: Tensor, rope: Any) -> Any:
                block = original.__self__
                table = (block.scale_shift_table.to(BF16) + temb.to(BF16)).chunk(6, dim=1)
                shift, scale, gate, c_shift, c_scale, c_gate = table
                normed = block.norm1(states.float()).to(BF16) * (1 + scale) + shift
                states = states + block.attn1(normed, None, None, rope) * gate
                states = states + block.attn2(block.norm2(states.float()).to(BF16), text, None, None)
                normed = block.norm3(states.float()).to(BF16) * (1 + c_scale) + c_shift
                return states + block.ffn(normed) * c_gate

            patch.override(block, "forward", forward)


def _residual_fp8(patch: Patch) -> None:
    """Hidden states between blocks kept in FP8 with one scale a tensor."""
    for expert in patch.experts:
        for block in expert.blocks:
            patch.override(block, "forward", lambda original, *rest, **options: as_fp8(original(*rest, **options)))


def _chunked_bf16(scores: Tensor) -> Tensor:
    """Softmax whose exponentials and sum are bfloat16."""
    raised = (scores - scores.amax(-1, keepdim=True)).to(BF16).exp()
    return raised / raised.sum(-1, keepdim=True, dtype=BF16)


def _accumulated(patch: Patch) -> None:
    """The product with the values is summed in bfloat16, 16 keys at a time."""
    import math

    def attend(query: Tensor, key: Tensor, value: Tensor, *_arguments: Any, **_options: Any) -> Any:
        q, k, v = (part.transpose(1, 2) for part in (query, key, value))
        weights = (q.float() @ k.float().transpose(-1, -2) / math.sqrt(q.shape[-1])).softmax(-1).to(BF16)
        total = torch.zeros_like(q)
        for start in range(0, k.shape[2], 16):
            total = total + weights[..., start : start + 16] @ v[:, :, start : start + 16]
        return total.transpose(1, 2).to(query.dtype)

    patch.put(transformer_wan, "dispatch_attention_fn", attend)


def _keys_int8(patch: Patch) -> None:
    """Queries and keys rounded to 8-bit integers, one scale a tensor."""
    plain = transformer_wan.dispatch_attention_fn

    def rounded(values: Tensor) -> Tensor:
        scale = values.abs().max() / 127
        return (values / scale).round().clamp(-127, 127) * scale

    def attend(query: Tensor, key: Tensor, value: Tensor, *arguments: Any, **options: Any) -> Any:
        return plain(rounded(query), rounded(key), value, *arguments, **options)

    patch.put(transformer_wan, "dispatch_attention_fn", attend)


def _dequantized(patch: Patch) -> None:
    """Scales are rounded to bfloat16 before they are multiplied with the codes in bfloat16."""
    for expert in patch.experts:
        for module in list(expert.modules()):
            if hasattr(module, "dequantized"):
                for name in ("weight_scale_2", "weight_scale"):
                    scale = getattr(module, name, None)
                    if isinstance(scale, Tensor) and scale.dtype == torch.float32:
                        patch.values(scale, _through(BF16))


def _dequantized_fp16(patch: Patch) -> None:
    """Dequantized weights pass through E5M2-like half the mantissa: FP8 E4M3 with one scale a tensor."""
    for expert in patch.experts:
        for module in list(expert.modules()):
            if hasattr(module, "dequantized"):
                patch.override(module, "dequantized", lambda original, dtype: as_fp8(original(dtype)))


def _scheduler_state(patch: Patch) -> None:
    """The solver keeps earlier predictions and samples in bfloat16."""

    def convert(_scheduler: Any, original: Any, *arguments: Any, **options: Any) -> Any:
        return original(*arguments, **options).to(BF16)

    patch.stepping("convert_model_output", convert)

    def step(scheduler: Any, original: Any, *arguments: Any, **options: Any) -> Any:
        made = original(*arguments, **options)
        if scheduler.last_sample is not None:
            scheduler.last_sample = scheduler.last_sample.to(BF16).float()
        return made

    patch.stepping("step", step)


def _bf16_sigmas(scheduler: Any) -> None:
    scheduler.sigmas = _through(BF16)(scheduler.sigmas)


def _time_embedding(patch: Patch) -> None:
    for expert in patch.experts:
        patch.override(
            expert.condition_embedder.timesteps_proj,
            "forward",
            lambda original, steps: original(steps.to(BF16)).to(BF16).float(),
        )
        for layer in (
            expert.condition_embedder.time_embedder.linear_1,
            expert.condition_embedder.time_embedder.linear_2,
        ):
            patch.override(
                layer, "forward", lambda original, states: original(states.to(BF16).float()).to(BF16).float()
            )


def _modulation(patch: Patch) -> None:
    for expert in patch.experts:
        for block in expert.blocks:
            patch.values(block.scale_shift_table, _through(FP8))


def _text_table(patch: Patch) -> None:
    patch.values(patch.pipe.text_encoder.shared.weight, as_fp8)


def _text_encoder_fp8(patch: Patch) -> None:
    for name, tensor in patch.pipe.text_encoder.named_parameters():
        if tensor.ndim == 2 and "relative" not in name:
            patch.values(tensor, as_fp8)


def _vae_autocast(dtype: torch.dtype) -> Injection:
    def inject(patch: Patch) -> None:
        def decode(original: Any, latents: Tensor, *arguments: Any, **options: Any) -> Any:
            with torch.autocast("cpu", dtype):
                made = original(latents, *arguments, **options)
            return DecoderOutput(sample=made.sample.float())

        patch.override(patch.pipe.vae, "_decode", decode)

    return inject


def _vae_weights(patch: Patch) -> None:
    for tensor in patch.pipe.vae.parameters():
        patch.values(tensor, as_fp8)


def _seven_bits(shown: Tensor) -> Tensor:
    return (shown * 127).round() / 127


def _truncated(patch: Patch) -> None:
    """Frames are cut to 8 bits, not rounded."""

    def cut(video: Tensor) -> Clip:
        values = video.float().nan_to_num(nan=0.0, posinf=1.0, neginf=0.0).clamp(0, 1)
        return Clip((values * 255).to(torch.uint8).permute(0, 2, 3, 1).contiguous().numpy())

    patch.put(diffusers_backend, "rounded", cut)


INJECTIONS: dict[str, Injection] = {
    # precision in one place
    "bf16_rope_table": _rope,
    "bf16_rope_angles": _rope_angles,
    "bf16_norms": _norms,
    "bf16_qk_norms": _qk_norms,
    "bf16_residual": _residual,
    "fp8_residual": _residual_fp8,
    "bf16_softmax": lambda patch: attention_in(patch, _chunked_bf16),
    "bf16_accumulation": _accumulated,
    "int8_queries_keys": _keys_int8,
    "bf16_scales": _dequantized,
    "fp8_dequantized": _dequantized_fp16,
    "bf16_latents": loop(after=lambda latents, _index: _through(BF16)(latents)),
    "fp16_latents": loop(after=lambda latents, _index: _through(FP16)(latents)),
    "bf16_scheduler_state": _scheduler_state,
    "bf16_sigmas": after_timesteps(_bf16_sigmas),
    "bf16_timesteps": loop(timestep=lambda moment, _index: moment.to(BF16)),
    "bf16_time_embedding": _time_embedding,
    "fp8_modulation": _modulation,
    "fp8_text_table": _text_table,
    "fp8_text_encoder": _text_encoder_fp8,
    "bf16_vae": _vae_autocast(BF16),
    "fp16_vae": _vae_autocast(FP16),
    "fp8_vae_weights": _vae_weights,
    "bf16_noise": loop(initial=_through(BF16)),
    "truncated_frames": _truncated,
    "seven_bit_frames": loop(shown=_seven_bits),
}
