"""The faults, each with the causes that a reader of the documentation would call right.

Written from README, docs/ and reports of the field alone, before an answer was seen: which component, and where it can
be told, which kind. ``accept`` holds regular expressions that a cause's code, place and sentence match, all of them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from benchmarks.unseen.design import FORMS, Entry, Form, numbered

VAE = r"vae|decod"
TEXT = r"text.?encoder|text.?embedding|\btext\b"
PROMPT = r"prompt|text|token"
SIGMA = r"sigma|shift|scheduler|solver"
SOLVER = r"scheduler|solver|order|corrector|step rule|sigma"
STEP = r"timestep|time.?embed"
GUIDE = r"guidance|cfg"
NOISE = r"initial|noise|latents"
CACHE = r"cache|stale|reus|first call|kept|previous|earlier"
ATTENTION = r"attn|attention|softmax"
ROPE = r"rope|rotary|position"
NORM = r"norm"
LOWER = r"precision|bf16|bfloat16|fp16|float16|fp8|float8|int8|dtype|round|computed in|bits"
INPUT = r"input.?scale"

Accepted = Mapping[str, tuple[str, ...]]
"""Patterns of right causes, by the name of a change."""

_FILES: dict[str, Accepted] = {
    "files: VAE": {
        "vae_out_gain": (VAE,),
        "vae_out_bias_zero": (VAE,),
        "vae_out_order": (VAE,),
        "vae_blocks_exchanged": (VAE,),
        "vae_conv_zero": (VAE,),
        "vae_retrained": (VAE,),
        "vae_norms_one": (VAE,),
        "vae_time_conv_flipped": (VAE,),
        "vae_post_quant_lost": (VAE + "|post_quant",),
        "vae_config_mean_zero": (VAE + "|latents_mean",),
        "vae_config_std_one": (VAE + "|latents_std",),
        "vae_config_mean_rolled": (VAE + "|latents_mean",),
    },
    "files: text encoder": {
        "te_scales_lost": (TEXT,),
        "te_table_rolled": (TEXT,),
        "te_bias_zero": (TEXT,),
        "te_qk_exchanged": (TEXT,),
        "te_norm_gain": (TEXT,),
        "te_config_two_layers": (TEXT,),
        "te_config_relu": (TEXT,),
        "te_config_epsilon": (TEXT,),
    },
    "files: tokenizer": {
        "tok_words_exchanged": (r"token",),
        "tok_word_lost": (r"token",),
        "tok_colour_lost": (r"token",),
        "tok_rolled": (r"token",),
    },
    "files: scheduler": {
        "sched_order_1": (SOLVER,),
        "sched_bh1": (SOLVER,),
        "sched_sigma_min": (SOLVER,),
        "sched_no_corrector": (SOLVER,),
        "sched_train_steps": (SOLVER + "|train_timesteps|timestep",),
        "sched_karras": (SOLVER + "|timestep",),
    },
    "checkpoint bytes": {
        "nibbles_one": (r"nibble", r"blocks\.3\.attn2\.to_v"),
        "nibbles_all": (r"nibble",),
        "scales_rolled": (r"scale|rolled|row", r"blocks\.2\.attn1\.to_v"),
        "scales_halved_block": (r"scale|gain", r"blocks\.2\.ffn\.net\.0"),
        "global_scale_doubled": (r"scale|gain", r"blocks\.4\.attn1\.to_out"),
        "global_scale_of_another": (r"scale|gain", r"blocks\.2\.attn1\.to_q|attn1"),
        "fp8_scale_up": (r"scale|gain", r"blocks\.2\.attn1\.to_q"),
        "fp8_scale_one": (r"scale|gain", r"blocks\.3\.ffn\.net\.0"),
        "fp8_scale_of_another": (r"scale|gain", r"blocks\.2\.attn1\.to_q"),
        "fp8_sign_lost": (r"blocks\.1\.attn2\.to_k",),
        "bytes_corrupt": (r"blocks\.2\.ffn\.net\.2",),
        "row_corrupt": (r"rows?\b|corrupt|blocks\.1\.attn1\.to_k", r"blocks\.1\.attn1\.to_k"),
        "rows_zero": (r"blocks\.4\.ffn\.net\.0",),
        "linears_exchanged": (r"blocks\.[23]\.attn1\.to_out",),
        "blocks_exchanged": (r"blocks\.[12]",),
        "block_copied": (r"blocks\.3",),
        "expert_copied": (r"identical|same|expert|transformer_2",),
        "experts_swapped": (r"expert",),
        "bias_lost": (r"bias|ffn\.net\.0",),
        "modulation_zero": (r"scale_shift_table|modulation|blocks\.3",),
        "time_halves": (r"time_embedder|halves|half",),
        "patch_transposed": (r"patch_embedding",),
        "norm_q_one": (r"norm_q",),
        "output_rows_rolled": (r"proj_out",),
        "text_projection_gain": (r"text_embedder",),
        "plain_layers_stale": (r"blocks\.[05]|stale|excluded",),
        "norm2_bias_lost": (r"norm2",),
    },
    "checkpoint configuration": {
        "config_epsilon": (r"eps|norm|config",),
        "config_heads": (r"head|config",),
        "config_layers": (r"layer|config|block|unexpected",),
        "config_group_size": (r"group|block.size|config|scale|layout",),
        "config_ignore_lost": (r"ignore|exclud|config|quantiz",),
        "config_algorithm": (r"algo|format|config|declar",),
    },
    "input scales": {
        "input_scale_garbage": (INPUT,),
        "input_scale_tenth": (INPUT,),
        "input_scale_of_another": (INPUT,),
        "input_scale_zero": (INPUT,),
        "input_scale_inverted": (INPUT,),
        "input_scale_nan": (INPUT,),
    },
}

_RUNNING: dict[str, Accepted] = {
    "loader": {
        "loader_nibbles_all": (r"nibble",),
        "loader_nibbles_one": (r"nibble", r"blocks\.2\.ffn\.net\.0"),
        "loader_rows_rolled": (r"attn1\.to_k",),
        "loader_transposed": (r"blocks\.1\.attn1\.to_out",),
        "loader_gain": (r"attn2\.to_v|gain",),
        "loader_bias_lost": (r"ffn\.net\.2|bias",),
        "loader_blocks_exchanged": (r"block",),
        "loader_block_skipped": (r"blocks?[. ]4",),
        "loader_same_expert": (r"expert|transformer_2",),
        "loader_adapter_left": (r"attn1\.to_v|adapter|lora",),
        "loader_patch_order": (r"patch",),
        "loader_output_order": (r"proj_out",),
    },
    "scheduler and timesteps": {
        "solver_order_1": (SOLVER,),
        "solver_order_3": (SOLVER,),
        "solver_bh1": (SOLVER,),
        "no_corrector": (SOLVER,),
        "no_lower_order_final": (SOLVER,),
        "flow_shift_5": (SIGMA,),
        "euler_step": (SOLVER,),
        "sigmas_unshifted": (SIGMA + "|timestep",),
        "sigmas_of_another_shift": (SIGMA,),
        "last_sigma_not_zero": (SIGMA,),
        "one_sigma_off": (SIGMA,),
        "solver_history_kept": (SOLVER + "|" + CACHE,),
        "timestep_0_to_1": (STEP,),
        "timestep_previous": (STEP,),
        "timestep_complement": (STEP,),
        "timestep_2_percent": (STEP,),
        "timestep_to_hundreds": (STEP,),
        "seven_steps": (r"step",),
    },
    "guidance": {
        "guidance_off": (GUIDE,),
        "guidance_5": (GUIDE,),
        "guidance_added": (GUIDE,),
        "guidance_halved_late": (GUIDE,),
        "guidance_rescaled": (GUIDE,),
        "guidance_zero_star": (GUIDE,),
        "guidance_ramp": (GUIDE,),
        "guidance_from_positive": (GUIDE,),
    },
    "text passes": {
        "texts_exchanged": (PROMPT + "|passes", r"exchang|swap|other|guidance|pass"),
        "text_in_both_passes": (PROMPT + "|guidance|pass",),
        "no_text_in_either": (PROMPT + "|guidance|pass",),
        "text_cut_to_5": (PROMPT,),
        "text_first_token_lost": (PROMPT,),
        "text_scaled": (PROMPT,),
        "text_zero_in_negative": (PROMPT + "|negative|pass",),
        "prompt_underscored": (PROMPT,),
        "prompt_last_words_lost": (PROMPT,),
        "prompt_of_another_case": (PROMPT,),
        "prompt_twice": (PROMPT,),
        "prompt_capitalised": (PROMPT,),
        "text_mask_ignored": (PROMPT + "|mask",),
        "negative_prompt_default": (PROMPT + "|negative",),
        "sequence_length_32": (r"length|padding",),
        "sequence_length_226": (r"length|padding",),
    },
    "initial noise": dict.fromkeys(
        (
            "noise_scaled_up",
            "noise_scaled_down",
            "noise_repeated",
            "noise_shifted",
            "noise_transposed",
            "noise_channels_rolled",
            "noise_frame_zero",
            "noise_coarse",
        ),
        (NOISE,),
    )
    | {"seed_next": (NOISE + "|seed",)},
    "caches": {
        "cache_step_skipped": (CACHE + "|skip|velocity|step",),
        "cache_latents_late": (CACHE + "|latents|input",),
        "expert_switch_late": (r"expert|boundary",),
        "cache_block_stale": (CACHE + r"|blocks?[. ]3",),
        "cache_text_keys_stale": (CACHE + r"|text|attn2|cross",),
        "cache_time_stale": (CACHE + "|" + STEP,),
        "cache_rope_of_another_size": (CACHE + "|" + ROPE,),
    },
    "attention, RoPE, norm, softmax": {
        "softmax_scale_1_percent": (ATTENTION,),
        "softmax_scale_10_percent": (ATTENTION,),
        "softmax_base_2": (ATTENTION,),
        "attention_causal": (ATTENTION,),
        "attention_window": (ATTENTION,),
        "attention_last_keys_lost": (ATTENTION,),
        "head_values_zero": (ATTENTION + "|head",),
        "heads_rolled": (ATTENTION + "|head",),
        "rope_frame_later": (ROPE,),
        "rope_one_frame": (ROPE,),
        "rope_axes_exchanged": (ROPE,),
        "rope_theta": (ROPE,),
        "rope_off": (ROPE,),
        "rope_sign": (ROPE,),
        "norm_q_skipped": (NORM,),
        "norm_eps_large": (NORM,),
        "norm_without_mean": (NORM,),
        "gelu_by_sigmoid": (r"gelu|activation|ffn\.net\.0|ffn",),
        "modulation_exchanged": (r"modulation|scale_shift|norm1|adaln",),
        "cross_attention_weaker": (r"attn2|cross",),
    },
    "precision in one place": {
        "bf16_rope_table": (ROPE, LOWER),
        "bf16_rope_angles": (ROPE,),
        "bf16_norms": (NORM, LOWER),
        "bf16_qk_norms": (NORM, LOWER),
        "bf16_residual": (r"residual|block|stream|hidden", LOWER),
        "fp8_residual": (r"residual|block|stream|hidden",),
        "bf16_softmax": (ATTENTION, LOWER),
        "bf16_accumulation": (ATTENTION + "|accumul", LOWER),
        "int8_queries_keys": (ATTENTION,),
        "bf16_scales": (r"dequant|scale|weight", LOWER),
        "fp8_dequantized": (r"dequant|weight|linear|blocks",),
        "bf16_latents": (r"latents", LOWER),
        "fp16_latents": (r"latents", LOWER),
        "bf16_scheduler_state": (r"scheduler|solver|state", LOWER),
        "bf16_sigmas": (r"sigma",),
        "bf16_timesteps": (STEP,),
        "bf16_time_embedding": (STEP, LOWER),
        "fp8_modulation": (r"modulation|scale_shift|block",),
        "fp8_text_table": (TEXT,),
        "fp8_text_encoder": (TEXT,),
        "bf16_vae": (VAE, LOWER),
        "fp16_vae": (VAE, LOWER),
        "fp8_vae_weights": (VAE,),
        "bf16_noise": (NOISE,),
        "truncated_frames": (r"trunc|round",),
        "seven_bit_frames": (r"round|bit|level|quanti|banding|poster|rgb|frames",),
    },
    "VAE at runtime": dict.fromkeys(
        (
            "vae_latents_not_denormalised",
            "vae_mean_lost",
            "vae_spread_inverted",
            "vae_statistics_rolled",
            "vae_time_cache_dropped",
            "vae_latent_frames_exchanged",
            "vae_last_latent_repeated",
            "vae_cache_one_late",
            "vae_no_nonlinearity",
            "vae_norm_gain",
            "vae_attention_off",
            "vae_upsample_bilinear",
        ),
        (VAE,),
    )
    | {
        "vae_halves_seam": (VAE + "|tile|seam",),
        "vae_halves_overlap_seam": (VAE + "|tile|seam",),
        "vae_latents_clamped": (VAE + "|latents",),
        "vae_output_scaled": (VAE + "|contrast|gain|range",),
        "vae_latents_noisy": (VAE + "|latents",),
        "vae_output_0_to_1": (VAE + "|range|offset|gain|contrast",),
    },
    "runtimes": {
        "every_other_run_differs": (r"noise|repeat|unstable|modes|state|bistable",),
        "later_runs_spoiled": (r"state|repeat|fresh|unstable|earlier|leak|initial",),
        "nan_in_one_latent": (r"nan|not.a.number",),
    },
}

_FRAMES: Accepted = {
    "two_exchanged": (r"permut|order|exchang|swap",),
    "neighbours_exchanged": (r"permut|order|exchang|swap",),
    "reversed": (r"revers|backward|permut",),
    "late_by_one": (r"off by|shift|late\b|delay|duplicat|lag\b|permut|repeat",),
    "early_by_one": (r"off by|shift|early|drop|permut|lag\b",),
    "rolled": (r"permut|order|roll|shift",),
    "one_duplicated": (r"duplic|repeat|frozen|permut|overwrit|replaced",),
    "one_dropped": (r"drop|miss|off by|permut|shift",),
    "every_second_repeated": (r"duplic|repeat|frozen|permut|frame rate",),
    "chunks_exchanged": (r"permut|order|exchang|swap",),
    "bgr": (r"channel|rgb|bgr",),
    "green_blue_exchanged": (r"channel|rgb|bgr",),
    "grey": (r"satur|colou?r|grey|gray|chroma",),
    "limited_range": (r"range|contrast|gain",),
    "limited_range_expanded": (r"range|contrast|gain",),
    "gamma_2_2": (r"gamma|tone",),
    "gamma_1_1": (r"gamma|tone",),
    "gain_1_06": (r"gain|bright|exposure|contrast",),
    "offset_6": (r"offset|bright|black level",),
    "one_channel_offset": (r"offset|channel|colou?r|tint",),
    "saturation_0_7": (r"satur|chroma",),
    "hue_10": (r"hue|colou?r",),
    "inverted": (r"invert|negativ",),
    "contrast_0_9": (r"contrast|range|gain",),
    "shift_1_pixel": (r"shift|transl|pixel|offset",),
    "shift_4_down": (r"shift|transl|pixel",),
    "mirrored": (r"flip|mirror",),
    "upside_down": (r"flip|mirror|upside",),
    "half_and_back": (r"resiz|resol|blur|scal|sharp",),
    "nearest_and_back": (r"resiz|resol|nearest|scal|codec|block",),
    "blocks_8": (r"block|pixelat|resiz|resol|mosaic",),
    "jpeg_25": (r"codec|jpeg|compress|block",),
    "jpeg_60_420": (r"codec|jpeg|compress|chroma|block",),
    "chroma_420": (r"chroma|subsampl|codec",),
    "frame_black": (r"frame", r"overwrit|black|one frame|replaced|frames? 10\b"),
    "last_black": (r"frame", r"overwrit|black|one frame|replaced|last|frames? 16\b"),
    "frame_noise": (r"frame", r"overwrit|one frame|replaced|frames? 6\b"),
    "frame_of_first": (r"frame", r"overwrit|one frame|replaced|repeat|duplic|frames? 12\b"),
    "region_black": (r"region|area|patch|rectang|box|local",),
    "logo": (r"region|area|patch|rectang|box|local|overlay",),
    "line_white": (r"region|rows?\b|lines?\b|rectang|local|seam",),
    "region_one_frame": (r"region|area|patch|rectang|local|one frame|frame 9",),
    "seam": (r"seam|tile|half|region",),
    "tiles_exchanged": (r"tile|region|exchang",),
    "edge_repeated": (r"edge|region|border|rectang|padding",),
    "posterised_16": (r"level|bit|poster|quantis|quantiz|band|round",),
    "dither_32": (r"dither|level|bit|quantis|quantiz|round|noise",),
    "interlaced": (r"interlac|lines?\b|rows?\b|field",),
    "flicker_5": (r"flicker|gain|bright",),
    "blur_1_2": (r"blur|sharp|resiz|resol",),
    "sharpened": (r"sharp|contrast|edge",),
    "noise_6": (r"noise|grain",),
    "ghost": (r"ghost|blend|average|mix|lag\b",),
    "wrapped": (r"wrap|overflow|offset|modulo",),
}

_ONLY: dict[str, Form] = {
    "config_group_size": "nvfp4",
    "fp8_scale_up": "fp8",
    "fp8_scale_one": "fp8",
    "fp8_scale_of_another": "fp8",
    "fp8_sign_lost": "fp8",
    "row_corrupt": "fp8",
    "rows_zero": "fp8",
    "nibbles_one": "nvfp4",
    "nibbles_all": "nvfp4",
    "scales_rolled": "nvfp4",
    "scales_halved_block": "nvfp4",
    "global_scale_doubled": "nvfp4",
    "global_scale_of_another": "nvfp4",
    "loader_nibbles_all": "nvfp4",
    "loader_nibbles_one": "nvfp4",
    "bf16_scales": "nvfp4",
    "fp8_dequantized": "nvfp4",
}
"""Faults that only one of the formats can have; the others take turns."""


def _forms() -> Iterator[Form]:
    """The formats in turn, for ever."""
    while True:
        yield from FORMS


def _form(name: str, turn: Iterator[Form]) -> Form:
    """The only format of a fault, or the next one in turn."""
    return _ONLY[name] if name in _ONLY else next(turn)


def faults() -> list[Entry]:
    """The whole list, in an order that groups what shares an engine."""
    turn, entries = _forms(), []
    for kind, rows in _RUNNING.items():
        entries += [
            Entry(
                name,
                kind,
                _form(name, turn),
                running=name,
                fresh=name == "every_other_run_differs",
                warm=name == "later_runs_spoiled",
                accept=accept,
            )
            for name, accept in rows.items()
        ]
    entries += [
        Entry(f"frames_{name}", "finished frames", next(turn), frames=name, accept=accept)
        for name, accept in _FRAMES.items()
    ]
    for kind, rows in _FILES.items():
        entries += [Entry(name, kind, _form(name, turn), files=name, accept=accept) for name, accept in rows.items()]
    return numbered(entries)
