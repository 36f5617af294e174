"""Compares a checkpoint with its base: unquantized tensors, and the right expert."""

from __future__ import annotations

from collections.abc import Iterator
from statistics import median

from harness.formats.modules import summary_format
from harness.inspector.checks.encoding import holds_other, other_base, other_votes, related
from harness.inspector.checks.registration import check
from harness.inspector.context import Context
from harness.inspector.findings import about, finding
from harness.inspector.gather import Compared
from harness.records.inspection import InspectionFinding
from harness.text import listed

# What was not quantized must be the base's, byte for byte.


MODULATION = ("scale_shift_table", "time_proj", "norm_out", "adaLN", "modulation", "norm.linear", "norm1.linear")


@check(
    "excluded",
    cost="rows",
    codes=("adaln_halves_swapped", "halves_swapped", "excluded_differs"),
    notes=("bias_corrected",),
    order=310,
)
def excluded_rows(context: Context) -> Iterator[InspectionFinding]:
    """Report unquantized tensors that differ from the base, and exchanged halves of AdaLN tensors by their own code."""
    for expert, compared in context.compared.items():
        differing = [item for item in compared if not item.equal]
        swapped = [item for item in differing if item.halves_swapped]
        moved = [item for item in differing if not item.halves_swapped and not item.not_finite and not item.holds]
        if holds_other(context, expert) or other_base(context, expert):
            continue  # the other expert's tensors: expert_identity names it
        if swapped:
            # the halves of modulation tensors are shift and scale, which some converters store the other way round
            adaln = [item for item in swapped if any(word in item.tensor for word in MODULATION)]
            code = "adaln_halves_swapped" if adaln else "halves_swapped"
            first = (adaln or swapped)[0]
            yield _excluded_finding(
                code,
                expert,
                adaln or swapped,
                first,
                "hold the base's values with first and second half exchanged (scale for shift)",
            )
        if moved and not swapped and _corrected(context, expert, moved):
            names = [item.tensor for item in moved]
            yield about(
                "bias_corrected",
                expert,
                f"the biases of {len(names)} quantized Linears differ from the base's ({listed(names)}), by "
                f"{median(item.relative_error for item in moved) * 100:.2g} % in the median, and nothing else does: a "
                "converter that corrects biases for the error of the codes writes them so.",
                tensors=names,
                severity="warning",
                cosine=min(item.cosine for item in moved),
            )
        elif moved:
            yield _excluded_finding("excluded_differs", expert, moved, moved[0], *_other_values(context, expert, moved))


LEAST_CORRECTED = 8
"""Fewest changed biases that show a converter's rule and no accident."""
BIAS_COSINE = 0.95
"""Median cosine with the base's biases that a correction leaves: it is small beside the bias itself."""
BIAS_FLOOR = 0.9
"""Least cosine of a corrected bias: near-zero biases of a Linear move most."""


def _corrected(context: Context, expert: str, moved: list[Compared]) -> bool:
    """Return whether only biases of quantized Linears moved, most of them, and each by little."""
    biases = {f"{name}.bias" for name in context.quantized(expert)}
    compared = sum(item.tensor in biases for item in context.compared.get(expert, ()))
    return (
        all(item.tensor in biases and item.cosine >= BIAS_FLOOR for item in moved)
        and median(item.cosine for item in moved) >= BIAS_COSINE
        and len(moved) >= LEAST_CORRECTED
        and len(moved) * 2 > compared
    )


def _other_values(context: Context, expert: str, moved: list[Compared]) -> tuple[str, str]:
    """Return the end of the sentence about unquantized tensors that differ, and the next command.

    If most unquantized Linears of the blocks differ, the weights are another model's as a whole.
    """
    plain = {
        module.weight.name
        for name, module in context.modules[expert].items()
        if not module.quantized and name.startswith("blocks.")
    }
    far = sorted(item.relative_error for item in moved if item.tensor in plain)
    # few Linears prove nothing about the weights as a whole
    if len(far) < 8 or len(far) * 2 <= len(plain):
        return "were not quantized and still differ from the base", ""
    text = (
        f"differ from the base, and so {len(far)} of {len(plain)} unquantized Linears are other weights than the "
        f"base's, by about {far[len(far) // 2] * 100:.2g} % in the median: a base of another version, or a distilled, "
        "merged or further trained model, which the case names as its own base"
    )
    return text, "name the weights that it was made from (base: in the case)"


def _excluded_finding(
    code: str, expert: str, items: list[Compared], first: Compared, text: str, next_command: str = ""
) -> InspectionFinding:
    names = [item.tensor for item in items]
    return about(
        code,
        expert,
        f"{listed(names)} {text}.",
        tensors=names,
        tensor=first.tensor,
        next_command=next_command,
        cosine=first.cosine,
        relative_error=first.relative_error,
        elements=first.elements,
        whole=first.whole,
    )


@check("exchanged_linears", cost="rows", codes=("linears_exchanged",), order=265)
def exchanged_linears(context: Context) -> Iterator[InspectionFinding]:
    """Report Linears that hold the weights of another Linear of the base: names or block numbers were mixed up."""
    for expert in context.experts:
        if holds_other(context, expert):
            continue
        holds = {name: item.holds for name, item in related(context, expert).items() if item.holds}
        holds |= {
            item.tensor.removesuffix(".weight"): item.holds for item in context.compared.get(expert, ()) if item.holds
        }
        if not holds:
            continue
        names = sorted(holds)
        pairs = [f"{name} holds {holds[name]}" for name in names]
        yield about(
            "linears_exchanged",
            expert,
            f"{len(names)} Linears hold the weights of other Linears of the base ({listed(pairs)}): the "
            "weights are right and stand under wrong names.",
            module=names[0],
            next_command="correct the converter's map of names, and convert again",
            holds=dict(list(holds.items())[:20]),
            count=len(names),
        )


# Two experts: the right two, in the right order, quantized by one policy.


@check(
    "experts",
    cost="header",
    codes=("unexpected_format", "experts_mixed_precision"),
    notes=("experts_policy_differs",),
    order=240,
)
def experts_policy(context: Context) -> Iterator[InspectionFinding]:
    """Report experts whose format is not the case's, and experts that are quantized differently."""
    formats = {expert: summary_format(context.modules[expert]) for expert in context.experts}
    for expert, wanted in context.options.expected.items():
        stored = formats.get(expert)
        if stored is not None and stored != wanted and context.modules[expert]:
            yield about(
                "unexpected_format",
                expert,
                f"the case says {wanted} and the weights are stored as {stored}.",
                next_command=f"state quantization.{expert}: {stored} in the case, or give the right override",
                expected=wanted,
                stored=stored,
            )
    if len(formats) < 2:
        return
    first, second = sorted(formats)[:2]
    if not all(context.modules[expert] for expert in (first, second)):
        return  # nothing was read of one of them: files names why, and its format is not known
    if formats[first] != formats[second]:
        overridden = [name for name, component in context.experts.items() if component.role == "override"]
        why = f" (only {listed(overridden)} is overridden)" if overridden else ""
        yield finding(
            "warning",
            "experts_mixed_precision",
            f"{first} is stored as {formats[first]} and {second} as {formats[second]}{why}.",
            evidence=formats,
        )
        return
    first_names, second_names = (set(context.quantized(expert)) for expert in (first, second))
    if first_names != second_names:
        only = sorted(first_names ^ second_names)
        yield finding(
            "warning",
            "experts_policy_differs",
            f"the experts quantize different Linears: {listed(only)} in one of them only.",
            evidence={"modules": only[:20], "count": len(only)},
        )


@check("expert_identity", cost="rows", codes=("experts_swapped", "experts_identical", "wrong_expert"), order=250)
def swapped_or_same(context: Context) -> Iterator[InspectionFinding]:
    """Report experts that fit the other expert's base better than their own: exchanged, or the same twice."""
    if context.same_experts:
        yield finding(
            "fault",
            "experts_identical",
            "both experts hold the same tensors with the same bytes in every one that was compared: one expert is "
            "stored twice, and the other is absent.",
            expert=sorted(context.experts)[-1],
            next_command="fetch the other expert's file",
        )
        return
    votes = {expert: other_votes(context, expert) for expert in context.experts}
    swapped = sorted(expert for expert in context.experts if holds_other(context, expert))
    if len(swapped) > 1:
        yield finding(
            "fault",
            "experts_swapped",
            "the two experts are exchanged: each holds codes of the other expert's base.",
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


RELATED = 0.9
"""Median cosine from which differing tensors are versions of one model: drawn weights have a cosine near 0."""


@check("base_identity", cost="rows", codes=("wrong_base",), order=260)
def wrong_base(context: Context) -> Iterator[InspectionFinding]:
    """Report a base whose unquantized tensors differ: it is not this checkpoint's base, even if its name matches."""
    for expert in context.experts:
        if other_base(context, expert):
            compared = context.compared[expert]
            differing = sum(not item.equal for item in compared)
            fits = [item.fit.scores[item.fit.best].cosine for item in related(context, expert).values() if item.fit]
            errors = [item.relative_error for item in compared if not item.equal]
            distance, cosine = median(errors), median(item.cosine for item in compared if not item.equal)
            near = cosine >= RELATED
            yield about(
                "wrong_base",
                expert,
                f"{differing} of {len(compared)} unquantized tensors differ from the base, by "
                f"{distance * 100:.2g} % in the median: "
                + (
                    "other weights than the base's, but near them: a base of another version, or a distilled, merged "
                    "or further trained model, which the case names as its own base."
                    if near
                    else "another model than the base that is named."
                ),
                next_command="name the weights that it was made from (base: in the case), or export again",
                differing=differing,
                compared=len(compared),
                median_cosine=sorted(fits)[len(fits) // 2] if fits else None,
            )
