"""Every fault that happened is detected and named; every valid dialect passes; every check is needed."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import pytest
from _pytest.mark.structures import ParameterSet

from benchmarks.corpus.dialects import (
    BASIC_DIALECTS,
    LIBRARY_DIALECTS,
    MODELOPT_DIALECTS,
    PUBLISHED_DIALECTS,
    QUANTIZER_DIALECTS,
    VARIANT_DIALECTS,
    Dialect,
)
from benchmarks.corpus.faults import (
    BASIC_FAULTS,
    LIBRARY_FAULTS,
    PUBLISHED_FAULTS,
    QUANTIZER_FAULTS,
    VARIANT_FAULTS,
    Fault,
)
from benchmarks.fault_corpus import examine_fault, judge_dialect
from harness.inspector.checks import CHECKS, run_checks
from harness.inspector.summarize import decide
from harness.records.inspection import InspectionFinding

NEEDED: dict[str, str] = {}
"""Check to a mutant that is no longer named when it is removed; filled by the fault tests, read by the last one."""
ELSEWHERE = {
    *("blind_layout", "unproven"),  # checkpoints without a base: test_without_base.py
    *("contract_settings", "contract_repositories", "contract_schedule"),  # remarks about a runtime: test_contracts.py
    "group_size",  # test_value_findings.py
}
"""Checks that no mutant of the corpus needs."""


def named(fault: Fault, findings: list[InspectionFinding]) -> bool:
    """Whether the fault's name is among the findings, in its severity."""
    return any(item.code == fault.code and item.severity == fault.severity for item in findings)


def slow(rows: Iterable[Fault | Dialect]) -> list[ParameterSet]:
    """Rows that import a library each: `make test-slow` runs them, and the benchmark counts them."""
    return [pytest.param(row, marks=pytest.mark.slow) for row in rows]


FILES = tuple(row for row in PUBLISHED_FAULTS if row.row <= 58)
"""Faults of published files that need no library."""
ONE_PER_RULE = (
    *("63-adapter_wrapped-baseless", "63-q_for_k-bf16", "63-half_prefixed-baseless", "64-gptq_v1_called_v2-all"),
    *("64-block_size-all", "64-marker_cut-all", "64-block_scales_as_u8-all", "65-unknown_layout-all"),
)
"""Rows of `QUANTIZER_FAULTS` that run in every `make test`: one for each rule that they need."""
QUICK = tuple(row for row in QUANTIZER_FAULTS if row.id in ONE_PER_RULE)
FAST = (*BASIC_FAULTS, *FILES, *VARIANT_FAULTS, *QUICK)


@pytest.mark.parametrize(
    "fault",
    [
        *FAST,
        *slow(row for row in (*LIBRARY_FAULTS, *PUBLISHED_FAULTS, *QUANTIZER_FAULTS) if row not in (*FILES, *QUICK)),
    ],
    ids=lambda fault: fault.id,
)
def test_fault_is_detected_and_named(fault: Fault, exports: Path, tmp_path: Path) -> None:
    examined = examine_fault(fault, exports, tmp_path / "mutant")
    findings = run_checks(examined.context)
    assert named(fault, findings), [(item.severity, item.code, item.message) for item in findings]
    outcome, _ = decide(findings)
    assert outcome == ("clean" if fault.severity == "warning" else fault.severity)
    for check in CHECKS:
        # a mutant per check is enough
        if check.name in NEEDED or fault.code not in (*check.codes, *check.notes):
            continue
        saw_it = named(fault, list(check.run(examined.context)))
        if saw_it and not named(fault, run_checks(examined.context, skip={check.name})):
            NEEDED[check.name] = fault.id


@pytest.mark.parametrize(
    "dialect",
    [
        *BASIC_DIALECTS,
        *VARIANT_DIALECTS,
        *slow((*LIBRARY_DIALECTS, *PUBLISHED_DIALECTS, *MODELOPT_DIALECTS, *QUANTIZER_DIALECTS)),
    ],
    ids=lambda dialect: dialect.name,
)
def test_valid_dialect_raises_no_alarm(dialect: Dialect, exports: Path, tmp_path: Path) -> None:
    result = judge_dialect(dialect, exports, tmp_path / "made")
    assert result.cause == "none"
    assert not result.detected


def test_corpus_turns_red_when_a_check_is_removed(request: pytest.FixtureRequest) -> None:
    asked = sum(item.name.startswith("test_fault_is_detected") for item in request.session.items)
    if asked < len(FAST):
        pytest.skip("needs the whole corpus in the same run")
    idle = {check.name for check in CHECKS} - set(NEEDED) - ELSEWHERE
    assert not idle, f"no mutant needs these checks: {sorted(idle)}"
