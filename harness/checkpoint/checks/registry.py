"""The list of checks, in the order in which their findings are reported."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from typing import NamedTuple

from harness.checkpoint.checks import (
    config_rules,
    contract_rules,
    encoding,
    excluded_rules,
    expert_rules,
    format_rules,
    gains,
    names,
    scalars,
    scales,
    shapes,
    stale,
)
from harness.checkpoint.context import Context
from harness.records.inspection import InspectionFinding


class Check(NamedTuple):
    """One check: its name, what it costs to feed, and its function."""

    name: str
    cost: str
    """``header``, ``scalar``, ``rows`` or ``full``: how many bytes the evidence needs."""
    run: Callable[[Context], Iterator[InspectionFinding]]


def _files(context: Context) -> Iterator[InspectionFinding]:
    """What reading headers, indexes and configurations already found."""
    yield from context.reading_findings
    for component in context.experts.values():
        yield from component.findings


CHECKS: tuple[Check, ...] = (
    Check("files", "header", _files),
    Check("names", "header", format_rules.names_of_dialect),
    Check("no_tensors", "header", format_rules.nothing_here),
    Check("needed_tensors", "header", format_rules.needed_tensors),
    Check("eight_bits", "header", format_rules.eight_bits_elsewhere),
    Check("declaration", "header", config_rules.declaration_against_tensors),
    Check("ignore_list", "header", config_rules.ignore_against_tensors),
    Check("boundary_ratio", "header", config_rules.boundary_ratio),
    Check("key_set", "header", names.keys_against_base),
    Check("shapes", "header", shapes.shapes_and_dtypes),
    Check("config_shapes", "header", shapes.config_against_tensors),
    Check("scale_tensors", "header", scales.scale_tensors_present),
    Check("casts", "rows", scales.casts),
    Check("left_over_scales", "header", scales.leftovers),
    Check("scale_dtypes", "header", scales.scale_dtypes),
    Check("scale_shapes", "header", scales.scale_shapes),
    Check("scalar_values", "scalar", scalars.scalar_values),
    Check("qkv_scales", "scalar", scalars.qkv_scales),
    Check("qkv_input_scales", "scalar", scalars.qkv_input_scales),
    Check("weight_values", "rows", scalars.weight_values),
    Check("plain_values", "rows", scalars.plain_values),
    Check("subnormal_scales", "rows", scalars.subnormal_scales),
    Check("block_scale_values", "full", scalars.block_scale_values),
    Check("experts", "header", expert_rules.experts_policy),
    Check("expert_identity", "rows", expert_rules.swapped_or_same),
    Check("base_identity", "rows", expert_rules.wrong_base),
    Check("encoding", "rows", encoding.encoding),
    Check("blind_layout", "rows", encoding.layout_without_base),
    Check("gain", "rows", gains.gains),
    Check("requantize", "rows", stale.requantized_codes),
    Check("excluded", "rows", excluded_rules.excluded_rows),
    Check("constant_scales", "scalar", scalars.constant_scales),
    Check("recognised", "header", format_rules.recognised_only),
    Check("contracts", "rows", contract_rules.contracts),
    Check("contract_settings", "header", contract_rules.contract_settings),
    Check("contract_predictions", "header", contract_rules.contract_predictions),
    Check("contract_repositories", "header", contract_rules.contract_repositories),
    Check("unproven", "header", encoding.without_base),
)


def run_checks(context: Context, skip: Collection[str] = ()) -> list[InspectionFinding]:
    """Run all checks but those named in ``skip`` (tests remove each one once)."""
    found: list[InspectionFinding] = []
    for check in CHECKS:
        if check.name not in skip:
            found += list(check.run(context))
    return found
