"""Injections of the third list into the running pipeline: what breaks it, and other legal ways of computing."""

from __future__ import annotations

import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

import torch
from diffusers.models.autoencoders import autoencoder_kl_wan
from diffusers.schedulers.scheduling_utils import SchedulerOutput
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel

from benchmarks.unseen.injections import (
    Injection,
    as_fp8,
    attention,
    attention_processor,
    decoder_modules,
    dequantizers,
    ends,
    loop,
    modules,
)
from benchmarks.unseen.loop import Loop, decoded, guided, plain_decode, statistics, two_passes
from benchmarks.unseen.patch import Patch
from harness.records.generation import DEQUANTIZE

Tensor = torch.Tensor
Attend = Callable[[Tensor, Tensor, Tensor], Tensor]
"""Attention in float32: queries, keys and values [B, H, S, D] give [B, H, Q, D]."""
Product = Callable[[Tensor, Tensor, Tensor | None], Tensor]
"""Linear: x [..., K], weight [N, K] and bias [N] of the same dtype give [..., N]."""
FP8 = torch.float8_e4m3fn


# attention


def _attention(compute: Attend, *, self_only: bool = False) -> Injection:
    """Compute every attention by ``compute``, or only those in which a sequence attends to itself."""

    def attend(plain: Any, query: Tensor, key: Tensor, value: Tensor, *arguments: Any, **options: Any) -> Any:
        if self_only and query.shape[1] != key.shape[1]:
            return plain(query, key, value, *arguments, **options)
        made = compute(*(part.transpose(1, 2).float() for part in (query, key, value)))
        return made.transpose(1, 2).contiguous().to(query.dtype)

    return attention(attend)


def _scores(query: Tensor, key: Tensor) -> Tensor:
    return query @ key.transpose(-1, -2) / math.sqrt(query.shape[-1])


def _online(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Blocks of 32 keys with a running maximum and sum (FlashAttention, Dao et al. 2022, algorithm 1)."""
    largest = torch.full((*query.shape[:-1], 1), -torch.inf)
    total, made = torch.zeros_like(largest), torch.zeros(*query.shape[:-1], value.shape[-1])
    for keys, values in zip(torch.split(key, 32, 2), torch.split(value, 32, 2), strict=True):
        scores = _scores(query, keys)
        now = torch.maximum(largest, scores.amax(-1, keepdim=True))
        weights, kept = (scores - now).exp(), (largest - now).exp()
        total, made, largest = total * kept + weights.sum(-1, keepdim=True), made * kept + weights @ values, now
    return made / total


def _ring(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Two ranks hold a half of the keys each; results are merged by their log-sum-exp, as ring attention does."""
    parts = []
    for keys, values in zip(key.tensor_split(2, 2), value.tensor_split(2, 2), strict=True):
        scores = _scores(query, keys)
        parts.append((scores.softmax(-1) @ values, scores.logsumexp(-1, keepdim=True)))
    (first, first_sum), (second, second_sum) = parts
    return first - torch.sigmoid(second_sum - first_sum) * (first - second)


def _padded(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """The sequence is padded to a multiple of 64; a mask hides what was added."""
    extra = -key.shape[2] % 64
    keys, values, queries = (functional.pad(part, (0, 0, 0, extra), value=1.0) for part in (key, value, query))
    mask = torch.arange(keys.shape[2]) < key.shape[2]
    made = functional.scaled_dot_product_attention(queries, keys, values, attn_mask=mask.expand(queries.shape[2], -1))
    return made[:, :, : query.shape[2]]


def _powers_of_two(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Kernels have ``exp2`` only: the factor log2(e) goes into the scale."""
    scores = (query * (math.log2(math.e) / math.sqrt(query.shape[-1]))) @ key.transpose(-1, -2)
    weights = torch.exp2(scores - scores.amax(-1, keepdim=True))
    return (weights @ value) / weights.sum(-1, keepdim=True)


def _keys_smoothed(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """The mean key is taken off, which no softmax sees (SageAttention, Zhang et al. 2024, section 4.2)."""
    return functional.scaled_dot_product_attention(query, key - key.mean(2, keepdim=True), value)


def _values_smoothed(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """The mean value is taken off and never added again."""
    return functional.scaled_dot_product_attention(query, key, value - value.mean(2, keepdim=True))


def _top_quarter(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Sparse attention: each query sees the quarter of the keys with the highest scores."""
    scores = _scores(query, key)
    least = scores.topk(scores.shape[-1] // 4, -1).values[..., -1:]
    return scores.masked_fill(scores < least, -torch.inf).softmax(-1) @ value


def _frames_alone(patch: Patch) -> None:
    """Each latent frame attends to itself only."""
    frames = {"count": 1}

    def tables(original: Any, states: Tensor) -> Any:
        frames["count"] = states.shape[2]
        return original(states)

    def attend(plain: Any, query: Tensor, key: Tensor, value: Tensor, *arguments: Any, **options: Any) -> Any:
        if query.shape[1] != key.shape[1] or query.shape[1] % frames["count"]:
            return plain(query, key, value, *arguments, **options)
        parts = (part.tensor_split(frames["count"], 1) for part in (query, key, value))
        return torch.cat([plain(*frame, *arguments, **options) for frame in zip(*parts, strict=True)], 1)

    for expert in patch.experts:
        patch.override(expert.rope, "forward", tables)
    attention(attend)(patch)


# RoPE


def _rotate_half(states: Tensor, tables: tuple[Tensor, Tensor]) -> Tensor:
    """``x cos + rotated(x) sin``, with (a, b) rotated to (-b, a)."""
    even, odd = torch.unflatten(states, -1, (-1, 2)).unbind(-1)
    rotated = torch.stack([-odd, even], dim=-1).flatten(-2)
    return (states * tables[0] + rotated * tables[1]).type_as(states)


def _tables(places: Callable[[int, int], Tensor] = lambda count, _axis: torch.arange(count)) -> Injection:
    """Compute RoPE's tables anew at every call, in float64; ``places``: positions along an axis."""

    def forward(original: Any, states: Tensor) -> tuple[Tensor, Tensor]:
        rope = original.__self__
        counts = [size // patch for size, patch in zip(states.shape[2:], rope.patch_size, strict=True)]
        angles = []
        for axis, (count, width) in enumerate(zip(counts, (rope.t_dim, rope.h_dim, rope.w_dim), strict=True)):
            frequencies = 10000.0 ** (-torch.arange(0, width, 2, dtype=torch.float64) / width)
            table = torch.outer(places(count, axis).double(), frequencies).repeat_interleave(2, -1)
            shape = [1, 1, 1, width]
            shape[axis] = count
            angles.append(table.view(shape).expand(*counts, width))
        whole = torch.cat(angles, -1).reshape(1, math.prod(counts), 1, -1)
        dtype = rope.freqs_cos.dtype
        return whole.cos().to(dtype), whole.sin().to(dtype)

    def inject(patch: Patch) -> None:
        for expert in patch.experts:
            patch.override(expert.rope, "forward", forward)

    return inject


def _height_reversed(count: int, axis: int) -> Tensor:
    return torch.arange(count - 1, -1, -1) if axis == 1 else torch.arange(count)


# Linears, activations, blocks


def _products(pick: Callable[[str], bool], compute: Product) -> Injection:
    """Multiply by ``compute`` in the Linears that ``pick`` chooses, packed and plain; packed ones write receipts."""

    def forward(original: Any, x: Tensor) -> Tensor:
        linear = original.__self__
        weight = linear.dequantized(x.dtype) if hasattr(linear, "dequantized") else linear.weight
        bias = None if linear.bias is None else linear.bias.to(x.dtype)
        made = compute(x, weight, bias)
        if getattr(linear, "write", None) is not None:
            linear.write(linear.stored_format(), DEQUANTIZE, "", "")
        return made

    return modules(pick, forward)


def _rows_parallel(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Two ranks multiply a half of the inputs each; their results are added."""
    parts = zip(x.tensor_split(2, -1), weight.tensor_split(2, -1), strict=True)
    made: Tensor = sum(functional.linear(inputs.float(), half.float()) for inputs, half in parts)  # type: ignore[assignment]
    return (made if bias is None else made + bias.float()).to(x.dtype)


def _columns_parallel(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Three ranks compute a third of the outputs each."""
    biases = [None] * 3 if bias is None else bias.tensor_split(3)
    parts = zip(weight.tensor_split(3), biases, strict=True)
    return torch.cat([functional.linear(x, rows, part) for rows, part in parts], -1)


def _addmm(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Rows of all sequences in one matrix, the weight transposed in memory."""
    flat, turned = x.reshape(-1, x.shape[-1]), weight.t().contiguous()
    made = flat @ turned if bias is None else torch.addmm(bias, flat, turned)
    return made.view(*x.shape[:-1], -1)


def _scale_after(patch: Patch) -> None:
    """FP8 codes are multiplied as they are; the scale is applied to the product, as in an epilogue."""

    def forward(original: Any, x: Tensor) -> Tensor:
        linear = original.__self__
        product = functional.linear(x.float(), linear.weight.float()) * linear.weight_scale.reshape(-1)
        made = product if linear.bias is None else product + linear.bias.float()
        if linear.write is not None:
            linear.write(linear.stored_format(), DEQUANTIZE, "", "")
        answer: Tensor = made.to(x.dtype)
        return answer

    packed = [module for expert in patch.experts for module in expert.modules() if hasattr(module, "dequantized")]
    if not packed:
        raise LookupError("no quantized Linear")
    for module in packed:
        patch.override(module, "forward", forward)


def _gelu(patch: Patch) -> None:
    """GELU by its formula with tanh, in float32 (Hendrycks and Gimpel 2016)."""

    def gelu(_original: Any, gate: Tensor) -> Tensor:
        x = gate.float()
        return (0.5 * x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))).to(gate.dtype)

    for expert in patch.experts:
        for block in expert.blocks:
            patch.override(block.ffn.net[0], "gelu", gelu)


def _modulated(block: Any, states: Tensor, text: Tensor, time: Tensor, rotary: Any, added: float = 1.0) -> Tensor:
    """A block whose modulations are fused multiply-adds; ``one`` is what is added to the scale of attention."""
    shift, scale, gate, late_shift, late_scale, late_gate = (block.scale_shift_table + time.float()).chunk(6, dim=1)
    dtype = states.dtype
    attended = block.attn1(
        torch.addcmul(shift, block.norm1(states.float()), added + scale).to(dtype), None, None, rotary
    )
    states = torch.addcmul(states.float(), attended.float(), gate).to(dtype)
    states = block.attn2(block.norm2(states.float()).to(dtype), text, None, None) + states
    fed = block.ffn(torch.addcmul(late_shift, block.norm3(states.float()), 1 + late_scale).to(dtype))
    return torch.addcmul(states.float(), fed.float(), late_gate).to(dtype)


def _blocks(added: float = 1.0, *numbers: int) -> Injection:
    def forward(
        original: Any, hidden_states: Tensor, encoder_hidden_states: Tensor, temb: Tensor, rotary_emb: Any
    ) -> Tensor:
        return _modulated(original.__self__, hidden_states, encoder_hidden_states, temb, rotary_emb, added)

    def inject(patch: Patch) -> None:
        for expert in patch.experts:
            for number, block in enumerate(expert.blocks):
                if number in numbers or not numbers:
                    patch.override(block, "forward", forward)

    return inject


def _offloaded(original: Any, *arguments: Any, **options: Any) -> Any:
    """Weights of a block are copied to another place for the time of its call."""
    block = original.__self__
    kept = [(tensor, tensor.data) for tensor in (*block.parameters(), *block.buffers())]
    for tensor, data in kept:
        tensor.data = data.clone()
    try:
        return original(*arguments, **options)
    finally:
        for tensor, data in kept:
            tensor.data = data


def _time_kept(patch: Patch) -> None:
    """The embedding of a timestep is computed once for both passes: it is kept by the bytes of its input."""
    for expert in patch.experts:
        kept: dict[bytes, Tensor] = {}

        def forward(original: Any, sample: Tensor, *rest: Any, kept: dict[bytes, Tensor] = kept) -> Tensor:
            key = str((sample.dtype, tuple(sample.shape))).encode() + sample.float().numpy().tobytes()
            if key not in kept:
                kept[key] = original(sample, *rest)
            return kept[key]

        patch.override(expert.condition_embedder.time_embedder, "forward", forward)


def _ffn_kept() -> Callable[..., Any]:
    """The feed-forward of a block runs at every second step; the two passes of a step are kept apart."""
    calls: dict[int, tuple[int, dict[int, Tensor]]] = {}

    def forward(original: Any, states: Tensor) -> Tensor:
        count, kept = calls.get(id(original.__self__), (0, {}))
        if count % 4 < 2 or kept[count % 2].shape != states.shape:
            kept[count % 2] = original(states)
        calls[id(original.__self__)] = (count + 1, kept)
        return kept[count % 2]

    return forward


# passes, texts, scheduler


def _static_buffers(patch: Patch) -> None:
    """Inputs are copied into buffers that every call uses again, results into another, as CUDA graphs need it."""
    buffers: dict[str, Tensor] = {}

    def put(name: str, value: Tensor) -> Tensor:
        if name not in buffers or buffers[name].shape != value.shape:
            buffers[name] = torch.empty_like(value, memory_format=torch.contiguous_format)
        return buffers[name].copy_(value)

    def predict(model: Any, latents: Tensor, moment: Tensor, positive: Tensor, negative: Tensor) -> list[Tensor]:
        made = []
        for text in (positive, negative):
            velocity = model(
                hidden_states=put("latents", latents),
                timestep=put("timestep", moment),
                encoder_hidden_states=put("text", text),
                return_dict=False,
            )[0]
            made.append(put("velocity", velocity).clone())
        return made

    Loop(predict=predict).install(patch)


def _in_worker(model: Any, latents: Tensor, moment: Tensor, positive: Tensor, negative: Tensor) -> list[Tensor]:
    """A thread of its own runs the model, as in a server."""

    def work() -> list[Tensor]:
        with torch.no_grad():
            return two_passes(model, latents, moment, positive, negative)

    with ThreadPoolExecutor(1) as pool:
        return pool.submit(work).result()


def _inference_mode(patch: Patch) -> None:
    def call(original: Any, **asked: Any) -> Any:
        with torch.inference_mode():
            return original(**asked)

    patch.override(patch.pipe, "__call__", call)


def _embeddings_passed(patch: Patch) -> None:
    """Texts are encoded before the pipeline is called, which gets the embeddings."""

    def call(original: Any, **asked: Any) -> Any:
        positive, negative = original.__self__.encode_prompt(
            prompt=asked.pop("prompt"),
            negative_prompt=asked.pop("negative_prompt"),
            do_classifier_free_guidance=True,
            max_sequence_length=asked["max_sequence_length"],
            device=torch.device("cpu"),
        )
        return original(prompt_embeds=positive, negative_prompt_embeds=negative, **asked)

    patch.override(patch.pipe, "__call__", call)


def _unpadded(patch: Patch) -> None:
    """The text encoder gets no padding; rows of padding, which the pipeline replaces by zeros, are zeros."""

    def forward(original: Any, input_ids: Any = None, attention_mask: Any = None, **options: Any) -> Any:
        if input_ids is None or attention_mask is None:
            return original(input_ids, attention_mask, **options)
        length = int(attention_mask.sum(-1).max())
        made = original(input_ids[:, :length], attention_mask[:, :length], **options)
        whole = functional.pad(made.last_hidden_state, (0, 0, 0, input_ids.shape[1] - length))
        return type(made)(last_hidden_state=whole)

    patch.override(patch.pipe.text_encoder, "forward", forward)


def _solver_flattened(patch: Patch) -> None:
    """The scheduler steps latents [B, C, N]: all of its arithmetic is by element."""

    def step(_scheduler: Any, original: Any, velocity: Tensor, moment: Any, sample: Tensor, **options: Any) -> Any:
        shape, whole = sample.shape, options.pop("return_dict", True)
        made = original(velocity.flatten(2), moment, sample.flatten(2), return_dict=False, **options)[0].view(shape)
        return SchedulerOutput(prev_sample=made) if whole else (made,)

    patch.stepping("step", step)


def _negative_earlier(model: Any, latents: Tensor, moment: Tensor, positive: Tensor, negative: Tensor) -> list[Tensor]:
    """The pass without the prompt gets a timestep that is a tenth smaller."""
    made = []
    for text, timestep in ((positive, moment), (negative, (moment.float() * 0.9).to(moment.dtype))):
        made += model(hidden_states=latents, timestep=timestep, encoder_hidden_states=text, return_dict=False)
    return made


def _latents_averaged(patch: Patch) -> None:
    """Latents of a step are mixed with those of the step before."""
    before: dict[str, Tensor] = {}

    def after(latents: Tensor, index: int) -> Tensor:
        made = latents if index == 0 else 0.9 * latents + 0.1 * before["latents"]
        before["latents"] = made
        return made

    Loop(after=after).install(patch)


def _half_guided(positive: Tensor, negative: Tensor, scale: float, index: int) -> Tensor:
    """Guidance is applied to the first half of the channels only."""
    made, half = positive.clone(), positive.shape[1] // 2
    made[:, :half] = guided(positive[:, :half], negative[:, :half], scale, index)
    return made


def _clipped_guidance(positive: Tensor, negative: Tensor, scale: float, _index: int) -> Tensor:
    """The difference of both passes is clipped at its own standard deviation."""
    difference = positive - negative
    limit = float(difference.float().std())
    return negative + scale * difference.clamp(-limit, limit)


def _unit_rows(text: Tensor) -> Tensor:
    """Each token's embedding has a root mean square of 1; padding stays zero."""
    values = text.float()
    return (values * torch.rsqrt(values.pow(2).mean(-1, keepdim=True) + 1e-12)).to(text.dtype)


# VAE


def _own_padding(original: Any, states: Tensor, cache_x: Tensor | None = None) -> Tensor:
    """The convolution pads height and width itself; only frames are padded before."""
    conv, states = original.__self__, _with_frames_before(original.__self__, states, cache_x)
    return functional.conv3d(states, conv.weight, conv.bias, conv.stride, (0, conv._padding[2], conv._padding[0]))


def _by_taps(original: Any, states: Tensor, cache_x: Tensor | None = None) -> Tensor:
    """A convolution in time as a sum of convolutions of pictures, for runtimes that have no other."""
    conv, states = original.__self__, _with_frames_before(original.__self__, states, cache_x)
    batch, taps = states.shape[0], conv.weight.shape[2]
    count = states.shape[2] - taps + 1
    made = torch.zeros(())
    for tap in range(taps):
        pictures = states[:, :, tap : tap + count].transpose(1, 2).flatten(0, 1)
        padding = (conv._padding[2], conv._padding[0])
        made = made + functional.conv2d(pictures, conv.weight[:, :, tap], padding=padding)
    made = made + conv.bias.view(1, -1, 1, 1)
    answer: Tensor = torch.unflatten(made, 0, (batch, count)).transpose(1, 2).contiguous()
    return answer


def _with_frames_before(conv: Any, states: Tensor, kept: Tensor | None) -> Tensor:
    """Frames [B, C, T, H, W] after those that are kept, or after zeros."""
    missing = conv._padding[4]
    if kept is not None and missing > 0:
        states, missing = torch.cat([kept, states], 2), missing - kept.shape[2]
    return functional.pad(states, (0, 0, 0, 0, missing, 0))


def _shuffled(states: Tensor, patch_size: int) -> Tensor:
    """The decoder's last step as a pixel shuffle of every frame; channels lie as (colour, column, row)."""
    batch, _, frames, height, width = states.shape
    pictures = torch.unflatten(states, 1, (-1, patch_size, patch_size)).transpose(2, 3).flatten(1, 3)
    pictures = pictures.transpose(1, 2).reshape(batch * frames, -1, height, width)
    made = functional.pixel_shuffle(pictures, patch_size)
    answer: Tensor = torch.unflatten(made, 0, (batch, frames)).transpose(1, 2).contiguous()
    return answer


def _by_product(pipe: Any, latents: Tensor) -> Tensor:
    mean, spread = statistics(pipe)
    return decoded(pipe, torch.addcmul(mean, latents, spread))


def _half_pixel(pipe: Any, latents: Tensor) -> Tensor:
    """Latents are moved by half of a place to the right, as by two resizes with other corners."""
    moved = torch.cat([latents[..., :1], latents[..., :-1]], -1)
    return plain_decode(pipe, (latents + moved) / 2)


# loader


def _power_of_two(linear: Any, weight: Tensor) -> Tensor:
    """The scale is kept with 8 bits of exponent and no fraction."""
    scale = linear.weight_scale.float()
    factor = torch.exp2(torch.log2(scale).floor()) / scale
    answer: Tensor = (weight.float() * factor.reshape(-1, 1)).to(weight.dtype)
    return answer


THIRD_INJECTIONS: Final[dict[str, Injection]] = {
    # precision in one place
    "fp8_text_embeddings": loop(texts=lambda positive, negative: (as_fp8(positive), as_fp8(negative))),
    "fp8_attention_outputs": modules(ends("attn1.to_out.0"), lambda original, states: original(as_fp8(states))),
    # attention, RoPE, norm
    "attention_top_quarter": _attention(_top_quarter, self_only=True),
    "values_smoothed": _attention(_values_smoothed, self_only=True),
    "attention_frames_alone": _frames_alone,
    "rope_height_reversed": _tables(_height_reversed),
    "modulation_one_lost": _blocks(0.0, 3),
    # scheduler and timesteps
    "latents_averaged": _latents_averaged,
    "timestep_of_negative_less": loop(predict=_negative_earlier),
    # guidance
    "guidance_half_of_channels": loop(combine=_half_guided),
    "guidance_clipped": loop(combine=_clipped_guidance),
    # texts, noise, caches
    "text_rows_normalised": loop(texts=lambda positive, negative: (_unit_rows(positive), _unit_rows(negative))),
    "noise_clamped": loop(initial=lambda latents: latents.clamp(-1, 1)),
    "cache_ffn_every_second": lambda patch: modules(
        lambda name: name in {"blocks.2.ffn", "blocks.3.ffn", "blocks.4.ffn"}, _ffn_kept()
    )(patch),
    # VAE
    "vae_relu": decoder_modules("SiLU", lambda _original, states: states.relu()),
    "vae_latents_half_pixel": loop(decode=_half_pixel),
    # loader
    "loader_columns_rolled": dequantizers(
        lambda _linear, weight: weight.roll(16, 1), lambda name: name == "blocks.4.attn1.to_v"
    ),
    "loader_scale_power_of_two": dequantizers(_power_of_two, lambda name: name.startswith("blocks.3.")),
    # healthy
    "attention_online": _attention(_online),
    "attention_ring": _attention(_ring),
    "attention_padded_masked": _attention(_padded, self_only=True),
    "attention_powers_of_two": _attention(_powers_of_two),
    "attention_keys_smoothed": _attention(_keys_smoothed),
    "attention_math_kernel": lambda patch: patch.enter(sdpa_kernel(SDPBackend.MATH)),
    "rope_rotate_half": attention_processor(_rotate_half),
    "rope_tables_anew": _tables(),
    "norm_and_rope_one_kernel": attention_processor(_rotate_half, torch.float32),
    "rows_parallel": _products(ends("to_out.0", "ffn.net.2"), _rows_parallel),
    "columns_parallel": _products(ends("to_q", "to_k", "to_v", "ffn.net.0.proj"), _columns_parallel),
    "linears_addmm": _products(ends("to_q", "to_k", "to_v", "to_out.0", "net.0.proj", "net.2"), _addmm),
    "scale_after_product": _scale_after,
    "weights_column_major": dequantizers(lambda _linear, weight: weight.t().contiguous().t(), lambda _name: True),
    "gelu_written_out": _gelu,
    "modulation_fused": _blocks(),
    "blocks_offloaded": modules(
        lambda name: name.startswith("blocks.") and name.removeprefix("blocks.").isdigit(), _offloaded
    ),
    "time_embedding_kept": _time_kept,
    "static_buffers": _static_buffers,
    "worker_thread": loop(predict=_in_worker),
    "inference_mode": _inference_mode,
    "embeddings_passed": _embeddings_passed,
    "text_encoder_unpadded": _unpadded,
    "guidance_lerp": loop(combine=lambda positive, negative, scale, _index: torch.lerp(negative, positive, scale)),
    "solver_flattened": _solver_flattened,
    "vae_own_padding": decoder_modules("WanCausalConv3d", _own_padding),
    "vae_by_taps": decoder_modules("WanCausalConv3d", _by_taps),
    "vae_pixel_shuffle": lambda patch: patch.put(autoencoder_kl_wan, "unpatchify", _shuffled),
    "vae_spread_as_factor": loop(decode=_by_product),
    "vae_tiling_idle": lambda patch: patch.put(patch.pipe.vae, "use_tiling", True),
}
