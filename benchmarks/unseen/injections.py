"""Ways to change a running pipeline that the faults and healthy changes of the lists share."""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable
from typing import Any

import torch
from diffusers.models.autoencoders.vae import DecoderOutput

from benchmarks.unseen.loop import Loop
from benchmarks.unseen.patch import Patch

transformer_wan: Any = importlib.import_module("diffusers.models.transformers.transformer_wan")
"""Where Wan's attention and RoPE live; typed loosely, since names that it imported are replaced there."""
Tensor = torch.Tensor
Injection = Callable[[Patch], None]
Turn = Callable[[Tensor, tuple[Tensor, Tensor]], Tensor]
"""Rotate queries or keys [B, S, H, D] by tables [1, S, 1, D]."""


def as_fp8(values: Tensor) -> Tensor:
    """Round to FP8 E4M3 with one scale per tensor."""
    scale = values.float().abs().max().clamp(min=1e-12) / 448
    return ((values.float() / scale).to(torch.float8_e4m3fn).float() * scale).to(values.dtype)


def loop(**places: Any) -> Injection:
    """Run the benchmark's own denoising loop with changes at these places, see `Loop`."""
    return lambda patch: Loop(**places).install(patch)


def after_timesteps(change: Callable[[Any], None]) -> Injection:
    """Change what ``set_timesteps`` left in the scheduler."""

    def inject(patch: Patch) -> None:
        def method(scheduler: Any, original: Any, *arguments: Any, **options: Any) -> None:
            original(*arguments, **options)
            change(scheduler)

        patch.stepping("set_timesteps", method)

    return inject


def ends(*endings: str) -> Callable[[str], bool]:
    """Return a choice of the modules whose name has one of these ends."""
    return lambda name: name.endswith(endings)


def modules(pick: Callable[[str], bool], method: Callable[..., Any], experts: slice = slice(None)) -> Injection:
    """Override ``forward`` of the experts' modules whose name ``pick`` chooses."""

    def inject(patch: Patch) -> None:
        hits = 0
        for expert in patch.experts[experts]:
            for name, module in list(expert.named_modules()):
                if pick(name):
                    patch.override(module, "forward", method)
                    hits += 1
        if not hits:
            raise LookupError("no such module")

    return inject


def dequantizers(change: Callable[[Any, Tensor], Tensor], pick: Callable[[str], bool]) -> Injection:
    """Change the dequantized weight [N, K] of the Linears that ``pick`` chooses."""

    def inject(patch: Patch) -> None:
        hits = 0
        for expert in patch.experts:
            for name, module in list(expert.named_modules()):
                if hasattr(module, "dequantized") and pick(name):
                    patch.override(
                        module, "dequantized", lambda original, dtype: change(original.__self__, original(dtype))
                    )
                    hits += 1
        if not hits:
            raise LookupError("no quantized Linear")

    return inject


def vae_decode(change: Callable[[Any, Tensor], Tensor]) -> Injection:
    """Replace the VAE's own decoding: the change gets the VAE's ``_decode`` and its latents, and gives frames."""
    return lambda patch: patch.override(
        patch.pipe.vae,
        "_decode",
        lambda original, latents, *_rest, **_options: DecoderOutput(sample=change(original, latents)),
    )


def decoder_modules(kind: str, method: Callable[..., Any]) -> Injection:
    """Override ``forward`` of the decoder's modules of one class."""

    def inject(patch: Patch) -> None:
        hits = [module for module in patch.pipe.vae.decoder.modules() if type(module).__name__ == kind]
        if not hits:
            raise LookupError(f"the decoder has no {kind}")
        for module in hits:
            patch.override(module, "forward", method)

    return inject


def attention(method: Callable[..., Tensor]) -> Injection:
    """Replace every attention: ``method`` gets the original function, query, key, value [B, S, H, D] and options."""

    def inject(patch: Patch) -> None:
        plain = transformer_wan.dispatch_attention_fn
        patch.put(transformer_wan, "dispatch_attention_fn", functools.partial(method, plain))

    return inject


def attention_inputs(change: Callable[..., tuple[Tensor, Tensor, Tensor]]) -> Injection:
    """Change query, key and value [B, S, H, D] of every attention; the change may also edit the options, a dict."""

    def attend(plain: Any, query: Tensor, key: Tensor, value: Tensor, *arguments: Any, **options: Any) -> Any:
        return plain(*change(query, key, value, options), *arguments, **options)

    return attention(attend)


def attention_processor(turn: Turn, normed: torch.dtype | None = None) -> Injection:
    """Give the experts' attention another rotation; ``normed``: dtype in which norm and rotation are one kernel."""

    def attend(original: Any, attn: Any, states: Tensor, text: Any = None, mask: Any = None, rotary: Any = None) -> Any:
        source = states if text is None else text
        query, key, value = attn.to_q(states), attn.to_k(source), attn.to_v(source)
        query, key = (
            norm(part if normed is None else part.to(normed)).unflatten(2, (attn.heads, -1))
            for norm, part in ((attn.norm_q, query), (attn.norm_k, key))
        )
        if rotary is not None:
            query, key = turn(query, rotary), turn(key, rotary)
        value = torch.unflatten(value, 2, (attn.heads, -1))
        made = transformer_wan.dispatch_attention_fn(
            query.to(value.dtype),
            key.to(value.dtype),
            value,
            attn_mask=mask,
            dropout_p=0.0,
            is_causal=False,
            backend=original.__self__._attention_backend,
            parallel_config=None,
        )
        return attn.to_out[1](attn.to_out[0](made.flatten(2, 3).type_as(value)))

    def inject(patch: Patch) -> None:
        for expert in patch.experts:
            for block in expert.blocks:
                for attention in (block.attn1, block.attn2):
                    patch.override(attention.processor, "__call__", attend)

    return inject
