"""Injections of the second list into the running pipeline: what breaks it, and other legal ways of computing."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Final

import numpy as np
import torch
from diffusers import DPMSolverMultistepScheduler
from diffusers.models.autoencoders import autoencoder_kl_wan
from torch.nn import functional

from benchmarks.unseen.injections import (
    Injection,
    after_timesteps,
    as_fp8,
    attention,
    attention_inputs,
    attention_processor,
    decoder_modules,
    dequantizers,
    ends,
    loop,
    modules,
    vae_decode,
)
from benchmarks.unseen.loop import Loop, decoded, guided, plain_decode, statistics, two_passes
from benchmarks.unseen.patch import Patch
from benchmarks.unseen.running_model import attention_in

Tensor = torch.Tensor
BF16, FP16, FP8 = torch.bfloat16, torch.float16, torch.float8_e4m3fn
HEADS, HEAD_SIZE = 4, 48


# precision in one place


def _fp8_velocity(model: Any, latents: Tensor, moment: Tensor, positive: Tensor, negative: Tensor) -> list[Tensor]:
    """Predictions are sent between two devices in FP8."""
    return [as_fp8(velocity) for velocity in two_passes(model, latents, moment, positive, negative)]


def _fp16_text(patch: Patch) -> None:
    def forward(original: Any, *arguments: Any, **options: Any) -> Any:
        with torch.autocast("cpu", FP16):
            return original(*arguments, **options)

    patch.override(patch.pipe.text_encoder, "forward", forward)


def _fp8_embedder(patch: Patch) -> None:
    """The condition embedder, which a checkpoint keeps in BF16 and FP32, is cast to FP8 too."""
    for expert in patch.experts:
        for tensor in expert.condition_embedder.parameters():
            if tensor.ndim == 2:
                patch.values(tensor, as_fp8)


def _bf16_vae_norm(original: Any, states: Tensor) -> Tensor:
    norm, x = original.__self__, states.to(BF16)
    made = x * torch.rsqrt(x.pow(2).sum(1, keepdim=True) + 1e-12) * norm.scale * norm.gamma.to(BF16)
    answer: Tensor = made.to(states.dtype)
    return answer


def _bf16_denormalised(pipe: Any, latents: Tensor) -> Tensor:
    mean, spread = (row.to(BF16) for row in statistics(pipe))
    return decoded(pipe, latents.to(BF16) * spread + mean)


# attention, RoPE, norm


def _local(plain: Any, query: Tensor, key: Tensor, value: Tensor, *arguments: Any, **options: Any) -> Tensor:
    """Two ranks of a sequence-parallel group attend to their own half of the sequence only."""
    if query.shape[1] != key.shape[1]:
        return plain(query, key, value, *arguments, **options)  # type: ignore[no-any-return]
    parts = [part.tensor_split(2, dim=1) for part in (query, key, value)]
    return torch.cat([plain(*rank, *arguments, **options) for rank in zip(*parts, strict=True)], dim=1)


def _padded_keys(query: Tensor, key: Tensor, value: Tensor, _options: dict[str, Any]) -> tuple[Tensor, Tensor, Tensor]:
    """The sequence is padded for eight ranks, and no mask hides the zeros."""
    if query.shape[1] != key.shape[1]:
        return query, key, value
    empty = torch.zeros_like(key[:, :8])
    return query, torch.cat([key, empty], dim=1), torch.cat([value, empty], dim=1)


def _text_masked(query: Tensor, key: Tensor, value: Tensor, options: dict[str, Any]) -> tuple[Tensor, Tensor, Tensor]:
    """Cross-attention hides the padding of the text, to which Wan attends."""
    if query.shape[1] != key.shape[1]:
        kept = ~(key == key[:, -1:]).flatten(2).all(-1)
        kept[:, 0] = True
        options["attn_mask"] = kept[:, None, None]
    return query, key, value


def _turn_halves(states: Tensor, tables: tuple[Tensor, Tensor]) -> Tensor:
    """Values i and i + D/2 are a pair, not 2i and 2i + 1."""
    cos, sin = tables[0][..., 0::2], tables[1][..., 1::2]
    first, second = states.chunk(2, dim=-1)
    return torch.cat([first * cos - second * sin, first * sin + second * cos], dim=-1).type_as(states)


def _turn_complex(states: Tensor, tables: tuple[Tensor, Tensor]) -> Tensor:
    """Pairs as complex numbers in double precision, as Wan's own code does."""
    pairs = torch.view_as_complex(states.double().contiguous().view(*states.shape[:-1], -1, 2))
    unit = torch.complex(tables[0][..., 0::2].double(), tables[1][..., 1::2].double())
    return torch.view_as_real(pairs * unit).flatten(-2).type_as(states)


def _rope_restarts(patch: Patch) -> None:
    """The second rank of a sequence-parallel group counts its positions from zero."""

    def tables(original: Any, states: Tensor) -> tuple[Tensor, Tensor]:
        cos, sin = original(states)
        half = cos.shape[1] // 2
        return torch.cat([cos[:, :half]] * 2, dim=1), torch.cat([sin[:, :half]] * 2, dim=1)

    for expert in patch.experts:
        patch.override(expert.rope, "forward", tables)


def _rope_interpolated(patch: Patch) -> None:
    """Positions are multiplied by 0.9, as for a longer video than the one that is asked for."""
    for expert in patch.experts:
        rope = expert.rope
        cos, sin = [], []
        for dim in (rope.t_dim, rope.h_dim, rope.w_dim):
            frequency = 1.0 / 10000 ** (torch.arange(0, dim, 2).double() / dim)
            angles = 0.9 * torch.arange(rope.max_seq_len).double()[:, None] * frequency[None]
            cos.append(angles.cos().repeat_interleave(2, -1))
            sin.append(angles.sin().repeat_interleave(2, -1))
        patch.values(rope.freqs_cos, lambda old, made=cos: torch.cat(made, 1).to(old.dtype))  # type: ignore[misc]
        patch.values(rope.freqs_sin, lambda old, made=sin: torch.cat(made, 1).to(old.dtype))  # type: ignore[misc]


def _norm_per_head(original: Any, states: Tensor) -> Tensor:
    """Queries and keys are normalised within each head, not across all of them."""
    norm = original.__self__
    split = states.float().reshape(*states.shape[:-1], HEADS, HEAD_SIZE)
    made = split * torch.rsqrt(split.pow(2).mean(-1, keepdim=True) + norm.eps)
    answer: Tensor = (made.flatten(-2) * norm.weight.float()).to(states.dtype)
    return answer


def _silu(original: Any, states: Tensor) -> Tensor:
    return functional.silu(original.__self__.proj(states))


# scheduler


def _put_sigmas(scheduler: Any, sigmas: Tensor) -> None:
    """Give the scheduler these noise levels, with the timesteps that belong to them and zero at the end."""
    scheduler.sigmas = torch.cat([sigmas, scheduler.sigmas[-1:]]).to(torch.float32)
    scheduler.timesteps = (sigmas * scheduler.config.num_train_timesteps).to(scheduler.timesteps.dtype)


def _shifted_twice(scheduler: Any) -> None:
    shift, sigmas = scheduler.config.flow_shift, scheduler.sigmas[:-1]
    _put_sigmas(scheduler, shift * sigmas / (1 + (shift - 1) * sigmas))


def _evenly_to_the_end(scheduler: Any) -> None:
    """Sigmas are spaced evenly from 1 to 1/1000 itself, so that every step but the last is longer."""
    shift, count = scheduler.config.flow_shift, len(scheduler.timesteps)
    even = torch.linspace(1, 0.001, count, dtype=torch.float64).clamp(max=1 - 1e-6)
    _put_sigmas(scheduler, shift * even / (1 + (shift - 1) * even))


def _from_timesteps(scheduler: Any) -> None:
    """Sigmas are computed back from timesteps that were cut to integers."""
    sigmas = scheduler.timesteps.float() / scheduler.config.num_train_timesteps
    scheduler.sigmas = torch.cat([sigmas, scheduler.sigmas[-1:]])


def _next_timestep(patch: Patch) -> None:
    def given(moment: Tensor, index: int) -> Tensor:
        steps = patch.pipe.scheduler.timesteps
        return steps[index + 1] if index + 1 < len(steps) else moment

    Loop(timestep=given).install(patch)


def _ancestral(patch: Patch) -> None:
    """New noise is added after every step, as an ancestral or stochastic sampler does."""
    random = torch.Generator().manual_seed(21)

    def step(scheduler: Any, original: Any, velocity: Tensor, moment: Any, latents: Tensor, **options: Any) -> Any:
        made = original(velocity, moment, latents, **options)[0]
        level = float(scheduler.sigmas[scheduler.step_index])
        return (made + 0.15 * level * torch.randn(made.shape, generator=random),)

    patch.stepping("step", step)


def _dpm(made: Any) -> Any:
    """Another solver on the same noise levels."""
    solver: Any = DPMSolverMultistepScheduler
    return solver.from_config(dict(made.config) | {"solver_type": "midpoint"})


def _expert_early(patch: Patch) -> None:
    low = patch.pipe.transformer_2
    Loop(expert=lambda model, index: low if index == 2 else model).install(patch)


# VAE


def _temporal_tiles(original: Any, latents: Tensor) -> Tensor:
    """Two tiles in time that share one latent frame; the second begins anew with an empty cache."""
    half = latents.shape[2] // 2
    if half < 1:
        return original(latents, return_dict=False)[0]  # type: ignore[no-any-return]
    first = original(latents[:, :, : half + 1], return_dict=False)[0]
    second = original(latents[:, :, half:], return_dict=False)[0]
    return torch.cat([first, second[:, :, 1:]], dim=2)


def _unpatchified(states: Tensor, patch_size: int) -> Tensor:
    """Rows and columns inside each patch change places (``c ph pw`` in place of ``c pw ph``)."""
    batch, folded, frames, height, width = states.shape
    channels = folded // patch_size**2
    split = states.view(batch, channels, patch_size, patch_size, frames, height, width)
    return split.permute(0, 1, 4, 5, 2, 6, 3).reshape(batch, channels, frames, height * patch_size, width * patch_size)


def _replicated(patch: Patch) -> None:
    """Causal convolutions repeat the edge in place of zeros."""

    def forward(self: Any, states: Tensor, cache_x: Tensor | None = None) -> Tensor:
        left, right, top, bottom, before, _ = self._padding
        if cache_x is not None and before > 0:
            states = torch.cat([cache_x, states], dim=2)
            before -= cache_x.shape[2]
        states = functional.pad(states, (left, right, top, bottom, 0, 0), mode="replicate")
        return torch.nn.Conv3d.forward(self, functional.pad(states, (0, 0, 0, 0, before, 0)))

    patch.put(autoencoder_kl_wan.WanCausalConv3d, "forward", forward)


def _time_halves(patch: Patch) -> None:
    """The two frames that an upsampling in time makes of one change places."""
    hits = [module for name, module in patch.pipe.vae.decoder.named_modules() if name.endswith("time_conv")]
    if not hits:
        raise LookupError("the decoder has no time_conv")
    for module in hits:
        patch.override(
            module,
            "forward",
            lambda original, *arguments: torch.cat(original(*arguments).chunk(2, dim=1)[::-1], dim=1),
        )


def _mean_first(pipe: Any, latents: Tensor) -> Tensor:
    mean, spread = statistics(pipe)
    return decoded(pipe, (latents + mean) * spread)


# guidance and text


def _perpendicular(positive: Tensor, negative: Tensor, scale: float, _index: int) -> Tensor:
    """Only the part of the difference that is perpendicular to the prediction is added (arXiv 2410.02416)."""
    difference, plain = (positive - negative).float(), positive.float()
    along = (difference * plain).sum() / plain.pow(2).sum() * plain
    return (plain + (scale - 1) * (difference - along)).to(positive.dtype)


def _interval(positive: Tensor, negative: Tensor, scale: float, index: int) -> Tensor:
    """Guidance is applied in the middle of the schedule only."""
    return guided(positive, negative, scale if 2 <= index <= 5 else 1.0, index)


def _counted(change: Callable[[int, dict[str, Any], Callable[[], list[Tensor]]], list[Tensor]]) -> Injection:
    """Replace the predictions of a step: the change gets its index, a memory, and what computes them."""

    def inject(patch: Patch) -> None:
        memory: dict[str, Any] = {"index": 0}

        def count(latents: Tensor, index: int) -> Tensor:
            memory["index"] = index
            return latents

        def predict(model: Any, latents: Tensor, moment: Tensor, positive: Tensor, negative: Tensor) -> list[Tensor]:
            memory["one pass"] = lambda: model(
                hidden_states=latents, timestep=moment, encoder_hidden_states=positive, return_dict=False
            )[0]
            return change(memory["index"], memory, lambda: two_passes(model, latents, moment, positive, negative))

        Loop(fed=count, predict=predict).install(patch)

    return inject


def _negative_kept(index: int, memory: dict[str, Any], compute: Callable[[], list[Tensor]]) -> list[Tensor]:
    """The pass without the prompt runs at every second step only; its prediction serves the next step too."""
    if index % 2 == 0:
        made = compute()
        memory["negative"] = made[1]
        return made
    return [memory["one pass"](), memory["negative"]]


def _difference_kept(index: int, memory: dict[str, Any], compute: Callable[[], list[Tensor]]) -> list[Tensor]:
    """At odd steps the difference of the two passes is that of the step before."""
    if index % 2 == 0:
        made = compute()
        memory["difference"] = made[0] - made[1]
        return made
    positive = memory["one pass"]()
    return [positive, positive - memory["difference"]]


def _extrapolated(index: int, memory: dict[str, Any], compute: Callable[[], list[Tensor]]) -> list[Tensor]:
    """The velocities of step 6 continue those of the two steps before, without a call of the model."""
    before = memory.setdefault("before", [])
    made = [2 * new - old for old, new in zip(*before[-2:], strict=True)] if index == 6 else compute()
    before.append(made)
    return made


def _padding_kept(patch: Patch) -> None:
    """What the text encoder gives for padding is passed on, where Wan expects zeros."""

    def embed(original: Any, **options: Any) -> Tensor:
        pipe, length = original.__self__, options["max_sequence_length"]
        read = pipe.tokenizer(
            options["prompt"], padding="max_length", max_length=length, truncation=True, return_tensors="pt"
        )
        made: Tensor = pipe.text_encoder(read.input_ids, read.attention_mask).last_hidden_state
        return made.to(options.get("dtype") or pipe.text_encoder.dtype)

    patch.override(patch.pipe, "_get_t5_prompt_embeds", embed)


def _one_batch(patch: Patch) -> None:
    """Both prompts go through the text encoder as one batch."""

    def encode(original: Any, **options: Any) -> tuple[Tensor, Tensor]:
        texts = [options["prompt"], options.get("negative_prompt") or ""]
        texts = [text[0] if isinstance(text, list) else text for text in texts]
        length = options["max_sequence_length"]
        both = original.__self__._get_t5_prompt_embeds(prompt=texts, max_sequence_length=length)
        return both[:1], both[1:]

    patch.override(patch.pipe, "encode_prompt", encode)


def _length(text: Tensor) -> int:
    """Tokens of an embedding [1, L, D] that are no padding."""
    return int((text != 0).any(-1).sum())


def _reversed(positive: Tensor) -> Tensor:
    changed, length = positive.clone(), _length(positive)
    changed[:, :length] = positive[:, :length].flip(1)
    return changed


def _prompt(change: Callable[[str], str]) -> Injection:
    def encode(original: Any, **options: Any) -> Any:
        prompt = options["prompt"]
        text = prompt[0] if isinstance(prompt, list) else prompt
        return original(**{**options, "prompt": change(text)})

    return lambda patch: patch.override(patch.pipe, "encode_prompt", encode)


def _exchanged_later(patch: Patch) -> None:
    """The low-noise expert gets the two texts in the other order."""
    low = patch.pipe.transformer_2

    def predict(model: Any, latents: Tensor, moment: Tensor, positive: Tensor, negative: Tensor) -> list[Tensor]:
        texts = (negative, positive) if model is low else (positive, negative)
        return two_passes(model, latents, moment, *texts)

    Loop(predict=predict).install(patch)


def _final_norm_skipped(patch: Patch) -> None:
    patch.override(patch.pipe.text_encoder.encoder.final_layer_norm, "forward", lambda _original, states: states)


# loader


def _unscaled(module: Any, weight: Tensor) -> Tensor:
    """The scale of the whole tensor is left out."""
    scale = module.weight_scale_2 if hasattr(module, "weight_scale_2") else module.weight_scale
    answer: Tensor = (weight.float() / scale.float()).to(weight.dtype)
    return answer


def _codebook(module: Any, weight: Tensor) -> Tensor:
    """The largest FP4 code is read as 5, not 6."""
    scales = (module.weight_scale.float() * module.weight_scale_2.float()).repeat_interleave(16, 1)
    largest = weight.float().abs() > 5 * scales
    return torch.where(largest, (weight.float() * 5 / 6).to(weight.dtype), weight)


def _query_is_key(patch: Patch) -> None:
    for expert in patch.experts:
        attention = expert.blocks[3].attn1
        query, key = attention.to_q.dequantized, attention.to_k.dequantized
        patch.override(attention.to_q, "dequantized", lambda _original, dtype, key=key: key(dtype))
        patch.override(attention.to_k, "dequantized", lambda _original, dtype, query=query: query(dtype))


def _exchanged_values(patch: Patch, first: Tensor, second: Tensor) -> None:
    first_copy, second_copy = first.detach().clone(), second.detach().clone()
    patch.values(first, lambda _old: second_copy)
    patch.values(second, lambda _old: first_copy)


def _tables_exchanged(patch: Patch) -> None:
    for expert in patch.experts:
        _exchanged_values(patch, expert.blocks[1].scale_shift_table, expert.blocks[4].scale_shift_table)


def _norms_exchanged(patch: Patch) -> None:
    for expert in patch.experts:
        for block in expert.blocks:
            _exchanged_values(patch, block.attn1.norm_q.weight, block.attn1.norm_k.weight)


def _never_loaded(patch: Patch) -> None:
    """One Linear that is not quantized keeps the values that it was made with."""
    for expert in patch.experts:
        random = torch.Generator().manual_seed(31)
        patch.values(
            expert.blocks[0].attn1.to_out[0].weight,
            lambda old, random=random: ((torch.rand(old.shape, generator=random) - 0.5) / 7).to(old.dtype),  # type: ignore[misc]
        )


# noise and caches


def _uniform(latents: Tensor) -> Tensor:
    random = torch.Generator().manual_seed(0)
    return (torch.rand(latents.shape, generator=random) - 0.5) * math.sqrt(12)


def _numpy_noise(latents: Tensor) -> Tensor:
    made = np.random.default_rng(0).standard_normal(tuple(latents.shape), dtype=np.float32)
    return torch.from_numpy(made)


def _first_block_cache(patch: Patch) -> None:
    """At every second step of an expert only its first block runs; what the others added is kept by pass."""
    for expert in patch.experts:
        state: dict[Any, Any] = {"calls": -1}
        last = len(expert.blocks) - 1

        def begin(original: Any, states: Tensor, *rest: Any, state: dict[Any, Any] = state, **options: Any) -> Tensor:
            state["calls"] += 1
            made: Tensor = original(states, *rest, **options)
            state["start"] = made
            return made

        def middle(
            original: Any,
            states: Tensor,
            *rest: Any,
            state: dict[Any, Any] = state,
            final: bool = False,
            **options: Any,
        ) -> Tensor:
            which = state["calls"] % 2
            kept = state.get(which)
            if state["calls"] // 2 % 2 and kept is not None and kept.shape == states.shape:
                return states + kept if final else states
            made: Tensor = original(states, *rest, **options)
            if final:
                state[which] = made - state["start"]
            return made

        patch.override(expert.blocks[0], "forward", begin)
        for index in range(1, last + 1):
            patch.override(
                expert.blocks[index],
                "forward",
                lambda original, *rest, final=index == last, middle=middle, **options: middle(
                    original, *rest, final=final, **options
                ),
            )


def _keys_of_before(patch: Patch) -> None:
    """Self-attention of block 2 reads the keys and values of the call before."""
    for expert in patch.experts:
        for module in (expert.blocks[2].attn1.to_k, expert.blocks[2].attn1.to_v):
            kept: list[Tensor] = []

            def forward(original: Any, states: Tensor, kept: list[Tensor] = kept) -> Tensor:
                made: Tensor = original(states)
                before = kept[0] if kept and kept[0].shape == made.shape else made
                kept[:] = [made]
                return before

            patch.override(module, "forward", forward)


# healthy


def _kept_by_value(patch: Patch, modules: list[Any]) -> None:
    """A module is not called again for an input that it has had."""
    for module in modules:
        kept: list[tuple[Tensor, Tensor]] = []

        def forward(original: Any, states: Tensor, kept: list[tuple[Tensor, Tensor]] = kept) -> Tensor:
            for given, answer in kept:
                if given.shape == states.shape and torch.equal(given, states):
                    return answer
            made: Tensor = original(states)
            kept.append((states.clone(), made))
            return made

        patch.override(module, "forward", forward)


def _cross_kept(patch: Patch) -> None:
    _kept_by_value(patch, [part for e in patch.experts for b in e.blocks for part in (b.attn2.to_k, b.attn2.to_v)])


def _text_projected_once(patch: Patch) -> None:
    _kept_by_value(patch, [expert.condition_embedder.text_embedder for expert in patch.experts])


def _by_heads(plain: Any, query: Tensor, key: Tensor, value: Tensor, *arguments: Any, **options: Any) -> Tensor:
    """Attention of one head after the other."""
    heads = zip(*(part.tensor_split(part.shape[2], dim=2) for part in (query, key, value)), strict=True)
    return torch.cat([plain(*head, *arguments, **options) for head in heads], dim=2)


def _query_chunks(plain: Any, query: Tensor, key: Tensor, value: Tensor, *arguments: Any, **options: Any) -> Tensor:
    """Attention of two parts of the queries, each over all keys."""
    chunks = query.tensor_split(2, dim=1)
    return torch.cat([plain(chunk, key, value, *arguments, **options) for chunk in chunks], dim=1)


def _own_layer_norm(patch: Patch) -> None:
    """Layer norms in float32, written out."""

    def forward(original: Any, states: Tensor) -> Tensor:
        norm, x = original.__self__, states.float()
        variance, mean = torch.var_mean(x, -1, correction=0, keepdim=True)
        made = (x - mean) / torch.sqrt(variance + norm.eps)
        if norm.weight is not None:
            made = made * norm.weight.float() + norm.bias.float()
        return made.to(states.dtype)

    for expert in patch.experts:
        for module in list(expert.modules()):
            if type(module).__name__ == "FP32LayerNorm":
                patch.override(module, "forward", forward)


def _own_rms_norm(original: Any, states: Tensor) -> Tensor:
    """Norms of queries and keys in float32, written out."""
    norm, x = original.__self__, states.float()
    made: Tensor = x / torch.sqrt((x * x).mean(-1, keepdim=True) + norm.eps) * norm.weight.float()
    return made.to(states.dtype)


def _patch_as_product(patch: Patch) -> None:
    """The patch embedding as a product of matrices, which a convolution whose stride is its kernel equals."""

    def forward(original: Any, states: Tensor) -> Tensor:
        conv = original.__self__
        batch, channels, frames, height, width = states.shape
        split = states.view(batch, channels, frames, height // 2, 2, width // 2, 2)
        rows = split.permute(0, 2, 3, 5, 1, 4, 6).reshape(batch, -1, channels * 4)
        made = functional.linear(rows, conv.weight.flatten(1), conv.bias)
        return made.transpose(1, 2).reshape(batch, -1, frames, height // 2, width // 2)

    for expert in patch.experts:
        patch.override(expert.patch_embedding, "forward", forward)


def _batch_negative_first(
    model: Any, latents: Tensor, moment: Tensor, positive: Tensor, negative: Tensor
) -> list[Tensor]:
    both = model(
        hidden_states=latents.repeat(2, 1, 1, 1, 1),
        timestep=moment.expand(2),
        encoder_hidden_states=torch.cat([negative, positive]),
        return_dict=False,
    )[0]
    return [both[1:], both[:1]]


def _per_token(model: Any, latents: Tensor, moment: Tensor, positive: Tensor, negative: Tensor) -> list[Tensor]:
    """The timestep once per token, as TI2V gives it."""
    tokens = latents.shape[2] * (latents.shape[3] // 2) * (latents.shape[4] // 2)
    return two_passes(model, latents, moment[:, None].expand(-1, tokens), positive, negative)


def _strided(latents: Tensor) -> Tensor:
    """The same noise inside a larger buffer."""
    buffer = torch.zeros(*latents.shape[:-1], latents.shape[-1] + 4)
    buffer[..., :-4] = latents
    return buffer[..., :-4]


def _weights_kept(patch: Patch) -> None:
    """Each weight is dequantized once."""
    for expert in patch.experts:
        for module in list(expert.modules()):
            if hasattr(module, "dequantized"):
                kept: dict[Any, Tensor] = {}

                def once(original: Any, dtype: torch.dtype, kept: dict[Any, Tensor] = kept) -> Tensor:
                    if dtype not in kept:
                        kept[dtype] = original(dtype)
                    return kept[dtype]

                patch.override(module, "dequantized", once)


def _slicing(patch: Patch) -> None:
    """The VAE decodes one video of a batch after the other; the batch has one."""
    patch.pipe.vae.enable_slicing()
    patch.later(patch.pipe.vae.disable_slicing)


def _shared_memory(patch: Patch) -> None:
    """Weights lie in memory that several processes could read."""
    for expert in patch.experts:
        expert.share_memory()


def _other_kernels(patch: Patch) -> None:
    """Without oneDNN: other kernels for convolutions and products."""
    patch.enter(torch.backends.mkldnn.flags(enabled=False))


SECOND_INJECTIONS: Final[dict[str, Injection]] = {
    # precision in one place
    "fp8_attention_values": attention_inputs(lambda query, key, value, _options: (query, key, as_fp8(value))),
    "fp8_velocity": loop(predict=_fp8_velocity),
    "fp8_ffn_hidden": modules(ends("ffn.net.0"), lambda original, states: as_fp8(original(states))),
    "fp16_text_encoder": _fp16_text,
    "fp8_condition_embedder": _fp8_embedder,
    "bf16_vae_norms": decoder_modules("WanRMS_norm", _bf16_vae_norm),
    "bf16_denormalised": loop(decode=_bf16_denormalised),
    # attention, RoPE, norm
    "ranks_attend_locally": attention(_local),
    "padded_keys_seen": attention_inputs(_padded_keys),
    "text_padding_masked": attention_inputs(_text_masked),
    "rope_pairs_in_halves": attention_processor(_turn_halves),
    "rope_restarts": _rope_restarts,
    "rope_interpolated": _rope_interpolated,
    "qk_norm_per_head": modules(ends("attn1.norm_q", "attn1.norm_k"), _norm_per_head),
    "softmax_capped": lambda patch: attention_in(
        patch, lambda scores: (3 * torch.tanh(scores / 3)).softmax(-1), cross=False
    ),
    "ffn_silu": modules(ends("ffn.net.0"), _silu),
    # scheduler and timesteps
    "shifted_twice": after_timesteps(_shifted_twice),
    "sigmas_to_the_end": after_timesteps(_evenly_to_the_end),
    "sigmas_from_timesteps": after_timesteps(_from_timesteps),
    "sigmas_start_lower": after_timesteps(lambda scheduler: _put_sigmas(scheduler, scheduler.sigmas[:-1] * 0.96)),
    "timestep_next": _next_timestep,
    "solver_predicts_noise": lambda patch: patch.configure(predict_x0=False),
    "dpm_solver": lambda patch: patch.schedule(_dpm),
    "ancestral_noise": _ancestral,
    "expert_switch_early": _expert_early,
    # VAE at runtime
    "vae_unpatchify_transposed": lambda patch: patch.put(autoencoder_kl_wan, "unpatchify", _unpatchified),
    "vae_temporal_tiles": vae_decode(_temporal_tiles),
    "vae_edge_replicated": _replicated,
    "vae_shortcut_lost": decoder_modules("DupUp3D", lambda original, *rest, **options: 0 * original(*rest, **options)),
    "vae_output_clipped": loop(decode=lambda pipe, latents: plain_decode(pipe, latents).clamp(0, 1)),
    "vae_mean_first": loop(decode=_mean_first),
    "vae_time_halves_exchanged": _time_halves,
    # guidance
    "guidance_interval": loop(combine=_interval),
    "guidance_perpendicular": loop(combine=_perpendicular),
    "guidance_tenth_less": loop(
        combine=lambda positive, negative, scale, index: guided(positive, negative, scale * 0.9, index)
    ),
    "negative_every_second": _counted(_negative_kept),
    # text passes
    "text_padding_kept": _padding_kept,
    "text_reversed": loop(texts=lambda positive, negative: (_reversed(positive), negative)),
    "text_left_padded": loop(
        texts=lambda positive, negative: (positive.roll(-_length(positive), 1), negative.roll(-_length(negative), 1))
    ),
    "text_before_last_norm": _final_norm_skipped,
    "prompt_prefixed": _prompt(lambda text: f"best quality, {text}"),
    "texts_exchanged_later": _exchanged_later,
    # loader
    "loader_scale_lost": dequantizers(_unscaled, lambda name: name == "blocks.1.attn2.to_q"),
    "loader_query_is_key": _query_is_key,
    "loader_tables_exchanged": _tables_exchanged,
    "loader_norms_exchanged": _norms_exchanged,
    "loader_never_loaded": _never_loaded,
    "loader_codebook": dequantizers(_codebook, lambda _name: True),
    # caches and noise
    "noise_uniform": loop(initial=_uniform),
    "noise_of_numpy": loop(initial=_numpy_noise),
    "noise_frames_reversed": loop(initial=lambda latents: latents.flip(2)),
    "noise_centred": loop(initial=lambda latents: latents - latents.mean((2, 3, 4), keepdim=True)),
    "cache_first_block": _first_block_cache,
    "cache_keys_of_before": _keys_of_before,
    "cache_guidance_difference": _counted(_difference_kept),
    "cache_extrapolated": _counted(_extrapolated),
    # healthy
    "vae_nearest": decoder_modules(
        "WanUpsample",
        lambda _original, states: functional.interpolate(states.float(), scale_factor=2.0).type_as(states),
    ),
    "vae_slicing": _slicing,
    "cross_keys_kept": _cross_kept,
    "text_projected_once": _text_projected_once,
    "attention_by_heads": attention(_by_heads),
    "attention_in_chunks": attention(_query_chunks),
    "rope_complex": attention_processor(_turn_complex),
    "layer_norm_written_out": _own_layer_norm,
    "qk_norm_written_out": modules(ends("norm_q", "norm_k"), _own_rms_norm),
    "patch_as_product": _patch_as_product,
    "timestep_float": loop(timestep=lambda moment, _index: moment.float()),
    "timestep_per_token": loop(predict=_per_token),
    "batch_negative_first": loop(predict=_batch_negative_first),
    "guidance_from_conditional": loop(
        combine=lambda positive, negative, scale, _index: positive + (scale - 1) * (positive - negative)
    ),
    "other_kernels": _other_kernels,
    "text_one_batch": _one_batch,
    "latents_strided": loop(initial=_strided),
    "frames_rounded_before": loop(shown=lambda frames: (frames * 255).round() / 255),
    "scheduler_remade": lambda patch: patch.configure(),
    "prompt_spaced": _prompt(lambda text: f"  {text} "),
    "weights_shared": _shared_memory,
    "weights_dequantized_once": _weights_kept,
}
