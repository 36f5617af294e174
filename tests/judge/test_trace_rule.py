"""Facts of the way that the generation took."""

from __future__ import annotations

from typing import Any

import pytest
from builders import GOLDEN, make_evidence, make_generation, make_limits, make_trace, quantized_case

from harness.judge.trace_rule import _settings
from harness.judge.verdict import observe
from harness.outcomes import Outcome


@pytest.mark.parametrize(
    ("field", "value", "cause"),
    [("timestep", 900.0, "timestep"), ("expert", "transformer", "expert"), ("guidance_scale", 4.0, "guidance")],
)
def test_a_step_that_differs(field: str, value: object, cause: str) -> None:
    trace = make_trace()
    steps = (trace.steps[0], trace.steps[1].model_copy(update={field: value}))
    generation = make_generation(trace=trace.model_copy(update={"steps": steps}))
    verdict, _ = observe(make_evidence(generation=generation), "cpu")
    assert (verdict.outcome, verdict.cause) == (Outcome.REGRESSION, cause)
    assert "from denoising step 1 on" in verdict.summary


@pytest.mark.parametrize(
    ("update", "cause"),
    [
        ({"scheduler": {"flow_shift": 5.0}}, "scheduler_settings"),
        ({"vae": {}}, "vae_settings"),
        ({"initial_latents_sha256": "0" * 64}, "initial_latents"),
    ],
)
def test_settings_that_differ(update: dict[str, Any], cause: str) -> None:
    generation = make_generation(trace=make_trace().model_copy(update=update))
    verdict, _ = observe(make_evidence(generation=generation), "cpu")
    assert (verdict.outcome, verdict.cause) == (Outcome.REGRESSION, cause)


def test_a_key_that_the_vae_takes_no_value_from_is_no_setting() -> None:
    golden = {"class": "AutoencoderKLWan", "z_dim": 16}
    assert not list(_settings("vae", {**golden, "clip_output": False}, golden))
    for change in ({"z_dim": 8}, {"dtype": "bf16"}, {"class": "Other"}):
        assert list(_settings("vae", {**golden, **change}, golden))
    assert list(_settings("scheduler", {**golden, "clip_output": False}, golden))


def test_another_number_of_steps() -> None:
    trace = make_trace()
    generation = make_generation(trace=trace.model_copy(update={"steps": trace.steps[:1]}))
    case = quantized_case(quantization={"transformer": "nvfp4", "transformer_2": "nvfp4"})
    verdict, _ = observe(make_evidence(generation=generation, case=case), "cpu")
    assert verdict.cause == "step_count"


def test_a_library_version_in_a_configuration_is_no_setting() -> None:
    trace = make_trace()
    scheduler = {**trace.scheduler, "_diffusers_version": "0.43"}
    verdict, _ = observe(
        make_evidence(generation=make_generation(trace=trace.model_copy(update={"scheduler": scheduler}))), "cpu"
    )
    assert verdict.outcome is Outcome.PASS


def test_rounding_of_a_timestep_is_no_difference() -> None:
    trace = make_trace()
    steps = (trace.steps[0], trace.steps[1].model_copy(update={"timestep": 500.0001}))
    verdict, _ = observe(
        make_evidence(generation=make_generation(trace=trace.model_copy(update={"steps": steps}))), "cpu"
    )
    assert verdict.outcome is Outcome.PASS


@pytest.mark.parametrize(
    ("name", "value", "cause"),
    [
        ("length", 512, "sequence_length"),
        ("tokens", "other", "text_tokens"),
        ("mask", "other", "attention_mask"),
        ("dtype", "float32", "text_dtype"),
    ],
)
def test_what_the_prompt_became(name: str, value: object, cause: str) -> None:
    text = {"length": 64, "tokens": "a", "mask": "b", "dtype": "bfloat16"}
    trace = make_trace().model_copy(update={"text": text})
    healthy = make_evidence(generation=make_generation(trace=trace))
    golden = type(healthy.golden)(GOLDEN, (), trace, make_limits())
    assert observe(healthy.plus(golden=golden), "cpu")[0].outcome is Outcome.PASS
    changed = make_generation(trace=trace.model_copy(update={"text": {**text, name: value}}))
    verdict, _ = observe(healthy.plus(golden=golden, generation=changed), "cpu")
    assert (verdict.outcome, verdict.cause) == (Outcome.REGRESSION, cause)


def test_a_boundary_that_moves_no_step_is_named() -> None:
    trace = make_trace().model_copy(update={"boundary_ratio": 0.9})
    verdict, _ = observe(make_evidence(generation=make_generation(trace=trace)), "cpu")
    assert verdict.cause == "boundary_ratio"


def test_guidance_that_was_applied_counts_and_not_what_was_stated() -> None:
    trace = make_trace()
    measured = [step.model_copy(update={"guidance_measured": 3.0}) for step in trace.steps]
    healthy = make_evidence()
    golden = type(healthy.golden)(GOLDEN, (), trace.model_copy(update={"steps": tuple(measured)}), make_limits())
    near = [step.model_copy(update={"guidance_measured": 3.01}) for step in trace.steps]
    same = make_generation(trace=trace.model_copy(update={"steps": tuple(near)}))
    assert observe(healthy.plus(golden=golden, generation=same), "cpu")[0].outcome is Outcome.PASS
    wrong = [measured[0], measured[1].model_copy(update={"guidance_measured": 4.0})]
    other = make_generation(trace=trace.model_copy(update={"steps": tuple(wrong)}))
    verdict, _ = observe(healthy.plus(golden=golden, generation=other), "cpu")
    assert verdict.cause == "guidance"
    assert "step 1" in verdict.summary


def test_a_diverging_step_is_shown_and_fails_nothing() -> None:
    from harness.limits.probes import place_all
    from harness.records.limits import Sample

    trace = make_trace()
    steps = tuple(step.model_copy(update={"velocity_sketch": (1.0, 0.0)}) for step in trace.steps)
    anchor = trace.model_copy(update={"steps": steps})
    limits = make_limits()
    placed = place_all({"trace_velocity_error": (Sample(value=0.03, run="isa", side="benign"),)})
    limits = limits.model_copy(update={"limits": (*limits.limits, *placed)})
    healthy = make_evidence()
    golden = type(healthy.golden)(GOLDEN, (), anchor, limits)
    moved = (steps[0], steps[1].model_copy(update={"velocity_sketch": (1.0, 0.1)}))
    generation = make_generation(trace=anchor.model_copy(update={"steps": moved}))
    verdict, _ = observe(healthy.plus(golden=golden, generation=generation), "cpu")
    assert verdict.outcome is Outcome.PASS
    (shown,) = [finding for finding in verdict.findings if finding.code == "first_diverging_step"]
    assert (shown.data["step"], shown.gating) == (1, False)
    near = (steps[0], steps[1].model_copy(update={"velocity_sketch": (1.0, 0.01)}))
    generation = make_generation(trace=anchor.model_copy(update={"steps": near}))
    verdict, _ = observe(healthy.plus(golden=golden, generation=generation), "cpu")
    (shown,) = [finding for finding in verdict.findings if finding.stage == "trace"]
    assert (shown.code, shown.gating) == ("trajectory_error", False)
    assert shown.data["error"] == pytest.approx(0.01)
