"""Compute the denoising schedule of a case: noise levels, timesteps, and the step at which the experts switch.

It uses the case's numbers alone, in the arithmetic of each scheduler, so that a run is compared with the request and
not only with an earlier run. Sources: diffusers' ``UniPCMultistepScheduler`` and ``FlowMatchEulerDiscreteScheduler``
(set_timesteps), and Wan's ``FlowUniPCMultistepScheduler``, which SGLang uses.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

Rule = Literal["unipc", "unipc_before_0_37", "flow_unipc", "euler"]
"""``unipc``: diffusers 0.37 and later. ``flow_unipc``: Wan's own and SGLang's. ``euler``: flow-matching Euler."""
RULES: Mapping[str, Rule] = {
    "UniPCMultistepScheduler": "unipc",
    "FlowUniPCMultistepScheduler": "flow_unipc",
    "FlowMatchEulerDiscreteScheduler": "euler",
}
"""Scheduler class to the rule of its current version."""
TRAIN_STEPS = 1000
EPSILON = 1e-6
"""Amount that diffusers subtracts from a first noise level of 1."""
SIGMA_TOLERANCE = 1e-5
"""Largest difference of two equal noise levels, which are float32."""
TIMESTEP_TOLERANCE = 1e-3


@dataclass(frozen=True)
class Schedule:
    """Noise levels and timesteps of a scheduler."""

    sigmas: tuple[float, ...]
    """Noise level before each step, and the last one, 0."""
    timesteps: tuple[float, ...]
    """Timesteps that the model receives, in [0, 1000]: whole numbers except with Euler."""
    switch: int | None
    """Index of the first step of the low-noise expert; number of steps if it never runs; ``None`` with one expert."""


def shifted(sigma: float, shift: float) -> float:
    """Apply the flow shift to a noise level in [0, 1]. Two shifts in a row equal one shift by their product."""
    return shift * sigma / (1 + (shift - 1) * sigma)


def schedule(
    rule: Rule, steps: int, shift: float, boundary: float | None = None, *, switch_at_boundary: bool = False
) -> Schedule:
    """Compute the schedule of one scheduler.

    Args:
        rule: the scheduler's arithmetic.
        steps: denoising steps, at least 1.
        shift: flow shift.
        boundary: the high-noise expert serves timesteps of at least ``boundary * 1000``; ``None``: one expert.
        switch_at_boundary: the low-noise expert already serves a timestep that equals the boundary (``<=``).
    """
    sigmas = _sigmas(rule, steps, shift)
    times = tuple(sigma * TRAIN_STEPS for sigma in sigmas)
    timesteps = times if rule == "euler" else tuple(float(int(time)) for time in times)
    return Schedule((*sigmas, 0.0), timesteps, switch_of(timesteps, boundary, switch_at_boundary=switch_at_boundary))


def switch_of(timesteps: Sequence[float], boundary: float | None, *, switch_at_boundary: bool = False) -> int | None:
    """Return the index of the first step of the low-noise expert; see `schedule`."""
    if boundary is None:
        return None
    limit = boundary * TRAIN_STEPS
    low = (index for index, time in enumerate(timesteps) if time < limit or (switch_at_boundary and time == limit))
    return next(low, len(timesteps))


def _sigmas(rule: Rule, steps: int, shift: float) -> tuple[float, ...]:
    if rule == "unipc":
        sigmas = [shifted(sigma, shift) for sigma in _spread(1.0, 1 / TRAIN_STEPS, steps + 1)[:-1]]
        return (sigmas[0] - EPSILON if abs(sigmas[0] - 1) < EPSILON else sigmas[0], *sigmas[1:])
    if rule == "unipc_before_0_37":
        levels = [1 - alpha for alpha in _spread(1.0, 1 / TRAIN_STEPS, steps + 1)]
        return tuple(shifted(sigma, shift) for sigma in reversed(levels[1:]))
    if rule == "flow_unipc":
        return tuple(shifted(sigma, shift) for sigma in _spread(_largest(shift), 0.0, steps + 1)[:-1])
    # Euler spreads its timesteps between ends that are already shifted, and shifts all of them again
    least = shifted(1 / TRAIN_STEPS, shift)
    return tuple(shifted(time / TRAIN_STEPS, shift) for time in _spread(TRAIN_STEPS, least * TRAIN_STEPS, steps))


def _largest(shift: float) -> float:
    """Return Wan's largest noise level before the second shift: .999 shifted in float32."""
    level = _single(1 - 1 / TRAIN_STEPS)
    return _single(_single(shift * level) / _single(1 + _single((shift - 1) * level)))


def _single(value: float) -> float:
    """Round to the nearest float32."""
    return float(struct.unpack("<f", struct.pack("<f", value))[0])


def _spread(first: float, last: float, count: int) -> list[float]:
    """Return ``count`` equally spaced values, in the arithmetic of ``numpy.linspace``."""
    if count == 1:
        return [first]
    step = (last - first) / (count - 1)
    return [*(index * step + first for index in range(count - 1)), last]


def unmodelled(config: Mapping[str, Any]) -> str:
    """Return the setting of a scheduler's configuration that no rule here covers, or an empty text."""
    for name in ("use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas", "use_dynamic_shifting"):
        if config.get(name):
            return name
    if config.get("shift_terminal"):
        return "shift_terminal"
    if config.get("final_sigmas_type", "zero") != "zero":
        return "final_sigmas_type"
    return "" if config.get("num_train_timesteps", TRAIN_STEPS) == TRAIN_STEPS else "num_train_timesteps"


def explain(rule: Rule, steps: int, shift: float, sigmas: Sequence[float]) -> str:
    """Return the other schedule that gives these noise levels, as words; empty if none does.

    Args:
        rule: rule of the scheduler that ran.
        steps: denoising steps that the case states.
        shift: flow shift that the case states.
        sigmas: measured noise levels, with or without the last one.
    """
    used_sigmas = tuple(sigmas)[:steps]
    # another number of steps is a finding of its own (`step_count`)
    if len(used_sigmas) != steps:
        return ""
    for other in ("unipc", "unipc_before_0_37", "flow_unipc", "euler"):
        if other != rule and _near(_sigmas(other, steps, shift), used_sigmas):
            names = {
                "unipc": "the noise levels of diffusers 0.37 and later",
                "unipc_before_0_37": "the noise levels of diffusers before 0.37",
                "flow_unipc": "the noise levels of Wan's own scheduler",
                "euler": "the noise levels of the Euler scheduler",
            }
            return names[other]
    fitted = _fitted_shift(rule, steps, used_sigmas)
    if fitted is None:
        return ""
    if abs(fitted - shift * shift) < 1e-2 * shift * shift and abs(shift - 1) > 1e-6:
        return f"the shift of {shift:g} applied twice ({fitted:.4g})"
    return f"a flow shift of {fitted:.4g}"


def _near(times: Sequence[float], other: Sequence[float]) -> bool:
    return all(abs(a - b) <= SIGMA_TOLERANCE for a, b in zip(times, other, strict=True))


def _fitted_shift(rule: Rule, steps: int, used_sigmas: Sequence[float]) -> float | None:
    """Return the shift with which ``rule`` gives these noise levels, by bisection on the middle level, or ``None``."""
    if steps < 2:
        return None
    middle = max(steps // 2, 1)
    low, high = 1e-3, 1e3
    # more halvings than a float has digits, so that the interval ends at one value
    for _ in range(200):
        # geometric mean, because the interval spans six powers of ten
        guess = (low * high) ** 0.5
        low, high = (guess, high) if _sigmas(rule, steps, guess)[middle] < used_sigmas[middle] else (low, guess)
    # shifts are stated with few digits, and the rounded one must still give the noise levels
    fitted = round((low * high) ** 0.5, 3)
    return (
        fitted
        if all(abs(a - b) < 1e-4 for a, b in zip(_sigmas(rule, steps, fitted), used_sigmas, strict=True))
        else None
    )
