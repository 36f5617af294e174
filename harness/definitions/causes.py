"""Every cause that a verdict can have, so that a negative control that waits for a misspelt one is told at load."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

from harness.definitions.validation import did_you_mean

CAUSES: Final = frozenset({
    "adaln_halves_swapped", "attention_mask", "backend_unknown", "base_missing", "base_stale", "block_scale_nan",
    "block_scale_zero", "boundary_ratio", "boundary_ratio_differs",
    "boundary_ratio_missing", "carried_not_ignored", "checkpoint_fault", "clipped", "codes_from_unrounded_scale",
    "component_broken", "component_missing", "config_contradicts_tensors", "config_invalid",
    "contract_schedule", "contract_unmodelled", "contract_unproven", "contract_unread", "cpu_differs",
    "crash", "declaration_unseen", "declarations_differ", "device", "disk", "download", "dtype_differs",
    "duplicate_tensors", "encoding_inconclusive", "encoding_unproven", "env_changed", "excluded_differs", "expert",
    "experts_identical", "experts_mixed_precision", "experts_swapped", "first_divergence", "flat", "flicker",
    "format_mismatch", "fp8_code_table", "fp8_fnuz", "frozen", "gain", "global_scale_degenerate",
    "global_scale_inverted", "global_scale_missing", "guidance", "halves_swapped", "hang", "header_invalid",
    "ignore_contradicted", "ignore_incomplete", "index_invalid", "index_stale", "inf", "infra", "initial_latents",
    "input_scale_degenerate", "input_scale_missing", "limits_gate_nothing", "limits_incomplete", "limits_missing",
    "limits_of_another_golden", "metric_not_computed", "module_off", "name_unmapped", "nan", "native_path_not_run",
    "nibble_order", "no_receipts", "noise", "norm_off", "nothing_quantized", "oom", "probe_structure", "protocol",
    "qkv_scales_differ", "quantization_undeclared", "quantized_path_not_run", "row_corrupt",
    "row_gain", "runtime_refuses",
    "scale_columns", "scale_dropped", "scale_layout", "scale_missing", "scale_renamed", "scale_shape",
    "scheduler_settings", "scope_differs", "sequence_length", "shape", "shape_differs",
    "shard_missing", "source_failed", "speckle",
    "step_count", "tensor_missing", "tensor_unexpected", "text_dtype", "text_embedding", "text_tokens", "timestep",
    "two_conventions", "unexpected_format", "unexpected_quantization", "unindexed_tensors", "unsupported_layout",
    "vae_settings", "weight_transposed", "weights_changed", "weights_missing", "weights_nan", "weights_unrelated",
    "not_available", "schedule_differs", "scheduler_refused", "schedule_unmodelled", "wrong_base",
    "wrong_expert",
    "block_scale_subnormal", "component_differs", "component_mismatch", "component_unscaled", "config_differs",
    "format_not_decoded", "html_page", "input_scales_differ", "layers_unmatched", "lfs_pointer", "names_mixed",
    "names_of_another_dialect", "no_tensors", "other_file", "pickle_file", "scale_constant", "scale_left_over",
    "scale_orphaned", "scale_dtype", "weights_zero", "config_key_added",
    "attention_scale", "initial_noise", "levels", "latents_between_steps", "model_latents", "model_text",
    "model_timestep",
    "slower", "faster", "more_memory", "leak",
    "not_finite", "precision_differs", "rope", "rounding", "sigmas", "solver", "texts_exchanged", "vae_alone",
    "vae_input",
})  # fmt: skip
FRAME_CAUSES: Final = frozenset({
    "flicker", "gain", "unstable",
    "blocks", "blur", "brightness_drift", "channel_affine", "channels_exchanged", "chroma_subsampling", "codec",
    "colour_matrix", "contrast", "flash", "flipped", "frames_blended", "frames_dropped", "frames_frozen",
    "frames_overwritten", "frames_permuted", "frames_repeated", "frames_reversed", "frames_shifted", "gamma", "hue",
    "inverted", "limited_range", "mesh", "noise_added", "offset", "quantized_levels", "region_overwritten", "resized",
    "saturation", "sharpened", "shifted", "tile_seams", "tiles_exchanged", "tint", "transposed", "value_range",
})  # fmt: skip
"""Causes that an attribution names and no finding has: changes of frames (`harness.frames.hypotheses`), `unstable`."""
MEASURES: Final = (
    "probe_base_error", "probe_golden_error", "probe_module_base_error", "probe_module_error", "probe_point_error",
)  # fmt: skip
"""Limits of probes, as `harness.limits.probes` names them."""
SANITY: Final = frozenset({"shape", "nan", "inf", "flat", "noise", "speckle", "frozen", "clipped", "flicker", "levels"})
"""Checks of the frames that need no golden. What fails one is no video: a waiver never covers it."""
UNMEASURED: Final = frozenset({"metric_not_computed", "checkpoint_fault", "error"})
"""Causes that name no fault: nothing was measured, or whatever broke would have them."""
STAGES: Final = ("engine", "frames", "identity", "inspection", "perf", "probe", "receipts", "sanity", "trace")
"""Stages that a negative control may name."""
_ENGINE: Final = frozenset({"oom", "hang", "crash", "device", "download", "disk", "protocol", "infra"})
_LIMIT = re.compile(r"(.+)_(above|below|outside)_limit")


def check_cause(cause: str, metrics: Iterable[str]) -> str | None:
    """What is wrong with a cause that a negative control waits for, or ``None``.

    Args:
        cause: what stands behind the colon of ``expect``.
        metrics: names of the metrics that are installed.
    """
    limit = _LIMIT.fullmatch(cause)
    if limit is None:
        return None if cause in CAUSES else f"no verdict has the cause {cause!r}; {_meant(cause, CAUSES)}"
    known = [*metrics, *MEASURES]
    if limit[1] in known:
        return None
    return f"no verdict has the cause {cause!r}: no metric is called {limit[1]!r}; {did_you_mean(limit[1], known)}"


def names_nothing(cause: str) -> bool:
    """Whether any breakage could have this cause, so that neither a control nor a waiver may wait for it."""
    return cause in UNMEASURED or cause in _ENGINE or cause.startswith("limits_")


def _meant(cause: str, known: Iterable[str]) -> str:
    said = did_you_mean(cause, known)
    return said if said.startswith("did you") else "the causes are in harness/definitions/causes.py"
