"""The schedule of a run against the case, without any golden."""

from __future__ import annotations

from typing import Any

import pytest
from builders import bare_evidence, make_case, make_generation, quantized_case

from harness.definitions.schedule import schedule
from harness.judge.evidence import Evidence
from harness.judge.schedule_rule import judge_schedule
from harness.judge.verdict import observe
from harness.outcomes import Outcome
from harness.records.generation import Step, Trace

KIND = {"unipc": "UniPCMultistepScheduler", "flow_unipc": "FlowUniPCMultistepScheduler"}


def _evidence(
    rule: Any = "unipc",
    ran_shift: float = 3.0,
    ran_rule: Any = None,
    boundary: float = 0.875,
    switch_at_boundary: bool = False,
    config: dict[str, Any] | None = None,
    steps: int = 8,
    stated_boundary: float = 0.875,
) -> Evidence:
    ran = schedule(ran_rule or rule, steps, ran_shift, boundary, switch_at_boundary=switch_at_boundary)
    rows = tuple(
        Step(
            index=index,
            timestep=time,
            expert="transformer" if index < (ran.switch or 0) else "transformer_2",
            guidance_scale=3.0,
            latent_norm=1.0,
        )
        for index, time in enumerate(ran.timesteps)
    )
    trace = Trace(
        steps=rows,
        scheduler={"class": KIND[rule], **(config or {})},
        boundary_ratio=boundary,
        sigmas=ran.sigmas,
        timesteps=ran.timesteps,
    )
    scheduler = {"flow_shift": 3.0, "boundary_ratio": stated_boundary}
    stated = quantized_case(scheduler=scheduler, sampling={"num_inference_steps": steps})
    return bare_evidence(stated, generation=make_generation(trace=trace))


def _messages(evidence: Evidence) -> list[str]:
    return [finding.message for finding in judge_schedule(evidence) if finding.gating]


@pytest.mark.parametrize("rule", ["unipc", "flow_unipc"])
def test_the_schedule_that_was_asked_for_is_no_finding(rule: str) -> None:
    assert list(judge_schedule(_evidence(rule))) == []


def test_another_shift_is_named_with_both_schedules() -> None:
    [message] = _messages(_evidence(ran_shift=12.0))
    assert "a flow shift of 12" in message
    assert "999, 961, 923, 869" not in message.partition(";")[2]
    assert "flow shift of 3 are 999" in message


def test_a_shift_that_was_applied_twice_is_named() -> None:
    assert "applied twice" in _messages(_evidence(ran_shift=9.0))[0]


def test_the_noise_levels_of_an_older_diffusers_are_named() -> None:
    assert "before 0.37" in _messages(_evidence(ran_rule="unipc_before_0_37"))[0]


def test_experts_that_switch_elsewhere_are_named_with_both_steps() -> None:
    [message] = _messages(_evidence(boundary=0.5))
    assert "takes over at step" in message
    assert "a boundary of 0.875" in message


def test_the_boundary_itself_on_the_wrong_side_is_named() -> None:
    # 4 steps with shift 3 pass 900 exactly
    [message] = _messages(_evidence(boundary=0.9, stated_boundary=0.9, switch_at_boundary=True, steps=4))
    assert "<= in place of <" in message


def test_a_schedule_that_nobody_models_is_said_and_does_not_decide() -> None:
    [finding] = judge_schedule(_evidence(config={"use_karras_sigmas": True}))
    assert (finding.code, finding.gating) == ("schedule_unmodelled", False)


def test_a_backend_without_a_schedule_is_not_judged() -> None:
    evidence = _evidence()
    assert evidence.generation is not None
    bare = evidence.generation.model_copy(update={"trace": Trace(steps=())})
    assert list(judge_schedule(evidence.plus(generation=bare))) == []


def test_it_is_a_regression_without_any_golden() -> None:
    evidence = _evidence(ran_shift=5.0)
    bare = evidence.case.model_copy(update={"quantization": make_case().quantization})
    verdict, _ = observe(evidence.plus(case=bare), "cpu")
    assert verdict.outcome is Outcome.REGRESSION
    assert "schedule_differs" in {finding.code for finding in verdict.findings}
