"""Compares the reading that the bytes prove with the reading that the checkpoint declares.

A reading is nibble order and scale layout (4 bits) or a code table (8 bits): the base decides which reading is right.
"""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from harness.formats.decode import rotation_of, shift_of
from harness.formats.modules import Module
from harness.formats.registry import title_of
from harness.inspector.checks.format_rules import in_layout
from harness.inspector.checks.registration import check
from harness.inspector.context import Context, declared_reading
from harness.inspector.decoding import declared_rule
from harness.inspector.explain import distance_of, explain
from harness.inspector.findings import about
from harness.inspector.gates import ROW_CLAIM, bad_rows, gate_of, is_fnuz, state_of
from harness.inspector.index import Component
from harness.inspector.measure import PLAIN_KINDS, Measured
from harness.records.inspection import InspectionFinding
from harness.text import listed

OTHER_MARGIN = 0.002
"""Lead in cosine by which the other expert's base must fit better."""
OTHER_BASE_SHARE = 0.8
"""Share of differing unquantized tensors above which the base is another model's."""
OWN_CODES = 0.95
"""Mean cosine over blocks of 16 columns from which the codes are the base's, even if their scales do not fit."""
MIXED_CODES = ("gguf", "nf4")
"""Formats whose tensors each state their own code: GGUF files mix Q4_K, Q5_0 and Q6_K by design."""
PARTS = {"nibble_order": 0, "scale_layout": 1}
WORDS = {
    "low_first": "low nibble first",
    "high_first": "high nibble first",
    "linear": "linear block scales",
    "swizzled": "swizzled block scales",
}


def declared_of(context: Context, expert: str, measured: Measured) -> str:
    """Return the declared reading of a measured module; a free part (``any``) takes the proven value."""
    module = measured.module
    if module.spec.loader_options:
        rule = declared_reading(context.experts[expert], module)[0]
    elif module.format in ("fp8", "int8") and module.kind in PLAIN_KINDS:
        rule = module.code
    else:
        rule = declared_rule(module)
    if "any" not in rule or measured.fit is None:
        return rule
    best = measured.fit.best.split("/")
    return "/".join(proven if stated == "any" else stated for stated, proven in zip(rule.split("/"), best, strict=True))


def related(context: Context, expert: str) -> dict[str, Measured]:
    """Return the measured modules that were compared with a base."""
    return {name: item for name, item in context.measured.get(expert, {}).items() if item.fit is not None}


def holds_other(context: Context, expert: str) -> bool:
    """Return whether most sampled tensors of an expert fit the OTHER expert's base; no other check then judges them."""
    for_other, total = other_votes(context, expert)
    return total > 0 and for_other * 2 > total


def other_votes(context: Context, expert: str) -> tuple[int, int]:
    """Return the number of tensors that fit the other expert's base better, and of tensors that could be compared."""
    votes = [
        item.fit.other > item.fit.scores[item.fit.best].cosine + OTHER_MARGIN and item.fit.other >= gate_of(item).cosine
        for item in related(context, expert).values()
        if item.fit is not None and item.fit.other is not None
    ]
    plain = [item for item in context.compared.get(expert, ()) if item.other_equal is not None]
    votes += [item.other_equal is True for item in plain if item.other_equal != item.equal]
    return sum(votes), len(votes)


def own_related(context: Context, expert: str) -> dict[str, Measured]:
    """Return `related`; nothing if the expert holds the other expert's weights or those of another base."""
    return {} if holds_other(context, expert) or other_base(context, expert) else related(context, expert)


def other_base(context: Context, expert: str) -> bool:
    """Return whether nearly every unquantized tensor differs: then the checkpoint was made from another base."""
    compared = context.compared.get(expert, ())
    differing = sum(not item.equal for item in compared)
    exchanged = any(item.holds for item in compared) or any(item.holds for item in related(context, expert).values())
    mostly = len(compared) >= 8 and differing > OTHER_BASE_SHARE * len(compared)
    return mostly and not exchanged and not holds_other(context, expert)


def with_base(component: Component) -> str:
    """Return the command that inspects this checkpoint again, with a base."""
    return f"quantgate inspect {shlex.quote(component.source.label)} --base owner/name@commit"


@check(
    "encoding",
    cost="rows",
    codes=(
        "nibble_order",
        "scale_layout",
        "fp8_code_table",
        "rotation_differs",
        "zero_point_shifted",
        "weight_transposed",
        "weights_unrelated",
        "weights_zero",
        "scales_unrelated",
        "row_corrupt",
        "two_conventions",
        "encoding_inconclusive",
    ),
    order=270,
)
def encoding(context: Context) -> Iterator[InspectionFinding]:
    """Report tensors and rows whose nibble order, scale layout or code table is not the declared one."""
    for expert in context.experts:
        measured = own_related(context, expert)
        states = {
            name: state_of(item, declared_of(context, expert, item))
            for name, item in measured.items()
            if not is_fnuz(item)
        }
        by_format: dict[str, Counter[str]] = {}
        for item in measured.values():
            if (
                item.fit is None
                or item.module.format in MIXED_CODES
                or item.module.rotation
                or rotation_of(item.fit.best)
                or shift_of(item.fit.best)
            ):
                continue  # each Linear says whether it is rotated: ComfyUI rotates those whose width allows it
            # only proven readings count: a Linear in doubt makes no second convention
            if item.fit.scores[item.fit.best].cosine >= gate_of(item).cosine:
                by_format.setdefault(item.module.format, Counter())[item.fit.best] += 1
        yield from _contradicted(context, expert, measured, states)
        yield from _rows(context, expert, measured)
        for readings in by_format.values():
            if len(readings) < 2:
                continue
            yield about(
                "two_conventions",
                expert,
                f"one file set holds two conventions (nibble order or code table) "
                f"({', '.join(f'{count} Linears {reading}' for reading, count in readings.items())}): "
                "no loader option reads both.",
                **dict[str, Any](readings),
            )
        unclear = sorted(
            name for name, state in states.items() if state == "inconclusive" and not _has_reason(measured[name])
        )
        if unclear:
            worst = min(unclear, key=lambda name: measured[name].fit.scores[measured[name].fit.best].cosine)  # type: ignore[union-attr]
            yield about(
                "encoding_inconclusive",
                expert,
                f"{len(unclear)} Linears lie between the gates ({listed(unclear)}): neither this base's codes "
                f"beyond doubt, nor clearly others{_distance(unclear, measured)}.",
                linears=unclear,
                severity="inconclusive",
                module=worst,
                next_command=(
                    "name the base that was used (base: in the case), or compare with another export: "
                    "quantgate inspect A --against B"
                    if context.options.full
                    else whole_rows(context, expert)
                ),
                **_numbers(measured[worst]),
            )


def _distance(unclear: list[str], measured: Mapping[str, Measured]) -> str:
    """Return the end of the sentence about unclear Linears if most are: how far their weights are from the base's.

    A single Linear may be rounded worse than others; most of them hint at other weights.
    """
    far = sorted(distance for name in unclear if (distance := distance_of(measured[name])) is not None)
    if len(unclear) * 2 <= len(measured) or not far:
        return ""
    return (
        f". They are {len(unclear)} of {len(measured)} Linears, about {far[len(far) // 2] * 100:.2g} % from the base's "
        "weights in the median: a merged, distilled or further trained model, which the case names as its own base, or "
        "a coarser recipe of the same base"
    )


def whole_rows(context: Context, expert: str) -> str:
    """Return the command that inspects this checkpoint again and reads more of it."""
    base = context.base.get(expert)
    against = f" --base {shlex.quote(base.source.label)}" if base is not None else ""
    return f"quantgate inspect {shlex.quote(context.experts[expert].source.label)}{against} --full"


def _has_reason(item: Measured) -> bool:
    """Return whether `gains` names the reason for which a Linear lies between the gates."""
    return any(explained.reason != "recipe_not_recomputable" for explained in explain(item))


def _contradicted(
    context: Context, expert: str, measured: dict[str, Measured], states: Mapping[str, str]
) -> Iterator[InspectionFinding]:
    states_runtime = bool(context.options.contracts or context.options.loader)
    groups: dict[str, list[str]] = {}
    for name, state in states.items():
        item = measured[name]
        if state != "contradicted" or item.fit is None or item.holds:
            continue  # exchanged_linears names those that hold another Linear's weights
        if item.fit.scores[item.fit.best].cosine < gate_of(item).unrelated:
            code = "scales_unrelated" if item.fit.local >= OWN_CODES else "weights_unrelated"
            code = "weight_transposed" if _transposed(item) else "weights_zero" if item.all_zero else code
            groups.setdefault(code, []).append(name)
        elif "/" in item.fit.best:
            declared_reading, proven = declared_of(context, expert, item).split("/"), item.fit.best.split("/")
            for code, part in PARTS.items():
                if declared_reading[part] != proven[part]:
                    groups.setdefault(code, []).append(name)
        elif rotation_of(item.fit.best) or item.module.rotation:
            groups.setdefault("rotation_differs", []).append(name)
        elif shift_of(item.fit.best):
            groups.setdefault("zero_point_shifted", []).append(name)
        else:
            groups.setdefault("fp8_code_table", []).append(name)
    for code, names in groups.items():
        item = measured[names[0]]
        declared = declared_of(context, expert, item)
        # if a runtime is named, `contracts` reports who misreads the bytes, and the declaration is a hint
        soft = code in PARTS and states_runtime
        yield about(
            code,
            expert,
            _sentence(context, expert, code, names, item, declared),
            linears=names,
            severity="warning" if soft else "fault",
            next_command=_remedy(code, item),
            **_numbers(item),
            declared=declared,
        )


def _transposed(item: Measured) -> bool:
    turned = item.columns_fit
    return turned is not None and turned.scores["transposed"].cosine > gate_of(item).cosine


def _sentence(context: Context, expert: str, code: str, names: list[str], item: Measured, declared: str) -> str:
    assert item.fit is not None  # noqa: S101 - only measured modules come here
    best, against = item.fit.scores[item.fit.best], item.fit.scores.get(declared)
    cosines = f"cos {best.cosine:.4f}"
    if against is not None and item.fit.best != declared:
        cosines += f" against {against.cosine:.4f} as declared"
    count = f"{len(names)} Linears ({listed(names)})" if len(names) > 1 else names[0]
    if code in PARTS:
        _, why = declared_reading(context.experts[expert], item.module)
        proven = WORDS[item.fit.best.split("/")[PARTS[code]]]
        return f"bytes of {count} say {proven} ({cosines}), and the checkpoint says otherwise ({why})."
    if code == "fp8_code_table":
        return f"8-bit codes of {count} are {item.fit.best}, not {declared} ({cosines})."
    if code == "rotation_differs":
        proven, stated = (_rotation_text(name) for name in (item.fit.best, declared))
        return f"rows of {count} are {proven} ({cosines}), and the checkpoint says {stated}."
    if code == "weight_transposed":
        return f"{count} are stored transposed."
    if code == "weights_zero":
        return f"the rows that were read of {count} are all zero, and the base's are not: never filled."
    if code == "zero_point_shifted":
        shift = shift_of(item.fit.best)
        size = f"{abs(shift)} too {'small' if shift > 0 else 'large'}"
        error = f"relative error {best.relative_error:.3f} against {against.relative_error:.3f}" if against else cosines
        return (
            f"the zero points of {count}, read as the checkpoint declares, are {size} ({error}): the "
            f"weights of a group are off by {'that many steps' if abs(shift) > 1 else 'one step'} of its scale."
        )
    if code == "scales_unrelated":
        return (
            f"{count} have the base's codes and other scales: block by block the codes fit (cos "
            f"{item.fit.local:.4f}), and with the stored scales they do not ({cosines}). The scales belong to other "
            "rows, blocks or layers."
        )
    return f"{count} are codes of other weights than the base's under every reading ({cosines})."


def _rotation_text(reading: str) -> str:
    """Return a reading of INT8 codes in words: ``int8_rotated_256`` gives ``rotated in groups of 256 columns``."""
    size = rotation_of(reading)
    return f"rotated in groups of {size} columns" if size else "not rotated"


def _remedy(code: str, item: Measured) -> str:
    assert item.fit is not None  # noqa: S101 - only measured modules come here
    if code == "nibble_order":
        return (
            f"set swap_weight_nibbles: {'true' if item.fit.best.startswith('high') else 'false'} in quantization_config"
        )
    if code == "scale_layout":
        return f"set checkpoint_weight_scale_layout: {item.fit.best.split('/')[1]} in quantization_config"
    if code == "rotation_differs":
        size = rotation_of(item.fit.best)
        state = f'"convrot": true, "convrot_groupsize": {size}' if size else 'no "convrot"'
        return f"write {state} into the comfy_quant marker of these layers"
    if code == "zero_point_shifted" and item.module.packing == "gptq" and abs(shift_of(item.fit.best)) == 1:
        version = "gptq" if shift_of(item.fit.best) > 0 else "gptq_v2"
        return f"write checkpoint_format: {version} in quantization_config, or export again"
    if code == "weights_zero":
        return "fetch the file again, and compare its sha256 with the publisher's"
    return "compare with the export that made it: quantgate inspect A --against B"


def _numbers(item: Measured) -> dict[str, Any]:
    assert item.fit is not None  # noqa: S101 - only measured modules come here
    scores = {name: round(score.cosine, 5) for name, score in item.fit.scores.items()}
    return {"proven": item.fit.best, "cosine": scores, "gap": item.fit.gap, "rows": item.fit.rows}


def _rows(context: Context, expert: str, measured: dict[str, Measured]) -> Iterator[InspectionFinding]:
    """Report single rows that only another reading explains, or that no reading explains, in a sentence per reading."""
    groups: dict[tuple[str, str], dict[str, tuple[list[int], dict[str, float], str]]] = {}
    for name, item in measured.items():
        fit = item.fit
        if fit is None or is_fnuz(item) or item.nan_values:
            continue  # weight_values names NaN, which spoil their rows under every reading
        rows = bad_rows(fit)
        scaled = fit.local >= OWN_CODES and fit.scores[fit.best].cosine < gate_of(item).unrelated
        # with half of the rows off, the reading of the whole tensor is wrong, which `_contradicted` names
        if not rows or len(rows) * 2 >= len(item.rows) or _broken_scales(context, expert, item) or scaled:
            continue
        scores = {reading: float(sums.row_cosine()[rows].min()) for reading, sums in fit.sums.items()}
        best = max(scores, key=lambda reading: scores[reading])
        numbers = [int(item.rows[row]) for row in rows]
        code = "row_corrupt"
        if scores[best] >= ROW_CLAIM and "/" in best:
            code = "nibble_order" if best.split("/")[0] != fit.best.split("/")[0] else "scale_layout"
        text = f"are {best.replace('_', ' ')}" if code != "row_corrupt" else "fit the base under no reading"
        groups.setdefault((code, text), {})[name] = (numbers, scores, fit.best)
    for (code, text), names in groups.items():
        first, others = next(iter(names)), len(names) - 1
        numbers, scores, best = names[first]
        more = f", and rows of {others} more Linears," if others else ""
        yield about(
            code,
            expert,
            f"rows {listed([str(row) for row in numbers])} of {first}{more} {text}, unlike the other rows.",
            linears=list(names),
            module=first,
            rows=numbers[:50],
            cosine=scores,
            tensor=best,
        )


def _broken_scales(context: Context, expert: str, item: Measured) -> bool:
    """Return whether NaN or zero block scales explain a broken row; `block_scale_values` reports those."""
    scale = item.module.scale
    return scale is not None and any(context.scanned.get(expert, {}).get(scale.name, (0, 0)))


@check("blind_layout", cost="rows", codes=("scale_layout",), order=280)
def layout_without_base(context: Context) -> Iterator[InspectionFinding]:
    """Report a wrong scale layout without a base: codes and scales fit together in one layout only."""
    for expert in context.experts:
        wrong: list[str] = []
        for name, item in context.measured.get(expert, {}).items():
            if item.fit is None and item.blind is not None and item.blind.layout:
                declared = declared_reading(context.experts[expert], item.module)[0].split("/")[1]
                if item.blind.layout != declared and declared != "any":
                    wrong.append(name)
        if wrong:
            item = context.measured[expert][wrong[0]]
            yield about(
                "scale_layout",
                expert,
                f"codes and scales of {listed(wrong)} only fit together when the scales are read "
                f"{item.blind.layout if item.blind else ''}, and the checkpoint says otherwise.",
                linears=wrong,
                z=item.blind.z if item.blind else {},
            )


KINDS = {
    "scalar": "per tensor",
    "one": "per tensor",
    "channel": "per channel",
    "channel_column": "per channel",
    "block": "in blocks",
    "group": "in groups",
    "none": "cast without scales",
}


def described(modules: Iterable[Module]) -> str:
    """Return a sentence about quantized Linears: ``40 Linears are INT8 per channel in lightx2v's layout``."""
    counts: Counter[str] = Counter()
    for module in modules:
        title = f"{title_of(module.format)} {module.code if module.format == 'gguf' else ''}".strip()
        kind = KINDS.get(module.kind, "")
        if module.kind == "block":
            kind = f"in blocks of {module.block[0]} x {module.block[1]}"
        layout = in_layout(module.dialect)
        counts[f"{title}{' ' + kind if kind else ''}{layout}"] += 1
    return ", ".join(f"{count} Linears are {text}" for text, count in counts.most_common())


@check("unproven", cost="header", codes=("base_missing", "encoding_unproven"), order=390)
def without_base(context: Context) -> Iterator[InspectionFinding]:
    """Report that the encoding is unproven without a base."""
    for expert in context.experts:
        quantized = context.quantized(expert)
        if not quantized or related(context, expert):
            continue
        measured = context.measured.get(expert, {})
        if all(module.opaque or (name in measured and measured[name].bad_scale) for name, module in quantized.items()):
            continue  # recognised_only and scalar_values name the reason
        four = any(module.spec.loader_options or module.format == "mxfp4" for module in quantized.values())
        open_ = "nibble order, gains, stale or swapped experts" if four else "scales' gains, stale or swapped experts"
        why = "no base was given" if not context.options.base_given else "no Linear could be compared with the base"
        yield about(
            "base_missing" if not context.options.base_given else "encoding_unproven",
            expert,
            f"{described(quantized.values())}; {why}, so {open_} are not proven: every statistic of the "
            "bytes alone is the same either way.",
            severity="inconclusive",
            next_command=(
                "name the base that these weights were quantized from"
                if context.options.base_given
                else with_base(context.experts[expert])
            ),
            quantized=len(quantized),
        )
