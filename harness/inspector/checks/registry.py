"""The list of checks, in the order in which their findings are reported."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from typing import NamedTuple

from harness.inspector.checks import base, config_rules, contract_rules, encoding, format_rules, tensors, values
from harness.inspector.context import Context
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
    Check("key_set", "header", tensors.keys_against_base),
    Check("shapes", "header", tensors.shapes_and_dtypes),
    Check("config_shapes", "header", tensors.config_against_tensors),
    Check("scale_tensors", "header", tensors.scale_tensors_present),
    Check("casts", "rows", tensors.casts),
    Check("left_over_scales", "header", tensors.leftovers),
    Check("scale_dtypes", "header", tensors.scale_dtypes),
    Check("scale_shapes", "header", tensors.scale_shapes),
    Check("scalar_values", "scalar", values.scalar_values),
    Check("qkv_scales", "scalar", values.qkv_scales),
    Check("qkv_input_scales", "scalar", values.qkv_input_scales),
    Check("weight_values", "rows", values.weight_values),
    Check("plain_values", "rows", values.plain_values),
    Check("subnormal_scales", "rows", values.subnormal_scales),
    Check("block_scale_values", "full", values.block_scale_values),
    Check("experts", "header", base.experts_policy),
    Check("expert_identity", "rows", base.swapped_or_same),
    Check("base_identity", "rows", base.wrong_base),
    Check("encoding", "rows", encoding.encoding),
    Check("blind_layout", "rows", encoding.layout_without_base),
    Check("gain", "rows", values.gains),
    Check("requantize", "rows", base.requantized_codes),
    Check("excluded", "rows", base.excluded_rows),
    Check("constant_scales", "scalar", values.constant_scales),
    Check("recognised", "header", format_rules.recognised_only),
    Check("contracts", "rows", contract_rules.contracts),
    Check("contract_settings", "header", contract_rules.contract_settings),
    Check("contract_predictions", "header", contract_rules.contract_predictions),
    Check("contract_schedule", "header", contract_rules.contract_schedule),
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
