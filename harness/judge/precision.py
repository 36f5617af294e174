"""Receipts of precision compared: which operations computed in a narrower dtype than the golden's did."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final

BITS: Final = {
    "float64": 64, "float32": 32, "bfloat16": 16, "float16": 16, "float8_e4m3fn": 8, "float8_e5m2": 8, "int8": 8,
    "float8_e4m3fnuz": 8, "float8_e5m2fnuz": 8,
}  # fmt: skip
SOFTMAX: Final = ("_softmax", "exp")
"""Written-out attention computes these; a kernel that fuses them accumulates in float32."""
FUSED: Final = "scaled_dot_product"


def lowered(golden: Mapping[str, int], run: Mapping[str, int]) -> Iterator[str]:
    """A sentence per operation that computed in a narrower dtype than the golden's.

    Operations that one side lacks are another way of computing and no finding: q, k and v as one product, a
    feed-forward in chunks, attention written out in float32.

    Args:
        golden: ``operation:dtype`` to calls, see `harness.pipeline.dtypes`; empty: nothing was recorded.
        run: the same of the run.
    """
    if not golden or not run:
        return
    theirs, ours = _by_operation(golden), _by_operation(run)
    for operation in sorted(theirs.keys() & ours.keys()):
        wide, narrow = _moved(theirs[operation], ours[operation])
        if wide and narrow:
            count = ours[operation][narrow] - theirs[operation].get(narrow, 0)
            yield f"{count} calls of {operation} compute in {narrow}, the golden's in {wide}"
    new = {dtype for counts in ours.values() for dtype in counts} - {d for counts in theirs.values() for d in counts}
    for dtype in sorted(new):
        if BITS.get(dtype, 64) <= 16:
            where = sorted(operation for operation, counts in ours.items() if dtype in counts)
            yield f"{', '.join(where[:3])} compute in {dtype}, which nothing of the golden does"
    was_fused = any(FUSED in operation for operation in theirs)
    for operation in SOFTMAX:
        short = next((dtype for dtype in ours.get(operation, {}) if BITS.get(dtype, 64) <= 16), None)
        if was_fused and operation not in theirs and short is not None:
            yield f"softmax ({operation}) computes in {short}; the golden's kernel keeps it in float32"
            return


def _by_operation(counts: Mapping[str, int]) -> dict[str, dict[str, int]]:
    table: dict[str, dict[str, int]] = {}
    for name, count in counts.items():
        operation, _, dtype = name.rpartition(":")
        table.setdefault(operation, {})[dtype] = count
    return table


def _moved(golden: Mapping[str, int], run: Mapping[str, int]) -> tuple[str, str]:
    """The wide dtype that lost calls and the narrower one that won some; empty if there is no such pair."""
    lost = [dtype for dtype, count in golden.items() if run.get(dtype, 0) < count]
    won = [dtype for dtype, count in run.items() if golden.get(dtype, 0) < count]
    for wide in sorted(lost, key=lambda dtype: -BITS.get(dtype, 0)):
        for narrow in won:
            if BITS.get(narrow, 0) < BITS.get(wide, 0):
                return wide, narrow
    return "", ""
