"""Injections inside the experts: attention, RoPE, norms, softmax, loading, caches within a pass."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch

from benchmarks.unseen.injections import (
    Injection,
    attention,
    attention_inputs,
    dequantizers,
    ends,
    modules,
    transformer_wan,
)
from benchmarks.unseen.patch import Patch

Tensor = torch.Tensor


def attention_in(
    patch: Patch, scores: Callable[[Tensor], Tensor], *, cross: bool | None = None, scale: float = 1.0
) -> None:
    """Attention written out: ``scores`` gets [B, H, Q, K] in float32 and gives the probabilities."""

    def attend(plain: Any, query: Tensor, key: Tensor, value: Tensor, *arguments: Any, **options: Any) -> Any:
        if cross is not None and (key.shape[1] != query.shape[1]) != cross:
            return plain(query, key, value, *arguments, **options)
        q, k, v = (part.transpose(1, 2).float() for part in (query, key, value))
        weights = scores(q @ k.transpose(-1, -2) * (scale / math.sqrt(q.shape[-1])))
        return (weights.float() @ v).transpose(1, 2).to(query.dtype)

    attention(attend)(patch)


def _softmax(scores: Tensor) -> Tensor:
    return scores.softmax(-1)


def _causal(scores: Tensor) -> Tensor:
    mask = torch.ones_like(scores, dtype=torch.bool).tril()
    return scores.masked_fill(~mask, -torch.inf).softmax(-1)


def _window(scores: Tensor) -> Tensor:
    place = torch.arange(scores.shape[-1])
    far = (place[:, None] - place[None]).abs() > 24
    return scores.masked_fill(far, -torch.inf).softmax(-1)


def _tail_lost(scores: Tensor) -> Tensor:
    """The last block of 24 keys is never visited."""
    cut = scores.clone()
    cut[..., -24:] = -torch.inf
    return cut.softmax(-1)


def _attention(scores: Callable[[Tensor], Tensor], **options: Any) -> Injection:
    return lambda patch: attention_in(patch, scores, **options)


def _rope(change: Callable[[tuple[Tensor, Tensor], Any], tuple[Tensor, Tensor]]) -> Injection:
    """Change the tables [1, S, 1, D] that every expert's RoPE gives; the change gets the latents' shape too."""

    def inject(patch: Patch) -> None:
        for expert in patch.experts:
            patch.override(expert.rope, "forward", lambda original, states: change(original(states), states.shape))

    return inject


def _frame_later(tables: tuple[Tensor, Tensor], shape: Any) -> tuple[Tensor, Tensor]:
    """Temporal positions 1, 2, 3 ... for all but the first frame's: that of frame 2 is used for frame 1, and so on."""
    per_frame = tables[0].shape[1] // shape[2]
    made = []
    for table in tables:
        split = table.view(1, shape[2], per_frame, 1, -1).clone()
        split[:, 1:-1] = split[:, 2:].clone()
        made.append(split.view_as(table))
    return made[0], made[1]


def _one_frame(tables: tuple[Tensor, Tensor], shape: Any) -> tuple[Tensor, Tensor]:
    """Frame 3 has the position of frame 2."""
    per_frame = tables[0].shape[1] // shape[2]
    made = []
    for table in tables:
        split = table.view(1, shape[2], per_frame, 1, -1).clone()
        split[:, 3] = split[:, 2].clone()
        made.append(split.view_as(table))
    return made[0], made[1]


def _axes_exchanged(tables: tuple[Tensor, Tensor], _shape: Any) -> tuple[Tensor, Tensor]:
    """Height's and width's parts of the table change places (16 values each of 48)."""
    order = [*range(16), *range(32, 48), *range(16, 32)]
    return tables[0][..., order], tables[1][..., order]


def _theta(patch: Patch) -> None:
    """Frequencies of base 5000 instead of 10000."""
    for expert in patch.experts:
        rope = expert.rope
        fresh = transformer_wan.WanRotaryPosEmbed(48, (1, 2, 2), 64, theta=5000.0)
        patch.values(rope.freqs_cos, lambda _old, table=fresh.freqs_cos: table)  # type: ignore[misc]
        patch.values(rope.freqs_sin, lambda _old, table=fresh.freqs_sin: table)  # type: ignore[misc]


def _parameters(
    pick: Callable[[str], bool], change: Callable[[Tensor], Tensor], experts: slice = slice(None)
) -> Injection:
    def inject(patch: Patch) -> None:
        hits = 0
        for expert in patch.experts[experts]:
            for name, tensor in [*expert.named_parameters(), *expert.named_buffers()]:
                if pick(name):
                    patch.values(tensor, change)
                    hits += 1
        if not hits:
            raise LookupError("no such parameter")

    return inject


def _scaled(gain: float) -> Callable[..., Any]:
    return lambda original, *arguments, **options: original(*arguments, **options) * gain


def _blocks_exchanged(patch: Patch) -> None:
    for expert in patch.experts:
        order = [*expert.blocks]
        order[2], order[3] = order[3], order[2]
        _put_blocks(patch, expert, order)


def _put_blocks(patch: Patch, expert: Any, order: list[Any]) -> None:
    before = expert.blocks
    expert.blocks = torch.nn.ModuleList(order)
    patch.later(lambda: setattr(expert, "blocks", before))


def _block_skipped(patch: Patch) -> None:
    for expert in patch.experts:
        patch.override(expert.blocks[4], "forward", lambda _original, states, *_rest, **_options: states)


def _block_reused(patch: Patch) -> None:
    """A block cache: what block 3 added at its first call is added at every later call."""
    for expert in patch.experts:
        kept: list[Tensor] = []

        def forward(original: Any, states: Tensor, *rest: Any, kept: list[Tensor] = kept, **options: Any) -> Tensor:
            if not kept or kept[0].shape != states.shape:
                kept[:] = [original(states, *rest, **options) - states]
            return states + kept[0]

        patch.override(expert.blocks[3], "forward", forward)


def _cross_keys_reused(patch: Patch) -> None:
    """Keys and values of the text are cached at the first pass and used for the other text as well."""
    for expert in patch.experts:
        for name, module in list(expert.named_modules()):
            if name.endswith(("attn2.to_k", "attn2.to_v")):
                kept: list[Tensor] = []

                def forward(original: Any, states: Tensor, kept: list[Tensor] = kept) -> Tensor:
                    if not kept or kept[0].shape[:2] != states.shape[:2]:
                        kept[:] = [original(states)]
                    return kept[0]

                patch.override(module, "forward", forward)


def _time_reused(patch: Patch) -> None:
    """The time embedding of the first step is cached and used for all."""
    for expert in patch.experts:
        kept: list[Tensor] = []

        def forward(original: Any, steps: Tensor, kept: list[Tensor] = kept) -> Tensor:
            if not kept:
                kept[:] = [original(steps)]
            return kept[0]

        patch.override(expert.condition_embedder.timesteps_proj, "forward", forward)


def _rope_reused(tables: tuple[Tensor, Tensor], shape: Any) -> tuple[Tensor, Tensor]:
    """Tables of a wider video, cut to the length of this one."""
    rope = transformer_wan.WanRotaryPosEmbed(48, (1, 2, 2), 64)
    wide = rope(torch.zeros(1, 16, shape[2], shape[3], shape[4] + 8))
    count = tables[0].shape[1]
    return wide[0][:, :count], wide[1][:, :count]


def _merged_adapter(patch: Patch) -> None:
    """A low-rank adapter that nobody asked for is still added to one projection of each block."""
    for expert in patch.experts:
        for index, block in enumerate(expert.blocks):
            random = torch.Generator().manual_seed(index)
            down = torch.randn(192, 4, generator=random) * 0.06
            up = torch.randn(4, 192, generator=random) * 0.06

            def forward(original: Any, states: Tensor, down: Tensor = down, up: Tensor = up) -> Any:
                return original(states) + ((states.float() @ down) @ up * 2).to(states.dtype)

            patch.override(block.attn1.to_v, "forward", forward)


def _nibbles(_module: Any, weight: Tensor) -> Tensor:
    return weight.reshape(len(weight), -1, 2).flip(-1).reshape_as(weight)


def _experts_same(patch: Patch) -> None:
    """The loader gives the high-noise expert for both."""
    high = patch.pipe.transformer
    low = patch.pipe.transformer_2
    patch.override(low, "forward", lambda _original, *arguments, **options: high.forward(*arguments, **options))


def _gelu_sigmoid(original: Any, states: Tensor) -> Tensor:
    """GELU approximated by a sigmoid."""
    made: Tensor = original.__self__.proj(states)
    return made * torch.sigmoid(1.702 * made)


def _shift_scale(patch: Patch) -> None:
    """Shift and scale of the first modulation change places."""
    for expert in patch.experts:
        for block in expert.blocks:
            patch.values(block.scale_shift_table, lambda table: table[:, [1, 0, 2, 3, 4, 5]])


def _fused(patch: Patch) -> None:
    """q, k and v of self-attention as one product with the weights stacked."""
    for expert in patch.experts:
        for block in expert.blocks:
            attention = block.attn1
            parts = [attention.to_q, attention.to_k, attention.to_v]
            kept: dict[str, Tensor] = {}

            def first(original: Any, states: Tensor, parts: Any = parts, kept: dict[str, Tensor] = kept) -> Tensor:
                weights = [p.dequantized(states.dtype) if hasattr(p, "dequantized") else p.weight for p in parts]
                bias = torch.cat([p.bias.to(states.dtype) for p in parts])
                whole = torch.nn.functional.linear(states, torch.cat(weights), bias)
                original(states[..., :1, :])  # its receipt
                kept["of"] = states
                query, kept["k"], kept["v"] = whole.chunk(3, dim=-1)
                return query

            def later(original: Any, states: Tensor, which: str, kept: dict[str, Tensor] = kept) -> Tensor:
                if kept.get("of") is not states:  # a Linear that is called by itself
                    return original(states)  # type: ignore[no-any-return]
                original(states[..., :1, :])
                return kept[which]

            patch.override(parts[0], "forward", first)
            patch.override(parts[1], "forward", lambda o, s, later=later: later(o, s, "k"))
            patch.override(parts[2], "forward", lambda o, s, later=later: later(o, s, "v"))


def _split(original: Any, states: Tensor, *rest: Any, **options: Any) -> Tensor:
    """The FFN in two halves of the sequence (chunked feed-forward)."""
    half = states.shape[1] // 2
    return torch.cat(
        [original(states[:, :half], *rest, **options), original(states[:, half:], *rest, **options)], dim=1
    )


def _head(query: Tensor, key: Tensor, value: Tensor, _options: dict[str, Any]) -> tuple[Tensor, Tensor, Tensor]:
    cut = value.clone()
    cut[:, :, 2] = 0
    return query, key, cut


INJECTIONS: dict[str, Injection] = {
    # attention, RoPE, norm, softmax
    "softmax_scale_1_percent": _attention(_softmax, scale=1.01),
    "softmax_scale_10_percent": _attention(_softmax, scale=0.9),
    "softmax_base_2": _attention(_softmax, scale=math.log(2)),
    "attention_causal": _attention(_causal, cross=False),
    "attention_window": _attention(_window, cross=False),
    "attention_last_keys_lost": _attention(_tail_lost, cross=False),
    "head_values_zero": attention_inputs(_head),
    "heads_rolled": attention_inputs(lambda query, key, value, _options: (query, key, value.roll(1, 2))),
    "rope_frame_later": _rope(_frame_later),
    "rope_one_frame": _rope(_one_frame),
    "rope_axes_exchanged": _rope(_axes_exchanged),
    "rope_theta": _theta,
    "rope_off": _rope(lambda tables, _shape: (torch.ones_like(tables[0]), torch.zeros_like(tables[1]))),
    "rope_sign": _rope(lambda tables, _shape: (tables[0], -tables[1])),
    "norm_q_skipped": modules(ends("attn1.norm_q"), lambda _original, states: states),
    "norm_eps_large": modules(
        ends("norm1", "norm3"),
        lambda _original, states: torch.nn.functional.layer_norm(states.float(), (192,), eps=0.3).to(states.dtype),
    ),
    "norm_without_mean": modules(
        ends("norm1"), lambda _original, states: states * torch.rsqrt(states.pow(2).mean(-1, keepdim=True) + 1e-6)
    ),
    "gelu_by_sigmoid": modules(ends("ffn.net.0"), _gelu_sigmoid),
    "modulation_exchanged": _shift_scale,
    "cross_attention_weaker": modules(ends("attn2"), _scaled(0.8)),
    # loader
    "loader_nibbles_all": dequantizers(_nibbles, lambda _name: True),
    "loader_nibbles_one": dequantizers(_nibbles, lambda name: name == "blocks.2.ffn.net.0.proj"),
    "loader_rows_rolled": dequantizers(lambda _m, weight: weight.roll(1, 0), lambda name: name.endswith("attn1.to_k")),
    "loader_transposed": dequantizers(
        lambda _m, weight: weight.T.contiguous(), lambda name: name == "blocks.1.attn1.to_out.0"
    ),
    "loader_gain": dequantizers(lambda _m, weight: weight * 1.1, lambda name: "attn2.to_v" in name),
    "loader_bias_lost": _parameters(lambda name: name.endswith("ffn.net.2.bias"), torch.zeros_like),
    "loader_blocks_exchanged": _blocks_exchanged,
    "loader_block_skipped": _block_skipped,
    "loader_same_expert": _experts_same,
    "loader_adapter_left": _merged_adapter,
    "loader_patch_order": _parameters(lambda name: name == "patch_embedding.weight", lambda w: w.transpose(-1, -2)),
    "loader_output_order": _parameters(
        lambda name: name in ("proj_out.weight",), lambda w: w.view(4, 16, -1)[[0, 2, 1, 3]].reshape_as(w)
    ),
    # caches within a pass
    "cache_block_stale": _block_reused,
    "cache_text_keys_stale": _cross_keys_reused,
    "cache_time_stale": _time_reused,
    "cache_rope_of_another_size": _rope(_rope_reused),
    # healthy
    "attention_written_out": _attention(_softmax),
    "qkv_in_one_product": _fused,
    "ffn_in_two_chunks": modules(ends("ffn"), _split),
}
