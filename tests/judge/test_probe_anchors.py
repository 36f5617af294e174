"""Probes with one anchor, or with an anchor that lacks something: what still gates, and what does not."""

from __future__ import annotations

import pytest
from builders import GOLDEN as GOLDEN_DIGEST
from builders import make_evidence, make_limits, make_trace

from harness.judge.evidence import Evidence
from harness.judge.probe_rule import judge_probe, modules_off
from harness.judge.verdict import observe
from harness.limits.probes import place_all
from harness.outcomes import Outcome
from harness.records.limits import LimitFile, Sample
from harness.records.probe import ModuleEvidence, PointEvidence, ProbeEvidence, ProbeStep
from harness.records.verdict import Finding

BASE = {"probe_module_base_error": 0.12, "probe_base_error": 0.07}
GOLDEN = {"probe_module_error": 0.0, "probe_golden_error": 0.009, "probe_point_error": 0.012}
NAME = "blocks.1.attn1.to_q"


def step(base: float = 0.07, golden: float | None = None, timestep: float = 999.0) -> ProbeStep:
    """A probe; without a golden anchor unless an error against it is given."""
    return ProbeStep(
        expert="transformer",
        step=0,
        timestep=timestep,
        base_error=base,
        base_cosine=0.99,
        golden_error=golden,
        golden_cosine=None if golden is None else 0.99,
        points=(PointEvidence(name="blocks.0", kind="block", golden_error=golden),),
    )


def probe(
    *steps: ProbeStep, anchor: bool, base: float = 0.1, golden: float | None = None, fmt: str = "nvfp4"
) -> ProbeEvidence:
    module = ModuleEvidence(expert="transformer", module=NAME, format=fmt, base_error=base, golden_error=golden)
    return ProbeEvidence(steps=steps or (step(),), modules=(module,), golden_anchor=anchor)


def limits(measured: dict[str, float]) -> LimitFile:
    file: LimitFile = make_limits()
    rows = {name: (Sample(value=value, run="isa", side="benign"),) for name, value in measured.items()}
    return file.model_copy(update={"limits": (*file.limits, *place_all(rows))})


def evidence(found: ProbeEvidence, measured: dict[str, float]) -> Evidence:
    healthy: Evidence = make_evidence()
    assert healthy.golden is not None
    golden = type(healthy.golden)(GOLDEN_DIGEST, (), make_trace(), limits(measured))
    return healthy.plus(golden=golden, probe=found)


def said(found: ProbeEvidence, measured: dict[str, float]) -> list[Finding]:
    return list(judge_probe(evidence(found, measured), anchored=True))


def test_without_a_golden_anchor_no_limit_against_it_is_missed() -> None:
    given = evidence(probe(anchor=False), BASE)
    assert list(judge_probe(given, anchored=True)) == []
    assert observe(given, "cpu")[0].outcome is Outcome.PASS


def test_with_a_golden_anchor_its_limits_must_be_there() -> None:
    (found,) = said(probe(step(golden=0.0), anchor=True, golden=0.0), BASE)
    assert found.code == "limits_incomplete"
    assert found.message.endswith("probe_module_error, probe_golden_error, probe_point_error")


@pytest.mark.parametrize("missing", sorted(BASE))
def test_the_limits_against_the_base_are_always_wanted(missing: str) -> None:
    rest = {name: value for name, value in BASE.items() if name != missing}
    (found,) = said(probe(anchor=False), rest)
    assert (found.code, missing in found.message) == ("limits_incomplete", True)


def test_without_a_golden_anchor_the_base_gates_and_is_named() -> None:
    off, far = said(probe(step(base=0.1), anchor=False, base=0.3), BASE)
    assert (off.code, off.data["worst"]) == ("module_off", f"transformer/{NAME}")
    assert "the worst by 0.3 of the base" in off.message
    assert (far.code, far.data["error"], far.data["stops"]) == ("probe_base_error_above_limit", 0.1, True)
    assert "off the base's" in far.message


def test_with_a_golden_anchor_the_golden_is_named() -> None:
    (off,) = said(probe(step(golden=0.0), anchor=True, base=0.3, golden=0.2), BASE | GOLDEN)
    assert "the worst by 0.2 of the golden" in off.message


def test_a_module_that_the_golden_lacks_is_held_against_the_base() -> None:
    (off,) = said(probe(step(golden=0.0), anchor=True, base=0.3, golden=None), BASE | GOLDEN)
    assert "the worst by 0.3 of the base" in off.message


def test_errors_against_a_golden_of_other_weights_count_for_nothing() -> None:
    found = probe(step(golden=0.5), anchor=True, golden=0.5)
    assert list(judge_probe(evidence(found, BASE | GOLDEN), anchored=False)) == []
    assert modules_off(found, limits(BASE | GOLDEN), anchored=False) == ()
    assert len(modules_off(found, limits(BASE | GOLDEN), anchored=True)) == 1
    off = probe(step(golden=0.5), anchor=True, base=0.3, golden=0.5)
    (said_of_it,) = judge_probe(evidence(off, BASE | GOLDEN), anchored=False)
    assert "the worst by 0.3 of the base" in said_of_it.message


def test_a_step_that_the_golden_lacks_hides_no_other() -> None:
    lacking, far = step(), step(golden=0.05, timestep=500.0)
    assert said(probe(lacking, anchor=True, golden=0.0), BASE | GOLDEN) == []
    first, second = said(probe(lacking, far, anchor=True, golden=0.0), BASE | GOLDEN)
    assert (first.code, first.data["timestep"]) == ("first_divergence", 500.0)
    assert (second.code, second.data["timestep"]) == ("probe_golden_error_above_limit", 500.0)
    assert "off the golden's" in second.message


def test_of_several_steps_the_worst_is_named() -> None:
    (found,) = said(probe(step(0.1), step(0.3, timestep=500.0), step(0.2), anchor=False), BASE)
    assert (found.data["timestep"], found.data["error"]) == (500.0, 0.3)
