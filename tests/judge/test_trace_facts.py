"""Facts that one side lacks, and where equal ends: timesteps and the guidance that was measured."""

from __future__ import annotations

import pytest
from builders import GOLDEN, make_evidence, make_generation, make_limits, make_trace

from harness.judge.trace_rule import judge_trace
from harness.records.generation import Trace
from harness.records.verdict import Finding


def held(mine: Trace, reference: Trace) -> list[Finding]:
    """What the trace rule says of these two."""
    healthy = make_evidence(generation=make_generation(trace=mine))
    return list(judge_trace(healthy.plus(golden=type(healthy.golden)(GOLDEN, (), reference, make_limits()))))


def with_steps(**update: object) -> Trace:
    """The healthy trace with another last step."""
    trace: Trace = make_trace()
    return trace.model_copy(update={"steps": (trace.steps[0], trace.steps[1].model_copy(update=update))})


@pytest.mark.parametrize(("moved", "codes"), [(0.0009, []), (-0.0009, []), (0.0011, ["timestep"])])
def test_a_timestep_is_equal_within_a_thousandth(moved: float, codes: list[str]) -> None:
    found = held(with_steps(timestep=500.0 + moved), make_trace())
    assert [one.code for one in found] == codes


@pytest.mark.parametrize(
    ("measured", "codes"), [(3.049, []), (2.951, []), (3.051, ["guidance"]), (2.949, ["guidance"])]
)
def test_measured_guidance_is_equal_within_its_tolerance(measured: float, codes: list[str]) -> None:
    found = held(with_steps(guidance_measured=measured), with_steps(guidance_measured=3.0))
    assert [one.code for one in found] == codes


@pytest.mark.parametrize(("mine", "golden"), [(None, 3.0), (3.0, None)])
def test_guidance_on_one_side_only_is_a_difference(mine: float | None, golden: float | None) -> None:
    (found,) = held(with_steps(guidance_measured=mine), with_steps(guidance_measured=golden))
    assert found.code == "guidance"
    assert found.data == {"step": 1, "golden": golden, "run": mine}


def test_a_fact_that_the_golden_lacks_is_no_difference() -> None:
    facts = {"length": 64, "tokens": "a", "mask": "b", "dtype": "bfloat16"}
    mine = make_trace().model_copy(update={"text": facts})
    assert held(mine, make_trace()) == []


def test_a_fact_that_the_run_lacks_is_a_difference() -> None:
    reference = make_trace().model_copy(update={"text": {"tokens": "a"}})
    (found,) = held(make_trace(), reference)
    assert (found.code, found.data) == ("text_tokens", {"golden": "a", "run": None})
