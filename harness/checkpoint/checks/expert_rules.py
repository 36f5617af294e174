"""Two experts: the right two, in the right order, quantized by one policy."""

from __future__ import annotations

from collections.abc import Iterator

from harness.checkpoint.checks.encoding import related
from harness.checkpoint.context import Context
from harness.checkpoint.findings import finding, some
from harness.checkpoint.modules import summary_format
from harness.records.inspection import InspectionFinding

MARGIN = 0.002
"""Lead in cosine by which the other expert's base must fit better, in most Linears."""


def experts_policy(context: Context) -> Iterator[InspectionFinding]:
    """Formats against the case, and one expert against the other."""
    formats = {expert: summary_format(context.modules[expert]) for expert in context.experts}
    for expert, wanted in context.options.expected.items():
        stored = formats.get(expert)
        if stored is not None and stored != wanted and context.modules[expert]:
            yield finding(
                "fault",
                "unexpected_format",
                f"{expert}: the case says {wanted} and the weights are stored as {stored}.",
                expert=expert,
                evidence={"expected": wanted, "stored": stored},
                next_command=f"state quantization.{expert}: {stored} in the case, or give the right override",
            )
    if len(formats) < 2:
        return
    first, second = sorted(formats)[:2]
    if formats[first] != formats[second]:
        overridden = [name for name, component in context.experts.items() if component.role == "override"]
        why = f" (only {some(overridden)} is overridden)" if overridden else ""
        yield finding(
            "warning",
            "experts_mixed_precision",
            f"{first} is stored as {formats[first]} and {second} as {formats[second]}{why}.",
            evidence=formats,
        )
        return
    mine, theirs = (set(context.quantized(expert)) for expert in (first, second))
    if mine != theirs:
        only = sorted(mine ^ theirs)
        yield finding(
            "warning",
            "experts_policy_differs",
            f"the experts quantize different Linears: {some(only)} in one of them only.",
            evidence={"modules": only[:20], "count": len(only)},
        )


def swapped_or_same(context: Context) -> Iterator[InspectionFinding]:
    """Each expert must fit its own base better than the other expert's."""
    votes: dict[str, tuple[int, int]] = {}
    for expert in context.experts:
        for_other = total = 0
        for item in related(context, expert).values():
            if item.fit is not None and item.fit.other is not None:
                total += 1
                for_other += item.fit.other > item.fit.scores[item.fit.best].cosine + MARGIN
        plain = [item for item in context.compared.get(expert, ()) if item.other_equal is not None and item.other_equal != item.equal]
        for_other += sum(item.other_equal is True for item in plain)
        votes[expert] = (for_other, total + len(plain))
    swapped = sorted(expert for expert, (other, total) in votes.items() if total and other * 2 > total)
    if len(swapped) > 1:
        yield finding(
            "fault",
            "experts_swapped",
            "the two experts stand exchanged: each holds codes of the other expert's base.",
            expert=swapped[0],
            evidence={expert: list(pair) for expert, pair in votes.items()},
            next_command="exchange the folders transformer and transformer_2",
        )
    elif swapped:
        same = len(context.experts) > 1
        yield finding(
            "fault",
            "experts_identical" if same else "wrong_expert",
            f"{swapped[0]} holds the other expert's weights ({votes[swapped[0]][0]} of {votes[swapped[0]][1]} tensors fit "
            "the other base)" + (": both experts are the same one." if same else "."),
            expert=swapped[0],
            evidence={expert: list(pair) for expert, pair in votes.items()},
        )
