"""What is watched inside a runtime, on a pipeline of a few lines that calls its parts as SGLang does."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from harness.engine.backends.wan_condition import ConditionWatch
from harness.engine.inside import emulate
from harness.engine.inside.names import by_runtime_name
from harness.engine.inside.watch import Receipts, Trace
from harness.engine.noise import disturbed
from harness.engine.observed import FloatRange, moved


class Expert(torch.nn.Module):
    def __init__(self, gain: float) -> None:
        super().__init__()
        self.gain = gain
        self.to_q = torch.nn.Linear(4, 4)

    def forward(self, hidden_states: Any, encoder_hidden_states: Any, timestep: Any) -> torch.Tensor:
        self.to_q(torch.zeros(1, 4))
        text = encoder_hidden_states[0] if isinstance(encoder_hidden_states, list) else encoder_hidden_states
        return hidden_states * self.gain + text.mean()


class Scheduler:
    config = {"shift": 12.0, "_private": 1}

    def __init__(self) -> None:
        self.sigmas, self.timesteps = torch.tensor([0.9, 0.5, 0.0]), torch.tensor([900, 500])

    def step(self, model_output: Any, timestep: Any, sample: Any, return_dict: bool = True) -> Any:
        return (sample - 0.1 * model_output,)


class Batch:
    prompt_embeds = [torch.ones(1, 3, 8)]
    negative_prompt_embeds = [torch.full((1, 3, 8), -1.0)]
    guidance_scale, guidance_scale_2 = 4.0, 3.0


class Denoising:
    def __init__(self, experts: dict[str, Expert], touch: float = 0.0) -> None:
        self.experts, self.touch = experts, touch

    def forward(self, batch: Any, latents: torch.Tensor) -> torch.Tensor:
        scheduler = Scheduler()
        for time, role, scale in ((900, "transformer", 4.0), (500, "transformer_2", 3.0)):
            model, given = self.experts[role], latents + self.touch
            at = torch.tensor([time])
            cond = model(hidden_states=given, timestep=at, encoder_hidden_states=batch.prompt_embeds)
            uncond = model(hidden_states=given, timestep=at, encoder_hidden_states=batch.negative_prompt_embeds)
            velocity = uncond + scale * (cond - uncond)
            latents = scheduler.step(model_output=velocity, timestep=at[0], sample=given, return_dict=False)[0]
        return latents


def _run(touch: float = 0.0, disturb: Any = None) -> tuple[Trace, Receipts, torch.Tensor, dict[str, Expert]]:
    experts = {"transformer": Expert(1.0), "transformer_2": Expert(0.5)}
    trace, receipts = Trace(2, lambda *_: None, disturb, "float32"), Receipts()
    latents = torch.randn(1, 4, 2, 3, 3, generator=torch.Generator().manual_seed(0))
    trace.initial, stage = latents, Denoising(experts, touch)
    linears = {role: {"to_q": model.to_q} for role, model in experts.items()}
    with trace.watching(experts, Scheduler, stage, None), receipts.watching(linears):
        out = stage.forward(Batch(), latents)
    return trace, receipts, out, experts


def test_a_step_names_expert_scale_text_and_what_reached_it() -> None:
    trace, _, _, _ = _run()
    first, second = trace.steps
    assert (first["expert"], second["expert"]) == ("transformer", "transformer_2")
    assert (first["guidance_measured"], second["guidance_measured"]) == (4.0, 3.0)
    assert [call["text"] for call in first["calls"]] == ["prompt", "negative"]
    assert first["timestep"] == 900.0
    assert first["carried_error"] == second["carried_error"] == 0.0
    data = trace.data()
    assert data["scheduler"] == {"shift": 12.0, "class": "Scheduler"}
    assert data["timesteps"] == [900.0, 500.0]
    assert data["text"]["length"] == 3


class Vae:
    """Answers with a third of the picture's mean in each latent value; its statistics are 0 and 1."""

    config = SimpleNamespace(z_dim=2, latents_mean=[0.0, 0.0], latents_std=[1.0, 1.0])

    def encode(self, video: torch.Tensor) -> Any:
        latents = torch.full((1, 2, 2, 3, 3), float(video[0, :, 0].mean()) / 3)
        return SimpleNamespace(mode=lambda: latents)


def _conditioned(gain: float) -> dict[str, Any]:
    """Return the conditioning of a run whose pipeline multiplies the picture's latents by ``gain``."""
    vae, picture = Vae(), np.full((24, 24, 3), 255, dtype=np.uint8)
    pipe: Any = SimpleNamespace(vae=vae, config={}, vae_scale_factor_temporal=4)
    pictures: Any = {"image": picture}
    trace = Trace(2, lambda *_: None, condition=ConditionWatch(pipe, pictures, 5))
    expert = Expert(1.0)
    with trace.watching({"transformer": expert}, Scheduler, Denoising({}), None, vae):
        video = torch.zeros(1, 3, 5, 24, 24)
        video[:, :, 0] = 1.0
        latents = vae.encode(video).mode() * gain
        mask = torch.zeros(1, 4, 2, 3, 3)
        mask[:, :, 0] = 1.0
        given = torch.cat([torch.zeros(1, 2, 2, 3, 3), mask, latents], 1)
        expert(hidden_states=given, timestep=torch.tensor([900]), encoder_hidden_states=torch.ones(1, 3, 8))
    assert "encode" not in vars(vae)  # the hook is gone
    condition: dict[str, Any] = trace.data()["condition"]
    return condition


def test_the_picture_and_what_the_experts_received_of_it_are_in_the_trace() -> None:
    condition = _conditioned(1.0)
    assert condition["pixels_error"] == {"image": 0.0}
    assert (condition["mask_error"], condition["latents_error"]) == (0.0, 0.0)


def test_latents_of_a_picture_with_a_turned_sign_are_named() -> None:
    condition = _conditioned(-1.0)
    assert condition["latents_error"] == pytest.approx(2.0)
    assert condition["latents_cause"] == "their sign is turned round"


def test_a_run_without_a_picture_has_no_conditioning() -> None:
    assert _run()[0].data()["condition"] is None


def test_latents_that_something_touched_are_seen() -> None:
    trace, _, _, _ = _run(touch=0.01)
    assert trace.steps[0]["carried_error"] > 1e-3


def test_nothing_stays_hooked() -> None:
    before = Scheduler.step
    _, _, _, experts = _run()
    assert Scheduler.step is before
    assert not experts["transformer"]._forward_hooks


def test_a_disturbance_moves_latents_between_steps_and_nothing_else() -> None:
    steps = torch.ones(1, 4, 2, 3, 3, dtype=torch.int8)
    _, _, plain, _ = _run()
    trace, _, moved, _ = _run(disturb={"step.0": steps})
    assert 0 < float((moved - plain).abs().max()) < 1e-5
    assert trace.steps[1]["carried_error"] == 0.0


def test_the_disturbance_is_that_of_the_other_backend() -> None:
    latents = torch.randn(64) * torch.tensor([1e-3, 1.0, 50.0, 0.0]).repeat(16)
    for dtype in ("float32", "bf16"):
        steps = torch.randint(-1, 2, latents.shape, generator=torch.Generator().manual_seed(3), dtype=torch.int8)
        assert torch.equal(moved(latents, steps, dtype), disturbed(latents, dtype, torch.Generator().manual_seed(3)))


def test_receipts_count_calls_and_name_the_product() -> None:
    _, receipts, _, _ = _run()
    rows = receipts.rows({"transformer": {"to_q": ["a.to_q", "a.to_k"]}, "transformer_2": {}})
    assert [(row["expert"], row["module"], row["calls"], row["format"]) for row in rows] == [
        ("transformer", "a.to_q", 2, "fp32"),
        ("transformer", "a.to_k", 2, "fp32"),
        ("transformer_2", "to_q", 2, "fp32"),
    ]
    assert "addmm" in rows[0]["kernel"]


def test_an_emulated_product_is_said_in_the_receipt() -> None:
    class Method:
        pass

    class Packed(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = torch.zeros(2, 2, dtype=torch.uint8)
            self.quant_method = Method()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            emulate.last[:] = [emulate.FP4_PRODUCT]
            return x

    receipts, module = Receipts(), Packed()
    with receipts.watching({"transformer": {"x": module}}):
        module(torch.zeros(1, 2))
    [row] = receipts.rows({"transformer": {"x": ["x"]}})
    assert row["kernel"] == f"Method: {emulate.FP4_PRODUCT}"
    assert (row["format"], row["note"]) == ("nvfp4", "emulated")


def test_values_that_a_clamp_would_hide_are_counted() -> None:
    watch = FloatRange()
    healthy, broken = torch.zeros(1, 3, 2, 4, 4), torch.full((1, 3, 2, 4, 4), 3.0)
    broken[0, 0, 1, 0, 0] = float("nan")
    for part in (healthy, broken):
        watch(None, None, part)
    stats = watch.facts()
    assert watch.frames == 4
    assert (stats["nan"], stats["inf"], stats["first_bad_frame"], stats["maximum"]) == (1, 0, 3, 2.0)


@pytest.mark.parametrize("fused", [False, True])
def test_names_of_a_checkpoint_are_found_from_the_runtimes(fused: bool) -> None:
    def mapping(name: str) -> tuple[str, Any, Any]:
        name = name.replace("attn1.", "")
        return (name.replace("to_k", "to_qkv").replace("to_q.", "to_qkv.") if fused else name, None, None)

    named = by_runtime_name(["b.0.attn1.to_q", "b.0.attn1.to_k"], mapping, ["b.0.to_q", "b.0.to_k", "b.0.to_qkv"])
    assert named == (
        {"b.0.to_qkv": ["b.0.attn1.to_q", "b.0.attn1.to_k"]}
        if fused
        else {"b.0.to_q": ["b.0.attn1.to_q"], "b.0.to_k": ["b.0.attn1.to_k"]}
    )
