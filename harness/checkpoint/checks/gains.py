"""Fitted gains: an inverted, dropped or misread scale leaves every cosine as it is and shows only here."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from harness.checkpoint.checks.encoding import own_related
from harness.checkpoint.context import Context
from harness.checkpoint.findings import finding, some
from harness.checkpoint.gates import ROW_GAIN, bad_rows, gain_limit, gate_of, is_fnuz
from harness.checkpoint.measure import Measured
from harness.records.inspection import InspectionFinding

TEXTS = {
    "global_scale_inverted": "their scale is the reciprocal of what it must be",
    "scale_dropped": "their scale is exactly 1: it was dropped, or a converter filled it in",
    "fp8_fnuz": "their bytes are E4M3 FNUZ, read as E4M3 FN they are twice too large",
    "gain": "their scale is wrong by that factor",
}


def gains(context: Context) -> Iterator[InspectionFinding]:
    """Least-squares gain per tensor and per row."""
    for expert in context.experts:
        groups: dict[str, list[str]] = {}
        measured = own_related(context, expert)
        for name, item in measured.items():
            code = _name(item)
            if code:
                groups.setdefault(code, []).append(name)
            elif rows := _rows(item):
                yield _row_finding(expert, name, item, rows)
        for code, names in groups.items():
            found = measured[names[0]].fit
            assert found is not None  # noqa: S101 - `related` keeps only these
            gain = found.scores[found.best].gain
            yield finding(
                "fault",
                code,
                f"{expert}: {some(names)} decode to {gain:.4g} times the base "
                f"(cos {found.scores[found.best].cosine:.4f}): {TEXTS[code]}.",
                expert=expert,
                module=names[0],
                evidence={"gain": gain, "scale": found.scale, "modules": names[:20], "count": len(names)},
            )


def _name(item: Measured) -> str:
    found = item.fit
    assert found is not None  # noqa: S101 - `related` keeps only these
    gate, limit, score = gate_of(item), gain_limit(item), found.scores[found.best]
    if _unscaled(item) or (item.module.format == "fp8" and found.best != (item.module.code or "e4m3")):
        return ""  # scale_tensors and scalar_values name a scale that is absent, zero or not finite
    if score.cosine < gate.unrelated or abs(score.gain - 1) <= limit or not math.isfinite(score.gain):
        return ""
    if len(bad_rows(found)) and abs(float(np.median(found.sums[found.best].row_gain(found.scale))) - 1) <= limit:
        return ""  # a few broken rows: named row by row
    per_row = found.sums[found.best].row_gain(found.scale)
    if item.channel_scale is not None and item.channel_scale.size > 1 and abs(float(np.median(per_row)) - 1) <= limit:
        return ""
    if found.scale and abs(score.gain / found.scale**2 - 1) < 0.1 and abs(found.scale - 1) > 0.1:
        return "global_scale_inverted"
    if found.scale == 1.0 and item.module.format in ("nvfp4", "fp8") and item.module.kind not in ("block", "group"):
        return "scale_dropped"
    if is_fnuz(item):
        return "fp8_fnuz"
    return "gain"


def _unscaled(item: Measured) -> bool:
    found = item.fit
    if item.module.format in ("gguf", "nf4"):
        return False
    outer = item.module.global_scale if item.module.format == "nvfp4" else item.module.scale
    return outer is None or found is None or not math.isfinite(found.scale) or found.scale <= 0


def _rows(item: Measured) -> list[int]:
    found = item.fit
    assert found is not None  # noqa: S101 - `related` keeps only these
    sums = found.sums[found.best]
    if found.scores[found.best].cosine < gate_of(item).unrelated or _unscaled(item):
        return []
    gain = sums.row_gain(found.scale)
    broken = set(bad_rows(found))
    return [int(i) for i in range(len(gain)) if abs(gain[i] - 1) > ROW_GAIN and i not in broken and sums.bb[i] > 0]


def _row_finding(expert: str, name: str, item: Measured, rows: list[int]) -> InspectionFinding:
    found = item.fit
    assert found is not None  # noqa: S101 - `related` keeps only these
    numbers = [int(item.rows[row]) for row in rows]
    gain = float(found.sums[found.best].row_gain(found.scale)[rows[0]])
    return finding(
        "fault",
        "row_gain",
        f"{expert}: rows {some([str(number) for number in numbers])} of {name} decode to {gain:.4g} times the base.",
        expert=expert,
        module=name,
        evidence={"rows": numbers[:50], "gain": gain},
    )
