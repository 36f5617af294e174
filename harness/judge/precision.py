"""Compare receipts of precision: find operations that computed in a narrower dtype than the golden's."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final

BITS: Final = {
    "float64": 64, "float32": 32, "bfloat16": 16, "float16": 16, "float8_e4m3fn": 8, "float8_e5m2": 8, "int8": 8,
    "float8_e4m3fnuz": 8, "float8_e5m2fnuz": 8,
}  # fmt: skip
PLACES: Final = {
    "native_layer_norm": "norms", "_fused_rms_norm": "norms", "mean": "norms", "var": "norms", "rsqrt": "norms",
    "pow": "norms", "add": "the residual stream", "mul": "modulation and gates", "sub": "modulation and gates",
    "_softmax": "softmax", "exp": "softmax", "mm": "products", "addmm": "products", "bmm": "products",
    "convolution": "convolutions", "cos": "rotary tables", "sin": "rotary tables", "silu": "activations",
    "gelu": "activations",
}  # fmt: skip
"""Part of a transformer that an operation mostly belongs to, for messages."""
FUSED: Final = ("scaled_dot_product", "native_layer_norm", "_fused_rms_norm")
"""Kernels that accumulate in float32, for inputs of any dtype."""
WRITTEN_OUT: Final = {"softmax": ("exp", "_softmax"), "norms": ("mean", "var", "rsqrt", "pow")}
"""Operations that replace a fused kernel. In 16 bits they lose the kernel's accumulation in float32."""
ROUNDING: Final = ("round", "fake_quantize_per_tensor_affine", "quantize_per_tensor")


def lowered(golden: Mapping[str, int], run: Mapping[str, int]) -> Iterator[str]:
    """Yield a sentence per operation that computed in a narrower dtype than the golden's.

    An operation that one side lacks is no finding, because the same result can be computed otherwise: q, k and v as
    one product, a feed-forward in chunks, attention written out in float32.

    Args:
        golden: ``operation:dtype`` to number of calls, see `harness.engine.dtypes`; empty if nothing was recorded.
            Example: ``{"mm:bfloat16": 120}``.
        run: the same of the run.
    """
    if not golden or not run:
        return
    golden_counts, run_counts = _by_operation(golden), _by_operation(run)
    for operation in sorted(golden_counts.keys() & run_counts.keys()):
        wide, narrow = _moved(golden_counts[operation], run_counts[operation])
        if wide and narrow:
            count = run_counts[operation][narrow] - golden_counts[operation].get(narrow, 0)
            yield f"{_placed(operation)}: {count} calls compute in {narrow}, the golden's in {wide}"
    yield from _written_out(golden_counts, run_counts)
    for operation in ROUNDING:
        if operation in run_counts and operation not in golden_counts:
            yield f"values are rounded to a coarser grid ({operation}), which nothing of the golden does"
    new = {dtype for counts in run_counts.values() for dtype in counts} - {
        dtype for counts in golden_counts.values() for dtype in counts
    }
    for dtype in sorted(new):
        # a wider dtype that is new loses nothing
        if BITS.get(dtype, 64) <= 16:
            places = sorted(operation for operation, counts in run_counts.items() if dtype in counts)
            yield f"{', '.join(map(_placed, places[:3]))} compute in {dtype}, which nothing of the golden does"


def _written_out(
    golden_counts: Mapping[str, Mapping[str, int]], run_counts: Mapping[str, Mapping[str, int]]
) -> Iterator[str]:
    """Yield a sentence if calls of a fused kernel are gone and its elementary operations run in 16 bits instead."""
    for place, operations in WRITTEN_OUT.items():
        fused = [name for name in golden_counts if any(word in name for word in FUSED) and _belongs(name, place)]
        gone = sum(sum(golden_counts[name].values()) - sum(run_counts.get(name, {}).values()) for name in fused)
        for operation in operations:
            for dtype, count in run_counts.get(operation, {}).items():
                more = count - golden_counts.get(operation, {}).get(dtype, 0)
                if gone > 0 and more > 0 and BITS.get(dtype, 64) <= 16:
                    reason = "the golden's kernel keeps it in float32"
                    yield f"{place}: {more} calls of {operation} compute in {dtype}; {reason}"
                    return


def _belongs(name: str, place: str) -> bool:
    return ("scaled_dot_product" in name) == (place == "softmax")


def _placed(operation: str) -> str:
    place = PLACES.get(operation)
    return f"{place} ({operation})" if place else operation


def _by_operation(counts: Mapping[str, int]) -> dict[str, dict[str, int]]:
    table: dict[str, dict[str, int]] = {}
    for name, count in counts.items():
        operation, _, dtype = name.rpartition(":")
        table.setdefault(operation, {})[dtype] = count
    return table


def _moved(golden: Mapping[str, int], run: Mapping[str, int]) -> tuple[str, str]:
    """Return the wide dtype that lost calls and a narrower one that gained some; two empty texts if there is none."""
    lost = [dtype for dtype, count in golden.items() if run.get(dtype, 0) < count]
    won = [dtype for dtype, count in run.items() if golden.get(dtype, 0) < count]
    # the widest first, since it loses most
    for wide in sorted(lost, key=lambda dtype: -BITS.get(dtype, 0)):
        for narrow in won:
            if BITS.get(narrow, 0) < BITS.get(wide, 0):
                return wide, narrow
    return "", ""
