"""Probes held against their limits."""

from __future__ import annotations

from typing import Any

import pytest
from builders import GOLDEN, make_evidence, make_limits, make_trace

from harness.judge.verdict import observe, stop_before_generation
from harness.limits.probes import MEASURES, STEP, place_all, probe_values, tolerance
from harness.outcomes import Outcome
from harness.records.identity import FieldChange
from harness.records.limits import Sample
from harness.records.probe import ModuleEvidence, PointEvidence, ProbeEvidence, ProbeStep

HEALTHY = {
    "probe_module_error": 0.0,
    "probe_module_base_error": 0.12,
    "probe_golden_error": 0.009,
    "probe_base_error": 0.07,
    "probe_point_error": 0.012,
    "trace_text_error": 0.0,
    "trace_velocity_error": 0.05,
}
MODULES = ("blocks.1.attn1.to_q", "blocks.1.ffn.net.2")


def samples(value: float) -> tuple[Sample, ...]:
    return (Sample(value=value, run="isa", side="benign"),)


def probe(
    error: float = 0.0,
    *,
    module: float = 0.0,
    base: float = 0.07,
    module_base: float = 0.1,
    point: float = 0.0,
    **more: Any,
) -> ProbeEvidence:
    points = (
        PointEvidence(name="blocks.0", kind="block", golden_error=0.0),
        PointEvidence(name="blocks.1.norm2", kind="norm", golden_error=point),
        PointEvidence(name="blocks.1", kind="block", golden_error=2 * point),
    )
    step = ProbeStep(
        expert="transformer",
        step=0,
        timestep=999.0,
        base_error=base,
        base_cosine=0.99,
        golden_error=error,
        golden_cosine=0.99,
        points=points,
    )
    modules = tuple(
        ModuleEvidence(
            expert="transformer",
            module=name,
            format="nvfp4",
            base_error=module_base if index else 0.1,
            golden_error=module if index else 0.0,
            golden_gain=1.0,
        )
        for index, name in enumerate(MODULES)
    )
    return ProbeEvidence(**{"steps": (step,), "modules": modules, "golden_anchor": True, **more})


def acting(error: float) -> ModuleEvidence:
    """The activation behind a projection."""
    return ModuleEvidence(
        expert="transformer", module="blocks.1.ffn.net.0", format="activation", base_error=0.1, golden_error=error
    )


@pytest.fixture
def evidence() -> Any:
    def build(found: ProbeEvidence, *, changes: tuple[FieldChange, ...] = (), **more: Any) -> Any:
        limits = make_limits()
        limits = limits.model_copy(
            update={"limits": (*limits.limits, *place_all({name: samples(value) for name, value in HEALTHY.items()}))}
        )
        healthy = make_evidence()
        golden = type(healthy.golden)(GOLDEN, changes, make_trace(), limits)
        return healthy.plus(golden=golden, probe=found, **more)

    return build


def test_healthy_probes_say_nothing(evidence: Any) -> None:
    verdict, _ = observe(evidence(probe()), "cpu")
    assert verdict.outcome is Outcome.PASS


@pytest.mark.parametrize(
    ("found", "cause", "stops"),
    [
        (probe(module=0.01), "module_off", True),
        (probe(module_base=0.3), "module_off", True),
        (probe(0.05), "probe_golden_error_above_limit", False),
        (probe(base=0.1), "probe_base_error_above_limit", True),
        (probe(point=0.05), "first_divergence", False),
        (probe(missing=("transformer/blocks.1.attn1.to_q",)), "probe_structure", True),
        (probe(missing_steps=("transformer_2 at step 4",)), "probe_structure", True),
        (probe(unanchored=("transformer/blocks.1.norm2 alone",)), "probe_structure", True),
        (probe(0.05, not_passed=("transformer/blocks.1.norm2",)), "probe_structure", True),
        (probe(steps=()), "probe_structure", True),
        (probe(held={"transformer": {"blocks.*.bias": "rounded"}}), "held_weights_differ", False),
        (probe(input_ranges={"transformer": {"blocks.1.attn1.to_q": 0.9}}), "input_scale_off", False),
        (probe(input_ranges={"transformer": {"blocks.1.attn1.to_q": 1e6}}), "input_scale_off", False),
        (probe(modules=(acting(0.02),)), "activation_off", True),
    ],
)
def test_every_limit_fails_the_case(evidence: Any, found: ProbeEvidence, cause: str, stops: bool) -> None:
    given = evidence(found)
    verdict, _ = observe(given, "cpu")
    assert (verdict.outcome, verdict.cause) == (Outcome.REGRESSION, cause)
    assert stop_before_generation(given) is stops


def test_the_module_and_the_point_are_named(evidence: Any) -> None:
    verdict, _ = observe(evidence(probe(module=0.5, point=0.05)), "cpu")
    by_code = {finding.code: finding for finding in verdict.findings}
    assert by_code["module_off"].data["modules"] == ["transformer/blocks.1.ffn.net.2"]
    assert (by_code["first_divergence"].data["point"], by_code["first_divergence"].data["kind"]) == (
        "blocks.1.norm2",
        "norm",
    )


def test_a_place_that_was_not_passed_is_a_note_if_the_velocities_agree(evidence: Any) -> None:
    verdict, _ = observe(evidence(probe(not_passed=("transformer/blocks.1.norm2",))), "cpu")
    assert verdict.outcome is Outcome.PASS
    assert [(item.code, item.gating) for item in verdict.findings] == [("probe_structure", False)]


def test_an_activation_is_not_blamed_for_its_projection(evidence: Any) -> None:
    projection = acting(0.02).model_copy(update={"module": "blocks.1.ffn.net.0.proj", "format": "nvfp4"})
    verdict, _ = observe(evidence(probe(modules=(acting(0.02), projection))), "cpu")
    assert {finding.code for finding in verdict.findings if finding.gating} == {"module_off"}


def test_input_scales_that_fit_say_nothing_and_need_no_golden(evidence: Any) -> None:
    ranges = {"transformer": {"a": 8.2, "b": 25.5, "c": 900.0}}
    assert observe(evidence(probe(input_ranges=ranges)), "cpu")[0].outcome is Outcome.PASS
    change = (FieldChange(identity_class="weights", field="transformer/x", golden="a", run="b"),)
    verdict, _ = observe(evidence(probe(input_ranges={"transformer": {"a": 0.8}}), changes=change), "cpu")
    assert (verdict.outcome, verdict.cause) == (Outcome.REGRESSION, "input_scale_off")
    held = probe(held={"transformer": {"blocks.*.bias": "other"}})
    assert observe(evidence(held, changes=change), "cpu")[0].outcome is Outcome.GOLDEN_STALE, (
        "other files, other values"
    )


def test_of_other_weights_only_the_base_anchor_gates(evidence: Any) -> None:
    change = (FieldChange(identity_class="weights", field="transformer/x", golden="a", run="b"),)
    verdict, _ = observe(evidence(probe(0.5, module=0.5, point=0.5), changes=change), "cpu")
    assert verdict.outcome is Outcome.GOLDEN_STALE
    verdict, _ = observe(evidence(probe(unanchored=("transformer/blocks.1.norm2",)), changes=change), "cpu")
    assert verdict.outcome is Outcome.GOLDEN_STALE
    verdict, _ = observe(evidence(probe(base=0.2), changes=change), "cpu")
    assert (verdict.outcome, verdict.cause) == (Outcome.REGRESSION, "probe_base_error_above_limit")


def test_probes_without_limits_are_no_pass() -> None:
    verdict, _ = observe(make_evidence(probe=probe()), "cpu")
    assert (verdict.outcome, verdict.cause) == (Outcome.INCONCLUSIVE, "limits_incomplete")


def test_limits_have_a_floor_and_room() -> None:
    placed = {limit.metric: limit for limit in place_all({name: samples(value) for name, value in HEALTHY.items()})}
    assert placed.keys() == {measure.name for measure in MEASURES}
    assert placed["probe_module_error"].limit == 0.006
    assert placed["probe_base_error"].limit == pytest.approx(0.0875)
    assert placed["trace_velocity_error"].limit is None
    assert tolerance(placed["trace_velocity_error"], STEP) == pytest.approx(0.1)


def test_values_are_the_worst() -> None:
    assert probe_values(probe(0.03, module=0.2, point=0.1)) == {
        "probe_module_error": 0.2,
        "probe_module_base_error": 0.1,
        "probe_golden_error": 0.03,
        "probe_base_error": 0.07,
        "probe_point_error": 0.2,
    }
