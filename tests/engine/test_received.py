"""The recorder on a small pipeline of plain torch modules: what was given counts, in any order and any batch."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from harness.engine.backends.wan_alone import decode_latents, save_latents, scheduler_alone, vae_alone
from harness.engine.backends.wan_attention import AttentionCheck, AttentionScales, measured_scales
from harness.engine.backends.wan_received import passes
from harness.engine.backends.wan_recorder import FloatWatch, Recorder, rounded
from harness.frames.clip import Clip

_SEEDED = torch.Generator().manual_seed(0)
PROMPT, NEGATIVE = torch.randn(1, 3, 4, generator=_SEEDED), torch.randn(1, 3, 4, generator=_SEEDED)
NOISE = torch.randn(1, 2, 3, 4, 4, generator=_SEEDED)


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


class Rope(torch.nn.Module):
    def forward(self, latents: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        angle = torch.arange(latents.shape[2], dtype=torch.float64)
        return angle.cos(), angle.sin()


class Expert(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.rope = Rope()

    def forward(self, hidden_states: Any, timestep: Any, encoder_hidden_states: Any) -> tuple[torch.Tensor]:
        cos, _ = self.rope(hidden_states)
        text = encoder_hidden_states.mean(dim=(1, 2)).view(-1, 1, 1, 1, 1)
        return (hidden_states.float() * text * (1 + cos.float()).view(1, 1, -1, 1, 1) + text,)


class Euler:
    """A flow-matching Euler scheduler, in three lines."""

    def __init__(self) -> None:
        self.sigmas, self.timesteps = torch.tensor([1.0, 0.5, 0.0]), torch.tensor([1000.0, 500.0])

    def set_timesteps(self, steps: int, device: Any) -> None:
        """Two steps, always."""

    def set_begin_index(self, index: int) -> None:
        """The index is that of the timestep."""

    def step(self, velocity: Any, timestep: Any, latents: Any, return_dict: bool = False) -> tuple[torch.Tensor]:
        return (latents - 0.5 * velocity,)


class Vae(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.config = SimpleNamespace(latents_mean=[0.5, -0.5], latents_std=[2.0, 3.0], z_dim=2)
        self.dtype = torch.float32

    def decode(self, latents: torch.Tensor, return_dict: bool = False) -> tuple[torch.Tensor]:
        return (latents.tanh(),)


def _pipe() -> Any:
    return SimpleNamespace(
        transformer=Expert(), transformer_2=None, text_encoder=None, scheduler=Euler(), vae=Vae(),
        encode_prompt=None, _guidance_scale=3.0, _guidance_scale_2=None,
    )  # fmt: skip


def _run(order: str = "cond first", **fault: Any) -> Any:
    """Two steps with guidance 3, as a runtime would do them, with a fault of ``fault`` if it names one."""
    pipe = _pipe()

    class Encoding:
        def encode_prompt(self) -> tuple[torch.Tensor, torch.Tensor]:
            return PROMPT, NEGATIVE

    pipe.encode_prompt = Encoding().encode_prompt
    recorder = Recorder(pipe, 2, lambda _event: None, initial=NOISE)
    with recorder.watching():
        prompt, negative = pipe.encode_prompt()
        prompt, negative = fault.get("texts", (prompt, negative))
        latents, earlier = NOISE * fault.get("noise", 1.0), None
        for timestep in pipe.scheduler.timesteps:
            given = latents.bfloat16() * fault.get("given", 1.0)
            at = (timestep + fault.get("later", 0.0)).expand(1)
            if order == "one batch":
                both = pipe.transformer(given.repeat(2, 1, 1, 1, 1), at.repeat(2), torch.cat([negative, prompt]))[0]
                out, cond = both[:1], both[1:]
            elif order == "uncond first":
                out = pipe.transformer(given, at, negative)[0]
                cond = pipe.transformer(hidden_states=given, timestep=at, encoder_hidden_states=prompt)[0]
            else:
                cond, out = pipe.transformer(given, at, prompt)[0], pipe.transformer(given, at, negative)[0]
            made = out + 3.0 * (cond - out)
            velocity = fault.get("velocity", lambda made, _earlier: made)(made, earlier)
            earlier = made
            latents = pipe.scheduler.step(velocity, timestep, latents, return_dict=False)[0]
            latents = latents.to(fault.get("between", torch.float32)).float()
        mean, std = torch.tensor([0.5, -0.5]), torch.tensor([2.0, 3.0]) * fault.get("std", 1.0)
        pipe.vae.decode(latents * std.view(1, 2, 1, 1, 1) + mean.view(1, 2, 1, 1, 1))
    assert "step" not in vars(pipe.scheduler)
    return recorder


@pytest.mark.parametrize("order", ["cond first", "uncond first", "one batch"])
def test_any_order_of_passes_is_recorded_alike(order: str) -> None:
    recorder = _run(order)
    for step in recorder.steps:
        assert step.guidance_measured == pytest.approx(3.0, abs=1e-3)
        assert {call.text for call in step.calls} == {"prompt", "negative"}
        assert {call.timestep for call in step.calls} == {step.timestep}
        assert step.carried_error == 0.0
        assert all(call.text_error == 0.0 and 0 < call.latents_error < 0.004 for call in step.calls)
    assert recorder.vae_input_error < 1e-6
    assert recorder.sigmas == (1.0, 0.5, 0.0)
    assert recorder.repeated_frames == 0
    assert set(recorder.alone.rope) == {"transformer"}


def test_inputs_in_buffers_that_are_used_again_are_read_when_they_come() -> None:
    text, output = torch.randn(1, 3, 4), torch.randn(1, 2, 3, 4, 4)
    kept = text.clone()
    (row,) = passes("transformer", (NOISE, torch.tensor([1.0]), text), {}, output)
    text.zero_()
    output.zero_()
    assert row.text is not None
    assert torch.equal(row.text, kept[0])
    assert float(row.prediction.abs().sum()) > 0


def test_exchanged_texts_give_one_minus_the_guidance() -> None:
    recorder = _run(texts=(NEGATIVE, PROMPT))
    assert [step.guidance_measured for step in recorder.steps] == pytest.approx([-2.0, -2.0], abs=1e-3)


def test_each_fault_shows_in_the_field_that_it_belongs_to() -> None:
    assert _run(later=1.0).steps[0].calls[0].timestep == 1001.0
    assert _run(noise=1.1).steps[0].carried_gain == pytest.approx(1.1)
    assert _run(given=1.25).steps[0].calls[0].latents_gain == pytest.approx(1.25, abs=0.01)
    assert 5e-4 < _run(between=torch.bfloat16).steps[1].carried_error < 4e-3
    assert _run(texts=(PROMPT * 1.5, NEGATIVE)).steps[0].calls[0].text_error == pytest.approx(0.5, abs=1e-3)
    assert _run(std=1.2).vae_input_error > 0.05


def test_scheduler_and_vae_answer_alone_the_same_twice_and_another_one_does_not() -> None:
    device = torch.device("cpu")
    assert scheduler_alone(Euler(), 2, device) == scheduler_alone(Euler(), 2, device)
    other = Euler()
    other.step = lambda v, t, x, return_dict=False: (x - 0.49 * v,)  # type: ignore[method-assign]
    assert scheduler_alone(other, 2, device) != scheduler_alone(Euler(), 2, device)
    assert vae_alone(Vae(), device) == vae_alone(Vae(), device)


class Attention(torch.nn.Module):
    """Attention over heads [1, 2, S, 8] with a scale, a factor on the query, and the product taken in parts.

    ``parts`` names the axis along which query, or query, key and value, are split: "queries", "heads", "some" (only
    half of the queries are computed by the product).
    """

    def __init__(self, scale: float | None, factor: float, parts: str = "") -> None:
        super().__init__()
        self.norm_q, self.norm_k = torch.nn.LayerNorm(8), torch.nn.LayerNorm(8)
        self.scale, self.factor, self.parts = scale, factor, parts

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        product = torch.nn.functional.scaled_dot_product_attention
        query, key = self.norm_q(x) * self.factor, self.norm_k(x)
        if self.parts == "heads":
            split = zip(*(part.split(1, dim=1) for part in (query, key, x)), strict=True)
            return torch.cat([product(*head, scale=self.scale) for head in split], dim=1)
        chunks = query.tensor_split(2, dim=2) if self.parts else (query,)
        made = [product(chunk, key, x, scale=self.scale) for chunk in chunks[:1]]
        made += [product(chunk, key, x, scale=self.scale) for chunk in chunks[1:] if self.parts == "queries"]
        return torch.cat(made, dim=2)


@pytest.mark.parametrize("parts", ["", "queries", "heads"])
@pytest.mark.parametrize(
    ("scale", "factor", "wanted"),
    [(None, 1.0, 1.0), (8**-0.5, 1.0, 1.0), (1.01 * 8**-0.5, 1.0, 1.01), (None, 1.01, 1.01)],
)
def test_the_attention_scale_is_measured_wherever_it_was_applied(
    scale: float | None, factor: float, wanted: float, parts: str
) -> None:
    expert = torch.nn.Module()
    expert.attn1 = Attention(scale, factor, parts)
    expert.forward = expert.attn1.__call__
    x, scales = torch.randn(1, 2, 5, 8), AttentionScales()
    alone = expert(x)
    with scales.watching({"transformer": expert}):
        assert torch.equal(expert(x), alone)
    assert scales.worst()["transformer"] == pytest.approx(wanted, abs=1e-5)


def test_a_product_over_some_of_the_queries_is_not_compared_with_the_norms() -> None:
    expert, scales = torch.nn.Module(), AttentionScales()
    expert.attn1 = Attention(None, 1.0, "some")
    expert.forward = expert.attn1.__call__
    with scales.watching({"transformer": expert}):
        expert(torch.randn(1, 2, 5, 8))
    assert scales.worst() == {}


def test_a_velocity_is_told_from_one_that_another_step_made() -> None:
    assert all(step.velocity_error < 1e-6 and step.velocity_of is None for step in _run().steps)
    rescaled = _run(velocity=lambda made, _earlier: made + 0.2 * NOISE).steps[1]
    assert (rescaled.velocity_error > 0.02, rescaled.velocity_of) == (True, None)
    kept = _run(velocity=lambda made, earlier: made if earlier is None else earlier).steps[1]
    assert (kept.velocity_error > 0.02, kept.velocity_of) == (True, 0)


class Wan(torch.nn.Module):
    """Self-attention as Wan has it, written out, with a factor on the scores or a window."""

    def __init__(self, factor: float = 1.0, window: int = 99) -> None:
        super().__init__()
        self.norm_q, self.norm_k, self.to_v = (torch.nn.Identity() for _ in range(3))
        self.to_out = torch.nn.ModuleList([torch.nn.Identity()])
        self.heads, self.factor, self.window = 2, factor, window

    def forward(self, x: torch.Tensor, tables: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
        count = x.shape[1]
        heads = [part.view(count, 2, 4).transpose(0, 1) for part in (self.norm_q(x)[0], self.norm_k(x)[0])]
        angle = torch.view_as_complex(torch.stack([tables[0][0, :, 0, ::2], tables[1][0, :, 0, ::2]], -1))
        turned = [torch.view_as_real(torch.view_as_complex(h.reshape(2, count, 2, 2)) * angle) for h in heads]
        query, key = (part.flatten(-2) for part in turned)
        far = (torch.arange(count)[:, None] - torch.arange(count)[None]).abs() > self.window
        scores = (query @ key.transpose(1, 2) * self.factor / 2).masked_fill(far, -torch.inf)
        values = self.to_v(x)[0].view(count, 2, 4).transpose(0, 1)
        made: torch.Tensor = self.to_out[0]((scores.softmax(-1) @ values).transpose(0, 1).reshape(1, count, 8))
        return made


class Tables(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        angle = (torch.arange(x.shape[1])[:, None] * torch.tensor([1.0, 0.1])).repeat_interleave(2, -1)
        return angle.cos()[None, :, None], angle.sin()[None, :, None]


class WanExpert(torch.nn.Module):
    def __init__(self, **options: Any) -> None:
        super().__init__()
        self.rope, self.attn1 = Tables(), Wan(**options)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        made: torch.Tensor = self.attn1(x, self.rope(x))
        return made


@pytest.mark.parametrize(("options", "scale"), [({}, 1.0), ({"factor": 1.01}, 1.01), ({"factor": 0.98}, 0.98)])
def test_the_scale_of_attention_that_calls_no_product_is_fitted(options: Any, scale: float) -> None:
    expert, check, x = WanExpert(**options), AttentionCheck(), torch.randn(1, 30, 8)
    alone = expert(x)
    with check.watching({"transformer": expert}):
        assert torch.equal(expert(x), alone)
    assert measured_scales(AttentionScales(), check)["transformer"] == pytest.approx(scale, abs=2e-3)
    assert (check.samples["transformer"].error < 1e-5) == (scale == 1.0)


class Smoothed(WanExpert):
    """Attention through the product, whose keys have lost their mean: the scores of a query change by a constant."""

    def __init__(self, factor: float = 1.0) -> None:
        super().__init__(factor=factor)
        attention = self.attn1

        def forward(x: torch.Tensor, tables: Any) -> torch.Tensor:
            count = x.shape[1]
            query, key = (norm(x)[0].view(count, 2, 4).transpose(0, 1) for norm in (attention.norm_q, attention.norm_k))
            angle = torch.view_as_complex(torch.stack([tables[0][0, :, 0, ::2], tables[1][0, :, 0, ::2]], -1))
            turned = [
                torch.view_as_real(torch.view_as_complex(h.reshape(2, count, 2, 2)) * angle).flatten(-2)
                for h in (query, key)
            ]
            key = turned[1] - turned[1].mean(dim=1, keepdim=True)
            values = attention.to_v(x)[0].view(count, 2, 4).transpose(0, 1)
            made = torch.nn.functional.scaled_dot_product_attention(turned[0], key, values, scale=factor / 2)
            out: torch.Tensor = attention.to_out[0](made.transpose(0, 1).reshape(1, count, 8))
            return out

        attention.forward = forward  # type: ignore[method-assign]


@pytest.mark.parametrize("factor", [1.0, 1.02])
def test_keys_without_their_mean_have_the_factor_that_the_result_shows(factor: float) -> None:
    expert, check, scales = Smoothed(factor), AttentionCheck(), AttentionScales()
    with check.watching({"transformer": expert}), scales.watching({"transformer": expert}):
        expert(torch.randn(1, 30, 8) + 1.0)
    assert abs(scales.worst()["transformer"] - 1.0) > 0.03, "the product alone misleads"
    if factor == 1.0:
        assert measured_scales(scales, check)["transformer"] == pytest.approx(1.0, abs=2e-3)
    else:
        assert abs(measured_scales(scales, check)["transformer"] - 1.0) > 0.01


def test_a_window_in_attention_is_no_factor_but_another_result() -> None:
    expert, check = WanExpert(window=3), AttentionCheck()
    with check.watching({"transformer": expert}):
        expert(torch.randn(1, 30, 8))
    assert check.samples["transformer"].rest > 0.1
    assert measured_scales(AttentionScales(), check) == {}


def test_latents_are_kept_and_decoded_with_the_statistics_of_the_vae(tmp_path: Path) -> None:
    path = tmp_path / "latents.safetensors"
    assert save_latents(path, None) == ""
    assert save_latents(path, NOISE.bfloat16()) == path.name
    pipe = _pipe()
    pipe.vae.decode = lambda latents, return_dict: (latents,)
    shown = decode_latents(pipe, path, torch.device("cpu"))
    mean, std = torch.tensor([0.5, -0.5]).view(1, 2, 1, 1), torch.tensor([2.0, 3.0]).view(1, 2, 1, 1)
    wanted = (NOISE[0].bfloat16().float().transpose(0, 1) * std + mean) / 2 + 0.5
    torch.testing.assert_close(shown, wanted)
    pipe.vae.config = SimpleNamespace(latents_mean=[0.0], latents_std=[1.0])
    with pytest.raises(ValueError, match="no latents of this VAE"):
        decode_latents(pipe, path, torch.device("cpu"))


def test_truncation_to_8_bits_has_a_bias_and_rounding_has_none(tmp_path: Path) -> None:
    video = torch.rand(1, 3, 4, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1
    watch = FloatWatch()
    watch(torch.nn.Identity(), (), video)
    unit = video[0].permute(1, 0, 2, 3) / 2 + 0.5
    assert watch.rounding_bias(rounded(unit)) == pytest.approx(0.0, abs=0.03)
    cut = (unit * 255).to(torch.uint8).permute(0, 2, 3, 1).contiguous().numpy()
    assert watch.rounding_bias(Clip(np.asarray(cut))) == pytest.approx(-0.5, abs=0.03)
    assert watch.rounding_bias(Clip(np.asarray(cut)[:2])) is None
