"""All cause codes of a verdict. With them the loader rejects a typo in ``expect: regression:<cause>``.

This module is read at every start of pytest, so it imports nothing heavy: codes of the inspector come from a file that
its checks write, codes of frames from a module without numpy.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from functools import cache
from importlib.metadata import entry_points
from pathlib import Path
from typing import Final

from harness.definitions.validation import did_you_mean
from harness.frames.causes import SANITY
from harness.reading import read_json

INSPECTOR_CODES: Final = Path(__file__).with_name("inspector_codes.json")
"""Codes that the inspector's checks register. ``python -m harness.inspector.checks --write`` writes the file."""
CHECKS_GROUP: Final = "quantgate.checks"
"""Entry point group of checks in other distributions: ``code = "package.module:function"``, one per cause code."""
_STAGE_CODES: Final = frozenset({
    # engine: the run ended before there was evidence
    "checkpoint_fault", "crash", "device", "disk", "download", "hang", "infra", "oom", "protocol", "unsupported_layout",
    # identity
    "cpu_differs", "env_changed", "weights_changed",
    # probes: single Linears and experts
    "activation_off", "first_divergence", "input_scale_off", "module_off", "norm_off", "not_finite",
    "precision_differs",
    "probe_structure",
    # trace: values that the model received, and settings
    "attention_mask", "attention_result", "attention_scale", "boundary_ratio", "expert", "guidance",
    "held_weights_differ", "image_condition_differs",
    "initial_latents", "initial_noise",
    "latents_between_steps", "model_latents", "model_text", "model_timestep", "not_available", "rope", "rounding",
    "schedule_differs", "schedule_unmodelled", "scheduler_settings", "sequence_length", "sigmas", "solver",
    "step_count", "text_dtype", "text_embedding", "text_tokens", "texts_exchanged", "timestep", "vae_alone",
    "vae_input", "vae_settings", "velocity_changed", "velocity_kept",
    # receipts: kernels that ran
    "kernels_unproven", "native_path_not_run", "no_receipts", "quantized_path_not_run", "unexpected_quantization",
    # time and memory
    "faster", "leak", "more_memory", "slower",
    # limits
    "limits_gate_nothing", "limits_incomplete", "limits_missing", "limits_of_another_golden", "metric_not_computed",
})  # fmt: skip
"""Codes of findings of the engine and the judge, by stage."""
CAUSES: Final = _STAGE_CODES | SANITY | frozenset(read_json(INSPECTOR_CODES))
"""Codes of all findings that can be the cause of a verdict. Limits of metrics (``ssim_below_limit``) are not listed."""
MEASURES: Final = (
    "probe_base_error", "probe_golden_error", "probe_module_base_error", "probe_module_error", "probe_point_error",
)  # fmt: skip
"""Limits of probes, as `harness.limits.probes` names them."""
UNMEASURED: Final = frozenset({"metric_not_computed", "checkpoint_fault", "error"})
"""Causes that name no fault: nothing was measured, or any breakage would have them."""
STAGES: Final = ("engine", "frames", "identity", "inspection", "perf", "probe", "receipts", "sanity", "trace")
"""Stages that a negative control may name."""
_ENGINE: Final = frozenset({"oom", "hang", "crash", "device", "download", "disk", "protocol", "infra"})
_LIMIT = re.compile(r"(.+)_(above|below|outside)_limit")


@cache
def installed_codes() -> frozenset[str]:
    """Return the codes of checks in other distributions: the names of their entry points. Nothing is imported."""
    return frozenset(point.name for point in entry_points(group=CHECKS_GROUP))


def check_cause(cause: str, metrics: Iterable[str]) -> str | None:
    """Return the fault of a cause that a negative control expects, as a sentence, or ``None``.

    Args:
        cause: the text after the colon of ``expect``.
        metrics: names of the metrics that are installed.
    """
    metrics = tuple(metrics)
    limit = _LIMIT.fullmatch(cause)
    if limit is None and (misspelt := _limit_of(cause, metrics)):
        return f"no verdict has the cause {cause!r}; did you mean {misspelt}?"
    if limit is None:
        known_codes = CAUSES | installed_codes()
        return (
            None if cause in known_codes else f"no verdict has the cause {cause!r}; {_suggestion(cause, known_codes)}"
        )
    names = [*metrics, *MEASURES]
    if limit[1] in names:
        return None
    return f"no verdict has the cause {cause!r}: no metric is called {limit[1]!r}; {did_you_mean(limit[1], names)}"


def _limit_of(cause: str, metrics: Iterable[str]) -> str | None:
    """Return the cause ``<metric>_below_limit`` or such that ``cause`` misspells, or ``None``."""
    if cause in CAUSES | installed_codes():
        return None
    limits = [f"{name}_{side}_limit" for name in (*metrics, *MEASURES) for side in ("above", "below", "outside")]
    return next(iter(difflib.get_close_matches(cause, limits, n=1, cutoff=0.85)), None)


def names_nothing(cause: str) -> bool:
    """Return whether any breakage could have this cause, so that neither a control nor a waiver may name it."""
    return cause in UNMEASURED or cause in _ENGINE or cause.startswith("limits_")


def _suggestion(cause: str, names: Iterable[str]) -> str:
    hint = did_you_mean(cause, [name for name in names if not names_nothing(name)])
    return hint if hint.startswith("did you") else "the causes are in docs/troubleshooting.md of quantgate's repository"
