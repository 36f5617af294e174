"""The second list: faults and healthy changes that the first one does not hold, by another author.

Written from README, docs/ and reports of the field alone, and committed before an entry of it was scored. ``accept``
holds regular expressions that a cause's code, place and sentence match, all of them.
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
    NORM,
    PROMPT,
    ROPE,
    SIGMA,
    SOLVER,
    STEP,
    TEXT,
    VAE,
    Accepted,
)

VELOCITY = r"velocit|predict"

_RUNNING: dict[str, Accepted] = {
    "precision in one place": {
        "fp8_attention_values": (ATTENTION + "|to_v", LOWER + "|" + ATTENTION),
        "fp8_velocity": (VELOCITY + "|guidance|output",),
        "fp8_ffn_hidden": (r"ffn",),
        "fp16_text_encoder": (TEXT,),
        "fp8_condition_embedder": (r"condition.?embedder|time.?embed|text.?embedder|time.?proj",),
        "bf16_vae_norms": (VAE,),
        "bf16_denormalised": (VAE + "|latents",),
    },
    "attention, RoPE, norm, softmax": {
        "ranks_attend_locally": (ATTENTION,),
        "padded_keys_seen": (ATTENTION,),
        "text_padding_masked": (ATTENTION + "|cross|mask|padding",),
        "rope_pairs_in_halves": (ROPE + "|" + ATTENTION,),
        "rope_restarts": (ROPE,),
        "rope_interpolated": (ROPE,),
        "qk_norm_per_head": (NORM,),
        "softmax_capped": (ATTENTION,),
        "ffn_silu": (r"silu|gelu|activation|ffn",),
    },
    "scheduler and timesteps": {
        "shifted_twice": (SIGMA + "|" + STEP,),
        "sigmas_to_the_end": (SIGMA + "|" + STEP,),
        "sigmas_from_timesteps": (SIGMA,),
        "sigmas_start_lower": (SIGMA + "|" + STEP,),
        "timestep_next": (STEP,),
        "solver_predicts_noise": (SOLVER + r"|predict_x0|not.?finite|nan\b",),
        "dpm_solver": (SOLVER + "|dpm",),
        "ancestral_noise": (SOLVER + "|" + NOISE + "|ancestral|stochastic",),
        "expert_switch_early": (r"expert|boundary",),
    },
    "VAE at runtime": {
        "vae_unpatchify_transposed": (VAE + "|patch|mesh|checker",),
        "vae_temporal_tiles": (VAE + "|tile",),
        "vae_edge_replicated": (VAE,),
        "vae_shortcut_lost": (VAE,),
        "vae_output_clipped": (VAE + "|clip|range|contrast|gain|level",),
        "vae_mean_first": (VAE + "|latents_mean|statistics",),
        "vae_time_halves_exchanged": (VAE,),
    },
    "guidance": {
        "guidance_interval": (GUIDE,),
        "guidance_perpendicular": (GUIDE,),
        "guidance_tenth_less": (GUIDE,),
        "negative_every_second": (GUIDE + "|" + CACHE + r"|pass|negative|velocit",),
    },
    "text passes": {
        "text_padding_kept": (PROMPT + "|padding|mask",),
        "text_reversed": (PROMPT,),
        "text_left_padded": (PROMPT + "|padding",),
        "text_before_last_norm": (TEXT + "|final_layer_norm",),
        "prompt_prefixed": (PROMPT,),
        "texts_exchanged_later": (PROMPT + "|passes", r"exchang|swap|other|guidance|pass"),
    },
    "loader": {
        "loader_scale_lost": (r"scale|gain|times", r"blocks\.1\.attn2\.to_q"),
        "loader_query_is_key": (r"blocks\.3\.attn1\.(to_q|to_k)|to_q|to_k",),
        "loader_tables_exchanged": (r"scale_shift|modulation|blocks?[. ][14]",),
        "loader_norms_exchanged": (NORM,),
        "loader_never_loaded": (r"blocks?[. ]0",),
        "loader_codebook": (r"weight|dequant|linear|blocks|quantiz|codes?\b",),
    },
    "initial noise": {
        "noise_uniform": (NOISE,),
        "noise_of_numpy": (NOISE + "|seed|generator",),
        "noise_frames_reversed": (NOISE,),
        "noise_centred": (NOISE,),
    },
    "caches": {
        "cache_first_block": (CACHE + r"|blocks?\b|velocit|skip|not run|step",),
        "cache_keys_of_before": (CACHE + r"|attn1|blocks?[. ]2",),
        "cache_guidance_difference": (CACHE + "|" + GUIDE + "|pass|negative|velocit",),
        "cache_extrapolated": (CACHE + "|velocit|skip|extrapol|step",),
    },
}

_FRAMES: Accepted = {
    "letterbox": (r"letterbox|bars?\b|region|border|black|resiz|squeez",),
    "cropped": (r"crop|zoom|resiz|scal|enlarg|resol",),
    "matrix_709": (r"colou?r|matrix|channel|hue|satur|bt\.?709",),
    "chroma_exchanged": (r"chroma|channel|colou?r|hue|rgb|bgr",),
    "chroma_shifted": (r"chroma|colou?r|channel|shift",),
    "first_frame_dark": (r"frame", r"bright|dark|gain|flicker|overwrit|replaced|one frame|frames? 0\b|first"),
    "last_frames_brighter": (r"bright|gain|flicker|fade|exposure|frames? 1[2-6]|last",),
    "webp_8": (r"codec|compress|webp|jpeg|block|blur",),
    "linear_light": (r"gamma|transfer|tone|linear",),
    "three_averaged": (r"ghost|blend|average|mix|blur|temporal|neighbour",),
    "columns_darker": (r"mesh|stripe|columns?\b|grid|lines?\b|period|pattern",),
    "red_late": (r"channel|red\b|late\b|lag\b|delay|off by",),
}

_FILES: dict[str, Accepted] = {
    "files: VAE": {
        "vae_in_bf16": (VAE,),
        "vae_qkv_reordered": (VAE,),
        "vae_time_conv_zero": (VAE,),
        "vae_config_std_inverse": (VAE + "|latents_std",),
    },
    "files: text encoder": {
        "te_gates_exchanged": (TEXT,),
        "te_block_copied": (TEXT,),
        "te_config_distance": (TEXT,),
    },
    "files: tokenizer": {
        "tok_end_lost": (r"token",),
        "tok_word_split": (r"token",),
    },
    "files: scheduler": {
        "sched_predicts_noise": (SOLVER + r"|predict_x0|not.?finite|nan\b",),
        "sched_thresholding": (SOLVER + "|threshold",),
        "sched_order_3": (SOLVER,),
    },
    "checkpoint bytes": {
        "scales_swizzled": (r"scale|swizzl|layout", r"blocks\.3\.ffn\.net\.0"),
        "query_is_key": (r"blocks\.2\.attn1\.to_[qk]",),
        "signs_flipped": (r"blocks\.4\.attn2\.to_out",),
        "fp8_as_e5m2": (r"blocks\.1\.ffn\.net\.2",),
        "fp8_as_fnuz": (r"blocks\.2\.attn2\.to_v",),
        "fp8_saturated": (r"blocks\.3\.attn1\.to_v",),
        "block_of_other_expert": (r"blocks\.4|expert",),
    },
    "checkpoint configuration": {
        "config_quantization_lost": (r"quantiz|config|declar|format",),
        "config_ignores_more": (r"ignore|exclud|quantiz|blocks\.2|config",),
        "config_cross_norm_off": (r"norm|config|unexpected",),
    },
    "input scales": {
        "input_scale_lost": (INPUT,),
        "input_scale_is_largest": (INPUT,),
    },
}

_ONLY: dict[str, Form] = {
    "loader_codebook": "nvfp4",
    "scales_swizzled": "nvfp4",
    "input_scale_is_largest": "nvfp4",
    "signs_flipped": "fp8",
    "fp8_as_e5m2": "fp8",
    "fp8_as_fnuz": "fp8",
    "fp8_saturated": "fp8",
}
"""Faults that only one of the formats can have; the others take turns."""

_HEALTHY_RUNNING = (
    "vae_nearest", "vae_slicing", "cross_keys_kept", "text_projected_once", "attention_by_heads",
    "attention_in_chunks", "rope_complex", "layer_norm_written_out", "qk_norm_written_out", "patch_as_product",
    "timestep_float", "timestep_per_token", "batch_negative_first", "guidance_from_conditional", "other_kernels",
    "text_one_batch", "latents_strided", "frames_rounded_before", "scheduler_remade", "prompt_spaced",
    "weights_shared", "weights_dequantized_once",
)  # fmt: skip
"""Other ways of computing the same."""
_HEALTHY_FRAMES = ("one_frame_nudged", "nudged_both_ways")
_HEALTHY_FILES = (
    "sharded_by_block", "vae_sharded", "text_encoder_sharded", "index_described", "metadata_gone", "header_reversed",
    "data_backwards", "json_tabs", "numbers_otherwise", "older_dtype_key", "transformers_version",
    "special_tokens_map", "generation_config", "config_backup", "variant_beside", "hard_links", "component_link",
    "executable", "model_index_nulls",
)  # fmt: skip
"""Edits that change no value that anything reads."""
_HEALTHY_VALUES = ("one_value_lists", "ignore_expanded", "text_encoder_defaults_left_out")
"""Edits that change a value, its shape or its wording, though not its meaning."""


def second_faults() -> list[Entry]:
    """The faults of the second list."""
    turn, entries = cycle(FORMS), []

    def form(name: str) -> Form:
        return _ONLY[name] if name in _ONLY else next(turn)

    for kind, rows in _RUNNING.items():
        entries += [
            Entry(f"second_{name}", kind, form(name), running=name, accept=accept) for name, accept in rows.items()
        ]
    entries += [
        Entry(f"second_frames_{name}", "finished frames", form(name), frames=name, accept=accept)
        for name, accept in _FRAMES.items()
    ]
    for kind, rows in _FILES.items():
        entries += [
            Entry(f"second_{name}", kind, form(name), files=name, accept=accept) for name, accept in rows.items()
        ]
    return numbered(entries)


def second_healthy() -> list[Entry]:
    """The healthy changes of the second list."""
    turn = cycle(FORMS)
    entries = [
        Entry(f"second_healthy_{name}", "healthy: computed otherwise", next(turn), running=name)
        for name in _HEALTHY_RUNNING
    ]
    entries += [
        Entry(f"second_healthy_{name}", "healthy: less than a level", next(turn), frames=name)
        for name in _HEALTHY_FRAMES
    ]
    entries += [
        Entry(
            f"second_healthy_{name}",
            "healthy: written otherwise",
            next(turn),
            files=name,
            value_changes=name in _HEALTHY_VALUES,
        )
        for name in (*_HEALTHY_FILES, *_HEALTHY_VALUES)
    ]
    entries += [
        Entry(
            f"second_healthy_after_another_{form}", "healthy: later run", form, running="nothing", fresh=True, warm=True
        )
        for form in FORMS
    ]
    return numbered(entries)
