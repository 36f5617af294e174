"""Classify how a runtime loads a checkpoint, in one word: from the loaded weights and from a prediction alike."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from harness.inspector.contracts.predict import Declared, Prediction
from harness.reading import as_json
from harness.runtimes.kinds import Kind, files_of

Outcome = Literal[
    "right",
    "refused",
    "nibble_order",
    "scale_layout",
    "both_orders",
    "gain",
    "scope",
    "plain",
    "input_scale",
    "unmodelled",
]
"""``right``: every value and every method as stored. ``scope``: other Linears run quantized than are stored quantized.
``plain``: values are right, and nothing runs quantized. ``input_scale``: an absent input scale is taken for 1."""
RIGHT_COSINE, RIGHT_GAIN = 0.98, 0.05
"""FP8 and NVFP4 of the generated weights lie above .994 and within .01; a wrong layout lies below .9."""


@dataclass(frozen=True)
class Header:
    """Dtype and shape of one tensor."""

    dtype: str
    shape: tuple[int, ...]
    file: str


DTYPES = {
    "bfloat16": "BF16", "float16": "F16", "float32": "F32", "uint8": "U8", "int8": "I8",
    "float8_e4m3fn": "F8_E4M3", "float8_e5m2": "F8_E5M2",
}  # fmt: skip
"""numpy's names of the dtypes in kinds to safetensors' names."""


def declared_of(kind: Kind) -> Declared:
    """Return a kind's declarations and tensor headers, as its files state them."""
    tensors: dict[str, Header] = {}
    metadata: dict[str, str] = {}
    for file, (part, header) in files_of(kind).items():
        metadata.update(header)
        tensors.update({name: Header(DTYPES[value.dtype.name], value.shape, file) for name, value in part.items()})
    # a config passes through JSON, so that null, true and lists are what a runtime reads
    config = as_json(kind.config) if kind.config_file and kind.config is not None else None
    return Declared(kind.role, config, tensors, metadata)


def stored_quantized(declared: Declared) -> frozenset[str]:
    """Return the modules that are stored quantized, by dtype alone: declarations do not count."""
    return frozenset(
        name[: -len(".weight")]
        for name, entry in declared.tensors.items()
        if name.endswith(".weight") and entry.dtype in ("U8", "F8_E4M3", "F8_E5M2", "I8")
    )


def predicted_outcome(prediction: Prediction, kind: Kind, declared: Declared) -> Outcome:
    """Return the outcome that a prediction means for this kind, whose storage is known."""
    if prediction.unmodelled:
        return "unmodelled"
    if prediction.refused:
        return "refused"
    stored = stored_quantized(declared)
    if not prediction.quantized:
        return "gain" if prediction.scale_of_one & stored else "plain" if stored else "right"
    if prediction.method == "nvfp4":
        swap, tiled = prediction.swap.on != kind.stored.high_first, prediction.tiled.on != kind.stored.swizzled
        if swap or tiled:
            return "both_orders" if swap and tiled else "nibble_order" if swap else "scale_layout"
    if prediction.scale_of_one:
        return "gain"
    if prediction.quantized != stored:
        return "scope"
    return "input_scale" if prediction.input_scale_of_one else "right"


def real_outcome(answer: Mapping[str, Any], kind: Kind, declared: Declared) -> Outcome:
    """Return the outcome that the runtime's loaded weights show."""
    if not answer["loaded"]:
        return "refused"
    linears: Mapping[str, list[Any]] = answer["linears"]
    stored = stored_quantized(declared)
    plain = ("UnquantizedLinearMethod", "absent", "none")
    quantized = {name for name, row in linears.items() if row[0] not in plain}
    wrong = [row for row in linears.values() if row[1] is None or row[1] < RIGHT_COSINE]
    if wrong:
        low = max(abs(row[1] or 0.0) for row in wrong)
        resolved = answer.get("config") or {}
        tiled = (resolved.get("checkpoint_weight_scale_layout") == "swizzled") != kind.stored.swizzled
        # swapped nibbles leave almost no correlation with the base; a wrong scale layout alone leaves more
        if low < 0.2:
            return "both_orders" if tiled else "nibble_order"
        return "scale_layout" if tiled else "gain"
    if any(abs(row[2] - 1) > RIGHT_GAIN for row in linears.values()):
        return "gain"
    if not quantized:
        return "plain" if stored else "right"
    if quantized != stored:
        return "scope"
    ones = [name for name in quantized if linears[name][3] == 1.0]
    return "input_scale" if ones else "right"
