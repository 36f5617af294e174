"""The schedule oracle against diffusers' own schedulers, and against values worked out by hand."""

from __future__ import annotations

from typing import Any

import pytest
from diffusers import FlowMatchEulerDiscreteScheduler, UniPCMultistepScheduler
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.definitions.schedule import explain, schedule, switch_of, unmodelled

STEPS = st.integers(2, 60)
SHIFTS = st.sampled_from([1.0, 3.0, 5.0, 8.0, 12.0, 2.37])


def _theirs(scheduler: Any, steps: int) -> tuple[list[float], list[float]]:
    scheduler.set_timesteps(steps)
    return scheduler.sigmas.double().tolist(), scheduler.timesteps.double().tolist()


@settings(max_examples=40, deadline=None)
@given(steps=STEPS, shift=SHIFTS)
def test_unipc_is_what_diffusers_computes(steps: int, shift: float) -> None:
    sigmas, timesteps = _theirs(
        UniPCMultistepScheduler(flow_shift=shift, use_flow_sigmas=True, prediction_type="flow_prediction"), steps
    )
    mine = schedule("unipc", steps, shift)
    assert mine.sigmas == pytest.approx(sigmas, abs=1e-6)
    assert list(mine.timesteps) == timesteps


@settings(max_examples=40, deadline=None)
@given(steps=STEPS, shift=SHIFTS)
def test_euler_is_what_diffusers_computes(steps: int, shift: float) -> None:
    sigmas, timesteps = _theirs(FlowMatchEulerDiscreteScheduler(shift=shift), steps)
    mine = schedule("euler", steps, shift)
    assert mine.sigmas == pytest.approx(sigmas, abs=1e-6)
    assert mine.timesteps == pytest.approx(timesteps, abs=1e-3)


def test_four_steps_with_shift_three_by_hand() -> None:
    """Published with the change in diffusers 0.37: 999/899/749/499 became 999/900/750/500."""
    assert schedule("unipc_before_0_37", 4, 3.0).timesteps == (999, 899, 749, 499)
    assert schedule("unipc", 4, 3.0).timesteps == (999, 900, 750, 500)


def test_wans_own_scheduler_by_hand() -> None:
    """Shift 5, 4 steps: .999 becomes .99980; spread to 0 and shifted again."""
    largest = 5 * 0.999 / (1 + 4 * 0.999)
    levels = [largest * part for part in (1, 0.75, 0.5, 0.25)]
    mine = schedule("flow_unipc", 4, 5.0)
    assert mine.sigmas == pytest.approx([*(5 * s / (1 + 4 * s) for s in levels), 0.0], abs=1e-6)
    assert mine.timesteps == (999, 937, 833, 624)


@pytest.mark.parametrize(
    ("boundary", "inclusive", "switch"), [(0.9, False, 2), (0.9, True, 1), (0.5, False, 4), (1.0, False, 0)]
)
def test_the_step_at_which_experts_switch(boundary: float, inclusive: bool, switch: int) -> None:
    assert switch_of((999, 900, 750, 500), boundary, switch_at_boundary=inclusive) == switch


def test_one_expert_never_switches() -> None:
    assert schedule("unipc", 8, 3.0).switch is None


@pytest.mark.parametrize("rule", ["unipc", "flow_unipc", "euler"])
def test_another_shift_is_told_by_its_value(rule: Any) -> None:
    assert explain(rule, 12, 3.0, schedule(rule, 12, 12.0).sigmas) == "a flow shift of 12"
    assert explain(rule, 12, 12.0, schedule(rule, 12, 5.0).sigmas) == "a flow shift of 5"


def test_a_shift_that_was_applied_twice_is_told() -> None:
    assert explain("unipc", 12, 3.0, schedule("unipc", 12, 9.0).sigmas).startswith("the shift of 3 applied twice")


def test_the_change_of_diffusers_0_37_is_told() -> None:
    assert explain("unipc", 12, 3.0, schedule("unipc_before_0_37", 12, 3.0).sigmas).endswith("before 0.37")


def test_levels_of_no_known_schedule_are_not_explained() -> None:
    assert explain("unipc", 4, 3.0, (1.0, 0.9, 0.2, 0.1)) == ""
    assert explain("unipc", 4, 3.0, (1.0,)) == ""


@pytest.mark.parametrize(
    ("config", "setting"),
    [
        ({}, ""),
        ({"use_karras_sigmas": True}, "use_karras_sigmas"),
        ({"shift_terminal": 0.1}, "shift_terminal"),
        ({"final_sigmas_type": "sigma_min"}, "final_sigmas_type"),
        ({"num_train_timesteps": 500}, "num_train_timesteps"),
    ],
)
def test_settings_that_no_rule_covers(config: dict[str, Any], setting: str) -> None:
    assert unmodelled(config) == setting
