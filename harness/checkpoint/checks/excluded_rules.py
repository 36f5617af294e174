"""What was not quantized must be the base's, byte for byte."""

from __future__ import annotations

from collections.abc import Iterator

from harness.checkpoint.checks.encoding import holds_other, other_base
from harness.checkpoint.context import Context
from harness.checkpoint.excluded import Compared
from harness.checkpoint.findings import finding, some
from harness.records.inspection import InspectionFinding

MODULATION = ("scale_shift_table", "time_proj", "norm_out", "adaLN", "modulation", "norm.linear", "norm1.linear")


def excluded_rows(context: Context) -> Iterator[InspectionFinding]:
    """Excluded tensors that differ; AdaLN halves that stand exchanged are named."""
    for expert, compared in context.compared.items():
        differing = [item for item in compared if not item.equal]
        swapped = [item for item in differing if item.halves_swapped]
        moved = [item for item in differing if not item.halves_swapped]
        if holds_other(context, expert) or other_base(context, expert):
            continue  # the other expert's tensors: expert_identity names it
        if swapped:
            adaln = [item for item in swapped if any(word in item.tensor for word in MODULATION)]
            code = "adaln_halves_swapped" if adaln else "halves_swapped"
            first = (adaln or swapped)[0]
            yield _finding(
                code,
                expert,
                adaln or swapped,
                first,
                "hold the base's values with first and second half exchanged (scale for shift)",
            )
        if moved:
            yield _finding(
                "excluded_differs", expert, moved, moved[0], "were not quantized and still differ from the base"
            )


def _finding(code: str, expert: str, items: list[Compared], first: Compared, text: str) -> InspectionFinding:
    names = [item.tensor for item in items]
    return finding(
        "fault",
        code,
        f"{expert}: {some(names)} {text}.",
        expert=expert,
        tensor=first.tensor,
        evidence={
            "tensors": names[:20],
            "count": len(names),
            "cosine": first.cosine,
            "relative_error": first.relative_error,
            "elements": first.elements,
            "whole": first.whole,
        },
    )
