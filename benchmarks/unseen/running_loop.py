"""Injections around the experts: schedule, guidance, text, noise, caches between steps."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch

from benchmarks.unseen.injections import Injection, after_timesteps, loop
from benchmarks.unseen.loop import Loop, Tensor, guided, two_passes
from benchmarks.unseen.patch import Patch


def _configured(**settings: Any) -> Injection:
    return lambda patch: patch.configure(**settings)


def _sampling(**values: Any) -> Injection:
    return lambda patch: patch.sampling(**values)


def _unshifted(scheduler: Any) -> None:
    """Sigmas without the flow shift, with the timesteps that belong to them."""
    shift = scheduler.config.flow_shift
    sigmas = scheduler.sigmas[:-1]
    plain = sigmas / (shift - (shift - 1) * sigmas)
    scheduler.sigmas = torch.cat([plain, scheduler.sigmas[-1:]])
    scheduler.timesteps = (plain * scheduler.config.num_train_timesteps).to(scheduler.timesteps.dtype)


def _sigmas_only(scheduler: Any) -> None:
    """Sigmas of another shift, with the timesteps as they were."""
    sigmas = scheduler.sigmas
    scheduler.sigmas = 1.5 * sigmas / (1 + 0.5 * sigmas)


def _last_sigma(scheduler: Any) -> None:
    scheduler.sigmas = torch.cat([scheduler.sigmas[:-1], scheduler.sigmas[-2:-1] * 0.3])


def _sigma_of_step(scheduler: Any) -> None:
    """One sigma in the middle is off by 4 %."""
    sigmas = scheduler.sigmas.clone()
    sigmas[4] *= 1.04
    scheduler.sigmas = sigmas


def _euler(patch: Patch) -> None:
    """A first-order step in place of the multistep solver."""

    def step(scheduler: Any, _original: Any, velocity: Tensor, _moment: Any, latents: Tensor, **_options: Any) -> Any:
        index = getattr(scheduler, "_plain_index", 0)
        scheduler._plain_index = index + 1
        return (latents + (scheduler.sigmas[index + 1] - scheduler.sigmas[index]) * velocity.float(),)

    patch.stepping("step", step)


def _state_kept(patch: Patch) -> None:
    """The solver's history of an earlier video is still there."""

    def steps(scheduler: Any, original: Any, *arguments: Any, **options: Any) -> None:
        original(*arguments, **options)
        random = torch.Generator().manual_seed(9)
        scheduler.model_outputs = [torch.randn(1, 16, 5, 8, 12, generator=random) for _ in scheduler.model_outputs]
        scheduler.timestep_list = [scheduler.timesteps[0]] * len(scheduler.timestep_list)
        scheduler.lower_order_nums = 1

    patch.stepping("set_timesteps", steps)


def _rescaled(positive: Tensor, negative: Tensor, scale: float, index: int) -> Tensor:
    """Guidance rescale of 0.7 (arXiv 2305.08891, section 3.4)."""
    plain = guided(positive, negative, scale, index)
    ratio = positive.float().std() / plain.float().std()
    return (0.7 * plain.float() * ratio + 0.3 * plain.float()).to(plain.dtype)


def _zero_star(positive: Tensor, negative: Tensor, scale: float, _index: int) -> Tensor:
    """Guidance with the optimised scale of the unconditional pass (CFG-Zero*)."""
    dot = (positive.float() * negative.float()).sum() / (negative.float() ** 2).sum()
    return (negative * dot + scale * (positive - negative * dot)).to(positive.dtype)


def _combine(change: Callable[[float, int], float]) -> Injection:
    return loop(
        combine=lambda positive, negative, scale, index: guided(positive, negative, change(scale, index), index)
    )


def _exchanged(model: Any, latents: Tensor, moment: Tensor, positive: Tensor, negative: Tensor) -> list[Tensor]:
    return two_passes(model, latents, moment, negative, positive)


def _batched(model: Any, latents: Tensor, moment: Tensor, positive: Tensor, negative: Tensor) -> list[Tensor]:
    """Both passes as one batch of two."""
    both = model(
        hidden_states=torch.cat([latents, latents]),
        timestep=moment.expand(2),
        encoder_hidden_states=torch.cat([positive, negative]),
        return_dict=False,
    )[0]
    return list(both.chunk(2))


def _negative_first(model: Any, latents: Tensor, moment: Tensor, positive: Tensor, negative: Tensor) -> list[Tensor]:
    without, with_text = two_passes(model, latents, moment, negative, positive)
    return [with_text, without]


def _encoded(change: Callable[[Any, dict[str, Any]], Any]) -> Injection:
    """Replace ``encode_prompt``: the change gets the original and its options."""
    return lambda patch: patch.override(
        patch.pipe, "encode_prompt", lambda original, **options: change(original, options)
    )


def _prompt(change: Callable[[str], str]) -> Injection:
    return _encoded(lambda original, options: original(**{**options, "prompt": change(options["prompt"])}))


def _texts(change: Callable[[Tensor], Tensor]) -> Injection:
    """Change the positive embedding [1, L, D] after the prompt was encoded."""
    return loop(texts=lambda positive, negative: (change(positive), negative))


def _no_mask(patch: Patch) -> None:
    """The text encoder attends to padding, and nothing is cut after it."""

    def forward(original: Any, ids: Any, _mask: Any = None, **options: Any) -> Any:
        return original(ids, torch.ones_like(ids), **options)

    patch.override(patch.pipe.text_encoder, "forward", forward)


def _shorter(positive: Tensor) -> Tensor:
    cut = positive.clone()
    cut[:, 5:] = 0
    return cut


def _beheaded(positive: Tensor) -> Tensor:
    """The first token is overwritten by the second."""
    cut = positive.clone()
    cut[:, 0] = cut[:, 1]
    return cut


def _noise(change: Callable[[Tensor], Tensor]) -> Injection:
    return loop(initial=change)


def _repeated(latents: Tensor) -> Tensor:
    return latents[:, :, :1].expand_as(latents).clone()


def _one_frame_zero(latents: Tensor) -> Tensor:
    changed = latents.clone()
    changed[:, :, 2] = 0
    return changed


def _coarse(latents: Tensor) -> Tensor:
    """Neighbouring noise values are correlated: 30 % of the variance is at half resolution."""
    low: Tensor = latents[..., ::2, ::2].repeat_interleave(2, -1).repeat_interleave(2, -2)
    return latents * math.sqrt(0.7) + low * math.sqrt(0.3)


def _step_skipped(patch: Patch) -> None:
    """A step cache: the velocities of step 4 are used for step 5 too."""
    kept: dict[str, list[Tensor]] = {}
    counted = {"index": -1}

    def count(latents: Tensor, index: int) -> Tensor:
        counted["index"] = index
        return latents

    def predict(model: Any, latents: Tensor, moment: Tensor, positive: Tensor, negative: Tensor) -> list[Tensor]:
        made = two_passes(model, latents, moment, positive, negative)
        if counted["index"] == 5:
            return kept["made"]
        kept["made"] = made
        return made

    Loop(fed=count, predict=predict).install(patch)


def _latents_kept(patch: Patch) -> None:
    """A cache of the experts' input that is one step late from the third step on."""
    kept: dict[int, Tensor] = {}

    def fed(latents: Tensor, index: int) -> Tensor:
        kept[index] = latents
        return kept[index - 1] if index >= 3 else latents

    Loop(fed=fed).install(patch)


def _expert_late(patch: Patch) -> None:
    """The switch of experts comes one step late."""
    high = patch.pipe.transformer
    Loop(expert=lambda model, index: high if index == 3 else model).install(patch)


def _previous_timestep(patch: Patch) -> None:
    before: list[Tensor] = []

    def given(moment: Tensor, index: int) -> Tensor:
        if index == 0:
            before.clear()
        before.append(moment)
        return before[max(0, index - 1)]

    Loop(timestep=given).install(patch)


def _unstable(patch: Patch) -> None:
    """Every other video of the process starts from other noise."""
    if patch.backend.calls % 2:
        _noise(lambda latents: latents.roll(1, -1))(patch)


def _leaking(patch: Patch) -> None:
    """The first video of a process is right; what it left behind spoils the later ones."""
    if patch.backend.calls > 1:
        _noise(lambda latents: latents + 0.2 * patch.backend.calls)(patch)


def _nan_once(latents: Tensor, index: int) -> Tensor:
    changed = latents.clone()
    if index == 4:
        changed[0, 0, 1, 2, 3] = float("nan")
    return changed


def _tiny_noise(patch: Patch) -> None:
    """Two runs are never equal: latents move by one part in ten million."""
    size = 1e-7 * (1 + patch.backend.calls)
    Loop(after=lambda latents, _index: latents * (1 + size)).install(patch)


INJECTIONS: dict[str, Injection] = {
    # scheduler, sigmas, timesteps
    "solver_order_1": _configured(solver_order=1),
    "solver_order_3": _configured(solver_order=3),
    "solver_bh1": _configured(solver_type="bh1"),
    "no_corrector": _configured(disable_corrector=list(range(8))),
    "no_lower_order_final": _configured(lower_order_final=False),
    "flow_shift_5": _configured(flow_shift=5.0),
    "euler_step": _euler,
    "sigmas_unshifted": after_timesteps(_unshifted),
    "sigmas_of_another_shift": after_timesteps(_sigmas_only),
    "last_sigma_not_zero": after_timesteps(_last_sigma),
    "one_sigma_off": after_timesteps(_sigma_of_step),
    "solver_history_kept": _state_kept,
    "timestep_0_to_1": loop(timestep=lambda moment, _index: moment.float() / 1000),
    "timestep_previous": _previous_timestep,
    "timestep_complement": loop(timestep=lambda moment, _index: 1000 - moment),
    "timestep_2_percent": loop(timestep=lambda moment, _index: moment.float() * 0.98),
    "timestep_to_hundreds": loop(timestep=lambda moment, _index: (moment // 100) * 100),
    "seven_steps": _sampling(num_inference_steps=7),
    # guidance
    "guidance_off": _combine(lambda _scale, _index: 1.0),
    "guidance_5": _sampling(guidance_scale=5.0, guidance_scale_2=5.0),
    "guidance_added": _combine(lambda scale, _index: scale + 1),
    "guidance_halved_late": _combine(lambda scale, index: scale if index < 4 else 1.0),
    "guidance_rescaled": loop(combine=_rescaled),
    "guidance_zero_star": loop(combine=_zero_star),
    "guidance_ramp": _combine(lambda scale, index: scale * (0.8 + 0.05 * index)),
    "guidance_from_positive": loop(
        combine=lambda positive, negative, scale, _index: positive + scale * (positive - negative)
    ),
    # text passes
    "texts_exchanged": loop(predict=_exchanged),
    "text_in_both_passes": loop(texts=lambda positive, _negative: (positive, positive)),
    "no_text_in_either": loop(texts=lambda _positive, negative: (negative, negative)),
    "text_cut_to_5": _texts(_shorter),
    "text_first_token_lost": _texts(_beheaded),
    "text_scaled": _texts(lambda text: text * 1.15),
    "text_zero_in_negative": loop(texts=lambda positive, negative: (positive, torch.zeros_like(negative))),
    "prompt_underscored": _prompt(lambda text: text.replace(" ", "_")),
    "prompt_last_words_lost": _prompt(lambda text: " ".join(text.split()[:-2])),
    "prompt_of_another_case": _prompt(lambda _text: "a white cross moving up on a green background"),
    "prompt_twice": _prompt(lambda text: f"{text} {text}"),
    "prompt_capitalised": _prompt(str.title),
    "text_mask_ignored": _no_mask,
    "negative_prompt_default": _sampling(negative_prompt="a blue background"),
    "sequence_length_32": _sampling(max_sequence_length=32),
    "sequence_length_226": _sampling(max_sequence_length=226),
    # initial noise
    "noise_scaled_up": _noise(lambda latents: latents * 1.05),
    "noise_scaled_down": _noise(lambda latents: latents * 0.9),
    "noise_repeated": _noise(_repeated),
    "noise_shifted": _noise(lambda latents: latents + 0.1),
    "noise_transposed": _noise(lambda latents: latents.flip(-1)),
    "noise_channels_rolled": _noise(lambda latents: latents.roll(1, 1)),
    "noise_frame_zero": _noise(_one_frame_zero),
    "noise_coarse": _noise(_coarse),
    "seed_next": _sampling(seed=1),
    # caches
    "cache_step_skipped": _step_skipped,
    "cache_latents_late": _latents_kept,
    "expert_switch_late": _expert_late,
    # runtimes
    "every_other_run_differs": _unstable,
    "later_runs_spoiled": _leaking,
    "nan_in_one_latent": loop(after=_nan_once),
    # healthy
    "own_loop": loop(),
    "batched_guidance": loop(predict=_batched),
    "negative_first": loop(predict=_negative_first),
    "less_than_a_level": _tiny_noise,
    "guidance_other_form": loop(
        combine=lambda positive, negative, scale, _index: positive * scale + negative * (1 - scale)
    ),
    "guidance_in_float32": loop(
        combine=lambda positive, negative, scale, index: guided(positive.float(), negative.float(), scale, index)
    ),
}
