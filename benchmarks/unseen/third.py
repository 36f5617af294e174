"""The third list: faults and healthy changes that the first two do not hold, by another author.

Written from README, docs/ and the public sources of diffusers and transformers, and committed before an entry of it was
scored. ``accept`` holds regular expressions that a cause's code, place and sentence match, all of them.
"""

from __future__ import annotations

from itertools import cycle

from benchmarks.unseen.design import FORMS, Entry, Form, numbered
from benchmarks.unseen.faults import (
    ATTENTION,
    CACHE,
    GUIDE,
    INPUT,
    LOWER,
    NOISE,
    PROMPT,
    ROPE,
    SIGMA,
    SOLVER,
    STEP,
    TEXT,
    VAE,
    Accepted,
)

_RUNNING: dict[str, Accepted] = {
    "precision in one place": {
        "fp8_text_embeddings": (TEXT + "|embedding",),
        "fp8_attention_outputs": (ATTENTION + "|to_out", LOWER + "|" + ATTENTION + "|to_out"),
    },
    "attention, RoPE, norm, softmax": {
        "attention_top_quarter": (ATTENTION,),
        "values_smoothed": (ATTENTION,),
        "attention_frames_alone": (ATTENTION,),
        "rope_height_reversed": (ROPE,),
        "modulation_one_lost": (r"modulat|scale.?shift|norm1?\b|blocks?[. ]3",),
    },
    "scheduler and timesteps": {
        "latents_averaged": (SOLVER + r"|latents|step\b",),
        "timestep_of_negative_less": (STEP,),
    },
    "guidance": {
        "guidance_half_of_channels": (GUIDE,),
        "guidance_clipped": (GUIDE,),
    },
    "text passes": {"text_rows_normalised": (PROMPT,)},
    "initial noise": {"noise_clamped": (NOISE,)},
    "caches": {"cache_ffn_every_second": (CACHE + r"|ffn|blocks?[. ][234]|skip|not run",)},
    "VAE at runtime": {
        "vae_relu": (VAE,),
        "vae_latents_half_pixel": (VAE + "|latents",),
    },
    "loader": {
        "loader_columns_rolled": (r"blocks\.4\.attn1\.to_v",),
        "loader_scale_power_of_two": (r"scale|gain|weight|dequant|quantiz", r"blocks\.3|linear|weight"),
    },
}

_FRAMES: Accepted = {
    "half_turn": (r"rotat|turn|180|flip|mirror|upside|revers",),
    "red_lost": (r"channel|red\b|colou?r|missing|zero",),
    "white_balance": (r"white|balance|channel|colou?r|gain|tint|hue|satur",),
    "mosaic": (r"block|pixel|mosaic|resiz|nearest|coarse|scal|blur",),
}

_FILES: dict[str, Accepted] = {
    "files: VAE": {"vae_conv_in_rolled": (VAE,)},
    "files: text encoder": {"te_ffn_zero": (TEXT,)},
    "files: tokenizer": {"tok_end_first_too": (r"token",)},
    "files: scheduler": {"sched_exponential": (SIGMA + "|exponential",)},
    "checkpoint bytes": {
        "scales_of_other_expert": (r"blocks\.1\.ffn\.net\.2",),
        "bytes_in_other_order": (r"blocks\.3\.attn1\.to_out",),
        "weight_transposed": (r"blocks\.2\.attn2\.to_out",),
    },
    "input scales": {"input_scales_alike": (INPUT,)},
}

_ONLY: dict[str, Form] = {
    "loader_scale_power_of_two": "fp8",
    "weight_transposed": "fp8",
    "scales_of_other_expert": "nvfp4",
    "scale_after_product": "fp8",
    "scales_rebalanced": "nvfp4",
}
"""Changes that only one of the formats can have; the others take turns."""

_HEALTHY_RUNNING = (
    "attention_online", "attention_ring", "attention_padded_masked", "attention_powers_of_two",
    "attention_keys_smoothed", "attention_math_kernel", "rope_rotate_half", "rope_tables_anew",
    "norm_and_rope_one_kernel", "rows_parallel", "columns_parallel", "linears_addmm", "scale_after_product",
    "weights_column_major", "gelu_written_out", "modulation_fused", "blocks_offloaded", "time_embedding_kept",
    "static_buffers", "worker_thread", "inference_mode", "embeddings_passed", "text_encoder_unpadded",
    "guidance_lerp", "solver_flattened", "vae_own_padding", "vae_by_taps", "vae_pixel_shuffle",
    "vae_spread_as_factor", "vae_tiling_idle",
)  # fmt: skip
"""Other ways of computing the same."""
_HEALTHY_FILES = (
    "git_clone", "hub_blobs", "mac_leftovers", "editor_leftovers", "download_leftovers", "checksums_beside",
    "training_leftovers", "adapter_beside", "notebook_checkpoint", "modular_index", "hf_quant_config", "json_ascii",
    "json_blank_lines", "shards_named_by_hand", "seven_shards", "index_of_one_file", "index_without_size",
    "text_encoder_one_shard", "header_indented", "vae_older_key",
)  # fmt: skip
"""Edits that change no value that anything reads."""
_HEALTHY_VALUES = (
    "kv_cache_nulls", "group_renamed", "ignore_reversed", "tokenizer_saved_after_use", "tokenizer_older_keys",
    "tokenizer_class_fast", "vae_defaults_left_out", "tied_table_twice", "zeros_signed", "scales_rebalanced",
)  # fmt: skip
"""Edits that change a value, its place or its wording, though not its meaning."""


def _turns() -> dict[str, Form]:
    """The format of every change: those that can have both alternate."""
    turn = cycle(FORMS)
    names = [name for rows in _RUNNING.values() for name in rows] + list(_FRAMES)
    names += [name for rows in _FILES.values() for name in rows]
    names += [*_HEALTHY_RUNNING, *_HEALTHY_FILES, *_HEALTHY_VALUES]
    return {name: _ONLY[name] if name in _ONLY else next(turn) for name in names}


def third_faults() -> list[Entry]:
    """The faults of the third list."""
    form, entries = _turns(), []
    for kind, rows in _RUNNING.items():
        entries += [
            Entry(f"third_{name}", kind, form[name], running=name, accept=accept) for name, accept in rows.items()
        ]
    entries += [
        Entry(f"third_frames_{name}", "finished frames", form[name], frames=name, accept=accept)
        for name, accept in _FRAMES.items()
    ]
    for kind, rows in _FILES.items():
        entries += [
            Entry(f"third_{name}", kind, form[name], files=name, accept=accept) for name, accept in rows.items()
        ]
    return numbered(entries)


def third_healthy() -> list[Entry]:
    """The healthy changes of the third list."""
    form = _turns()
    entries = [
        Entry(f"third_healthy_{name}", "healthy: computed otherwise", form[name], running=name)
        for name in _HEALTHY_RUNNING
    ]
    entries += [
        Entry(
            f"third_healthy_{name}",
            "healthy: written otherwise",
            form[name],
            files=name,
            value_changes=name in _HEALTHY_VALUES,
        )
        for name in (*_HEALTHY_FILES, *_HEALTHY_VALUES)
    ]
    return numbered(entries)
