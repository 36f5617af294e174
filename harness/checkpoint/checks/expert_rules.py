"""Two experts: the right two, in the right order, quantized by one policy."""

from __future__ import annotations

from collections.abc import Iterator

from harness.checkpoint.checks.encoding import holds_other, other_base, other_votes, related
from harness.checkpoint.context import Context
from harness.checkpoint.findings import finding, some
from harness.checkpoint.modules import summary_format
from harness.records.inspection import InspectionFinding


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
    votes = {expert: other_votes(context, expert) for expert in context.experts}
    swapped = sorted(expert for expert in context.experts if holds_other(context, expert))
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
            f"{swapped[0]} holds the other expert's weights ({votes[swapped[0]][0]} of {votes[swapped[0]][1]} "
            "tensors fit the other base)" + (": both experts are the same one." if same else "."),
            expert=swapped[0],
            evidence={expert: list(pair) for expert, pair in votes.items()},
        )


def wrong_base(context: Context) -> Iterator[InspectionFinding]:
    """A base whose unquantized tensors are other ones is not the base of this checkpoint, whatever its name says."""
    for expert in context.experts:
        if other_base(context, expert):
            compared = context.compared[expert]
            differing = sum(not item.equal for item in compared)
            fits = [item.fit.scores[item.fit.best].cosine for item in related(context, expert).values() if item.fit]
            yield finding(
                "fault",
                "wrong_base",
                f"{expert}: {differing} of {len(compared)} unquantized tensors differ from the base: it was "
                "made from other weights than the base that is named.",
                expert=expert,
                evidence={
                    "differing": differing,
                    "compared": len(compared),
                    "median_cosine": sorted(fits)[len(fits) // 2] if fits else None,
                },
                next_command="name the base it was made from, or export again",
            )
