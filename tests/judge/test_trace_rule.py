"""Facts of the way that the generation took."""

from __future__ import annotations

from typing import Any

import pytest

from harness.judge.verdict import observe
from harness.records.verdict import Outcome


@pytest.mark.parametrize(
    ("field", "value", "cause"),
    [("timestep", 900.0, "timestep"), ("expert", "transformer", "expert"), ("guidance_scale", 4.0, "guidance")],
)
def test_a_step_that_differs(make: Any, field: str, value: object, cause: str) -> None:
    trace = make.trace()
    steps = (trace.steps[0], trace.steps[1].model_copy(update={field: value}))
    generation = make.generation(trace=trace.model_copy(update={"steps": steps}))
    verdict, _ = observe(make.healthy(generation=generation), "cpu")
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
def test_settings_that_differ(make: Any, update: dict[str, Any], cause: str) -> None:
    generation = make.generation(trace=make.trace().model_copy(update=update))
    verdict, _ = observe(make.healthy(generation=generation), "cpu")
    assert (verdict.outcome, verdict.cause) == (Outcome.REGRESSION, cause)


def test_another_number_of_steps(make: Any) -> None:
    trace = make.trace()
    generation = make.generation(trace=trace.model_copy(update={"steps": trace.steps[:1]}))
    case = make.case(quantization={"transformer": "nvfp4", "transformer_2": "nvfp4"})
    verdict, _ = observe(make.healthy(generation=generation, case=case), "cpu")
    assert verdict.cause == "step_count"


def test_a_library_version_in_a_configuration_is_no_setting(make: Any) -> None:
    trace = make.trace()
    scheduler = {**trace.scheduler, "_diffusers_version": "0.43"}
    verdict, _ = observe(
        make.healthy(generation=make.generation(trace=trace.model_copy(update={"scheduler": scheduler}))), "cpu"
    )
    assert verdict.outcome is Outcome.PASS


def test_rounding_of_a_timestep_is_no_difference(make: Any) -> None:
    trace = make.trace()
    steps = (trace.steps[0], trace.steps[1].model_copy(update={"timestep": 500.0001}))
    verdict, _ = observe(
        make.healthy(generation=make.generation(trace=trace.model_copy(update={"steps": steps}))), "cpu"
    )
    assert verdict.outcome is Outcome.PASS
