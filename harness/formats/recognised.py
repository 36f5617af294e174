"""Formats and layouts that are named and not decoded."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Final

from harness.formats.header import TensorEntry
from harness.formats.spec import Format, Gate

MXFP6: Final = Format(
    name="mxfp6",
    title="MXFP6",
    stored="U8, four 6-bit floats per three bytes; E8M0 exponent per 32 values",
    proof="recognised",
    gate=Gate(0.99, 0.90, 0.03, 0.02),
    noise=0.08,
    source="OCP MX v1.0 5.2 and 5.3.2",
    algorithms="MXFP6",
)
UNKNOWN: Final = Format(
    name="unknown",
    title="a format that this version does not know",
    stored="-",
    proof="recognised",
    gate=Gate(0.99, 0.90, 0.03, 0.02),
    noise=0.1,
    source="-",
)

LINEAR: Final = re.compile(r"(^|\.)blocks\.\d+\.(attn[12]\.(to_[qkv]|to_out\.0|add_[kv]_proj)|ffn\.net\.(0\.proj|2))$")
"""Module names of the Linears in a Wan transformer's blocks, after translation to Diffusers' names."""
UNREAD_LIBRARIES: Final = {
    "W_q": "HQQ",
    "codebooks": "AQLM",
    "Qidxs": "QuIP#",
    "trellis": "EXL3",
    "q_weight": "EXL2",
    "centroids": "VPTQ",
    "dense_weights": "SpQR",
}
"""A tensor in place of the weight that only this library writes."""


def undecoded_linears(
    siblings: Mapping[str, Mapping[str, TensorEntry]], is_scale: Callable[[str], bool]
) -> dict[str, tuple[TensorEntry, str]]:
    """Return the Linears whose values lie in tensors of a library that is not read here.

    A Linear counts if it has no weight of any name, and beside its bias and scales further tensors. A weight that is
    absent while its scale is here is not such a Linear: it was lost.

    Args:
        siblings: tensors by suffix by module.
        is_scale: whether a tensor's name is that of a scale.

    Returns:
        Module to its largest tensor, and the reason for which it is not decoded.
    """
    linears: dict[str, tuple[TensorEntry, str]] = {}
    for stem, parts in siblings.items():
        if not LINEAR.search(stem) or {"weight", "weight_packed", "qweight"} & set(parts):
            continue
        values = {name: entry for name, entry in parts.items() if name != "bias" and not is_scale(f".{name}")}
        if not values:
            continue
        library = next((title for mark, title in UNREAD_LIBRARIES.items() if mark in parts), "")
        names = ", ".join(sorted(name for name in parts if name != "bias")[:4])
        why = f"{library} stores them in tensors of its own ({names})" if library else ""
        largest = max(values.values(), key=lambda entry: (entry.nbytes, entry.name))
        linears[stem] = (largest, why or f"its tensors ({names}) are of no layout that is known here")
    return linears
