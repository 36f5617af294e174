"""Draw checkpoints whose every property is random, for `benchmarks.contracts`.

No rule of the contracts was written with these in view.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from harness.runtimes.kinds import (
    IGNORE,
    Kind,
    Stored,
    drop_tensors,
    exact_names,
    flat_config,
    nested_config,
    runtime_names,
    with_bf16_linear,
    with_markers,
    without_a_scale,
)


def drawn_kinds(seed: int, count: int) -> tuple[Kind, ...]:
    """Return kinds whose every property is drawn at random: no rule was written with these in view.

    Args:
        seed: seed of the draw.
        count: number of kinds.
    """
    rng = np.random.default_rng(seed)

    def pick(*options: Any) -> Any:
        return options[int(rng.integers(len(options)))]

    kinds = []
    for number in range(count):
        fp8 = rng.random() < 0.4
        if fp8:
            stored = Stored("fp8", scale_shape=pick("scalar", "scalar", "one", "channel"))
            algo = pick("FP8", "FP8", "FP8", "FP8_PER_CHANNEL_PER_TOKEN", "fp8", "W8A8_FP8", "NVFP4")
        else:
            stored = Stored("nvfp4", high_first=bool(pick(0, 0, 1)), swizzled=bool(pick(0, 0, 1)))
            algo = pick("NVFP4", "NVFP4", "NVFP4", "NVFP4", "nvfp4", "NVFP4_AWQ", "FP8")
        keys: dict[str, Any] = {}
        if rng.random() < 0.5:
            keys["swap_weight_nibbles"] = pick(True, False, None, "true", "false", 0, 1)
        if rng.random() < 0.3:
            keys["checkpoint_uses_packed_qkv"] = pick(True, False)
        if rng.random() < 0.3:
            keys["checkpoint_weight_scale_layout"] = pick("swizzled", "linear")
        ignore = pick(
            list(IGNORE),
            list(IGNORE),
            exact_names(),
            runtime_names(),
            ["blocks.0*", "proj_out"],
            ["*"],
            [],
            ["blocks.[03]*"],
        )
        body = (
            nested_config(algo, top=pick({}, keys), **{"exclude_modules": ignore, **pick({}, keys)})
            if rng.random() < 0.35
            else flat_config(algo, ignore=ignore, **pick(keys, keys, {"quantization": keys}))
        )
        place = pick("config", "config", "config", "config", "hf_quant", "metadata", "nowhere")
        edits = [None, None, None, None, None, drop_tensors(".input_scale"), without_a_scale, with_bf16_linear]
        edits += [drop_tensors(".weight_scale")] if fp8 else [with_markers, drop_tensors(".weight_scale_2")]
        kinds.append(
            Kind(
                f"drawn_{seed}_{number:03d}",
                stored,
                role=pick("model", "model", "override"),
                config=body if place == "config" else None,
                hf_quant=body if place == "hf_quant" else None,
                metadata={pick("quantization_config", "_quantization_metadata"): body} if place == "metadata" else {},
                edit=pick(*edits),
                shards=pick(1, 1, 1, 2),
            )
        )
    return tuple(kinds)
