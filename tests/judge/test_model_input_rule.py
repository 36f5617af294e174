"""What the model was given, and scheduler, VAE and RoPE fed alone: each check fires, and stays quiet on rounding."""

from __future__ import annotations

from typing import Any

import pytest
from builders import GOLDEN, make_evidence, make_generation, make_limits, make_trace

from harness.judge.verdict import observe
from harness.outcomes import Outcome
from harness.records.generation import Alone, ModelCall, Step, Trace


def _calls(timestep: float, **more: Any) -> tuple[ModelCall, ...]:
    fields: dict[str, Any] = {"timestep": timestep, "text_error": 0.0, "latents_gain": 1.0, "latents_error": 0.0017}
    texts: tuple[Any, ...] = ("prompt", "negative")
    return tuple(ModelCall(**{**fields, "text": text, **more}) for text in texts)


def _trace() -> Trace:
    trace: Trace = make_trace()
    steps = tuple(
        step.model_copy(
            update={
                "calls": _calls(step.timestep),
                "carried_error": 0.0,
                "carried_gain": 1.0,
                "guidance_measured": 3.0,
                "velocity_error": 0.004,
                "velocity_sketch": (1.0, 2.0),
            }
        )
        for step in trace.steps
    )
    alone = Alone(
        scheduler=((1.0, 2.0), (3.0, 4.0)),
        vae=(1.0, 1.0),
        rope={"transformer": (1.0, 1.0)},
        prompt=(1.0, 0.0),
        negative=(0.0, 1.0),
        held={"transformer": {"blocks.*.bias": "aa/a0 bb/b0", "proj_out.bias": "cc/c0"}},
    )
    facts: dict[str, Any] = {
        "steps": steps,
        "alone": alone,
        "sigmas": (1.0, 0.5, 0.0),
        "attention_scale": {"transformer": 1.0},
        "attention_error": {"transformer": 0.0019},
        "vae_input_error": 0.0,
        "rounding_bias": 0.001,
        "vae": {"dtype": "torch.float32"},
    }
    return trace.model_copy(update=facts)


def _judge(mine: Trace, golden: Trace) -> Any:
    healthy = make_evidence(generation=make_generation(trace=mine))
    anchor = type(healthy.golden)(GOLDEN, (), golden, make_limits())
    return observe(healthy.plus(golden=anchor), "cpu")[0]


def _step(trace: Trace, index: int, **update: Any) -> Trace:
    steps: list[Step] = list(trace.steps)
    steps[index] = steps[index].model_copy(update=update)
    return trace.model_copy(update={"steps": tuple(steps)})


def _alone(trace: Trace, **update: Any) -> Trace:
    return trace.model_copy(update={"alone": trace.alone.model_copy(update=update)})


FAULTS: dict[str, tuple[Any, str]] = {
    "timestep one off": (lambda t: _step(t, 1, calls=_calls(501.0)), "model_timestep"),
    "text of another run": (lambda t: _step(t, 1, calls=_calls(500.0, text_error=0.4)), "model_text"),
    "one text in both passes": (lambda t: _step(t, 1, calls=_calls(500.0, text="prompt")), "model_text"),
    "passes exchanged": (lambda t: _step(t, 0, guidance_measured=-2.0), "texts_exchanged"),
    "embeddings exchanged": (lambda t: _alone(t, prompt=(0.0, 1.0), negative=(1.0, 0.0)), "texts_exchanged"),
    "latents scaled": (
        lambda t: _step(t, 1, calls=_calls(500.0, latents_gain=1.02, latents_error=0.02)),
        "model_latents",
    ),
    "noise scaled": (lambda t: _step(t, 0, carried_error=0.05, carried_gain=1.05), "initial_noise"),
    "noise repeated": (lambda t: t.model_copy(update={"repeated_frames": 1}), "initial_noise"),
    "noise in bfloat16": (lambda t: _step(t, 0, carried_error=0.0017), "precision_differs"),
    "latents in bfloat16": (lambda t: _step(t, 1, carried_error=0.0017), "precision_differs"),
    "latents clipped": (lambda t: _step(t, 1, carried_error=0.1, carried_gain=0.99), "latents_between_steps"),
    "sigmas": (lambda t: t.model_copy(update={"sigmas": (1.0, 0.51, 0.0)}), "sigmas"),
    "corrector": (lambda t: _alone(t, scheduler=((1.0, 2.0), (3.0, 4.1))), "solver"),
    "scheduler in bfloat16": (lambda t: _alone(t, scheduler=((1.0, 2.004), (3.0, 4.01))), "precision_differs"),
    "rotary frame off by one": (lambda t: _alone(t, rope={"transformer": (1.0, 1.2)}), "rope"),
    "rotary tables in bfloat16": (lambda t: _alone(t, rope={"transformer": (1.0, 1.002)}), "precision_differs"),
    "softmax scale": (lambda t: t.model_copy(update={"attention_scale": {"transformer": 1.01}}), "attention_scale"),
    "decoder": (lambda t: _alone(t, vae=(1.0, 1.1)), "vae_alone"),
    "input of the decoder": (lambda t: t.model_copy(update={"vae_input_error": 0.1}), "vae_input"),
    "truncation": (lambda t: t.model_copy(update={"rounding_bias": -0.49}), "rounding"),
    "a step cache": (lambda t: _step(t, 1, velocity_error=0.3, velocity_of=0), "velocity_kept"),
    "a step without a call": (lambda t: _step(t, 1, calls=(), velocity_error=None, velocity_of=0), "velocity_kept"),
    "no call and no source": (lambda t: _step(t, 1, calls=(), velocity_error=None), "velocity_changed"),
    "rescaled guidance": (lambda t: _step(t, 1, velocity_error=0.1), "velocity_changed"),
    "a window in attention": (
        lambda t: t.model_copy(update={"attention_error": {"transformer": 0.2}}),
        "attention_result",
    ),
    "attention summed in bfloat16": (
        lambda t: t.model_copy(update={"attention_error": {"transformer": 0.0033}}),
        "precision_differs",
    ),
    "parameters rounded": (
        lambda t: _alone(t, held={"transformer": {"blocks.*.bias": "aa/a0 b0/b0", "proj_out.bias": "cc/c0"}}),
        "held_weights_differ",
    ),
    "NaN in a prediction": (
        lambda t: _step(t, 1, velocity_sketch=(1e300, 1.0), guidance_measured=None, latent_norm=1e300),
        "not_finite",
    ),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_is_named(name: str) -> None:
    change, code = FAULTS[name]
    golden = _trace()
    verdict = _judge(change(golden), golden)
    assert (verdict.outcome, verdict.cause) == (Outcome.REGRESSION, code)


HEALTHY: dict[str, Any] = {
    "the same": lambda t: t,
    "the other order of passes": lambda t: _step(t, 1, calls=t.steps[1].calls[::-1]),
    "rounding of the tables": lambda t: _alone(t, rope={"transformer": (1.0, 1.00001)}),
    "rounding of the scheduler": lambda t: _alone(t, scheduler=((1.0, 2.0), (3.0, 4.00001))),
    "a channels-last decoder": lambda t: _alone(t, vae=(1.0, 1.0001)),
    "rounding of query and key": lambda t: t.model_copy(update={"attention_scale": {"transformer": 1.0005}}),
    "guidance in another order": lambda t: _step(t, 1, velocity_error=0.009),
    "attention written out": lambda t: t.model_copy(update={"attention_error": {"transformer": 0.0001}}),
    "probabilities in bfloat16": lambda t: t.model_copy(update={"attention_error": {"transformer": 0.0022}}),
    "q, k and v in one tensor": lambda t: _alone(
        t, held={"transformer": {"blocks.*.fused": "ee/ee ff/ff", "proj_out.bias": "cc/c0"}}
    ),
    "a program that records nothing": lambda t: _step(
        t.model_copy(update={"alone": Alone(), "sigmas": (), "attention_scale": {}, "vae_input_error": None}),
        1,
        calls=(),
        carried_error=None,
    ),
}


@pytest.mark.parametrize("name", HEALTHY)
def test_another_way_of_computing_is_no_fault(name: str) -> None:
    golden = _trace()
    assert _judge(HEALTHY[name](golden), golden).outcome is Outcome.PASS


def test_an_older_golden_says_what_it_does_not_record_and_the_run_is_checked_against_itself() -> None:
    mine, old = _trace(), make_trace()
    old = old.model_copy(
        update={
            "vae": mine.vae,
            "steps": tuple(step.model_copy(update={"guidance_measured": 3.0}) for step in old.steps),
        }
    )
    verdict = _judge(mine, old)
    assert verdict.outcome is Outcome.PASS
    assert "not_recorded" in {finding.code for finding in verdict.findings}
    for name in ("timestep one off", "noise scaled", "softmax scale", "truncation", "text of another run"):
        change, code = FAULTS[name]
        assert _judge(change(mine), old).cause == code, name


def test_rounded_weights_are_told_from_others() -> None:
    """``b0`` is the digest of the golden's value after a cast to bfloat16, and ``99`` that of any other value."""
    golden = _trace()
    for words, text in (("aa/a0 b0/b0", "rounded to bfloat16"), ("99/98 bb/b0", "overwritten after the load")):
        verdict = _judge(_alone(golden, held={"transformer": {"blocks.*.bias": words}}), golden)
        (found,) = [finding for finding in verdict.findings if finding.code == "held_weights_differ"]
        assert text in found.message
        assert found.data["tensors"] == ["blocks.*.bias"]


def test_nan_is_blamed_where_it_first_appears_and_not_on_guidance() -> None:
    golden = _trace()
    change, _ = FAULTS["NaN in a prediction"]
    verdict = _judge(change(golden), golden)
    assert "step 1, in the prediction of transformer_2" in verdict.summary
    assert "guidance" not in {finding.code for finding in verdict.findings}
