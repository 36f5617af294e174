"""Compare probes with their limits: modules that are off, the first diverging point, and the error of velocities."""

from __future__ import annotations

from collections.abc import Iterator

from harness.judge.evidence import Evidence
from harness.judge.held_rule import findings_of
from harness.limits.probes import MODULE, MODULE_BASE, POINT, VELOCITY, VELOCITY_BASE, Measure
from harness.records.base import Json
from harness.records.limits import LimitFile
from harness.records.probe import ModuleEvidence, ProbeEvidence, ProbeStep
from harness.records.verdict import Finding
from harness.text import listed

_SHOWN = 4
SATURATES, VANISHES = 2.0, 28672.0
"""Bounds of the largest representable input over the inputs' root mean square. Normally distributed inputs of a
calibration reach 4 or more, and beyond 2 they clip 5 % of their values; 448 x 64 times is where the root mean square
itself becomes subnormal in E4M3."""
NORM, ACTIVATION = "norm", "activation"
"""Formats that probes give a norm, and an activation with its own projection."""


def judge_probe(evidence: Evidence, *, anchored: bool) -> Iterator[Finding]:
    """Yield the findings of the probes.

    Args:
        evidence: evidence with the probes of this run.
        anchored: whether the golden was made from these weights in this environment. If not, only the base anchor
            gates: another good checkpoint is as near to the base, but differs from the golden's.
    """
    probe, golden = evidence.probe, evidence.golden
    if probe is None or golden is None:
        return
    limits = golden.limits
    if limits is None or golden.digest not in limits.goldens:
        return  # `limits_problem` reports it
    needed = [MODULE_BASE, VELOCITY_BASE, *((MODULE, VELOCITY, POINT) if anchored and probe.golden_anchor else ())]
    absent = [measure.name for measure in needed if limits.get(measure.name) is None]
    if absent:
        message = f"probes ran, and no limit was measured for {', '.join(absent)}"
        yield Finding(stage="limits", code="limits_incomplete", gating=True, message=message)
    yield from _structure(probe, anchored)
    if anchored and probe.not_passed:
        yield _not_passed(probe, limits)
    if anchored and probe.lowered:
        message = f"another precision than the golden's: {listed(probe.lowered, _SHOWN, '; ')}"
        yield _finding("precision_differs", message, {"lowered": list(probe.lowered)})
    # needs no golden: a scale that does not fit the base's inputs is wrong beside any of them
    yield from _input_ranges(probe)
    yield from _modules(probe, limits, MODULE in needed)
    if anchored:
        # after the modules: a Linear that answers otherwise says more than the list of tensors that it holds
        yield from findings_of("probe", probe.held)
    if POINT in needed:
        yield from _points(probe, limits)
    yield from _velocity(probe.steps, limits, VELOCITY_BASE, "base")
    if VELOCITY in needed:
        yield from _velocity(probe.steps, limits, VELOCITY, "golden")


def _input_ranges(probe: ProbeEvidence) -> Iterator[Finding]:
    """Yield a finding if static input scales do not fit the inputs that the base's Linears get. Needs no golden."""
    off = {
        f"{expert}/{name}": ratio
        for expert, ranges in probe.input_ranges.items()
        for name, ratio in ranges.items()
        if not SATURATES <= ratio <= VANISHES
    }
    if not off:
        return
    worst = min(off, key=lambda name: min(off[name] / SATURATES, VANISHES / max(off[name], 1e-30)))
    small = off[worst] < SATURATES
    effect = "most values are clipped" if small else "most values are rounded to zero"
    names = sorted(off)
    message = (
        f"{len(names)} input scales (input_scale) do not fit the inputs that the base's Linears get: "
        f"{listed(names, _SHOWN)}; that of {worst} represents values up to {off[worst]:.3g} times their root "
        f"mean square, so that {effect}"
    )
    data: dict[str, Json] = {"modules": list(names[:50]), "worst": worst, "range": off[worst]}
    yield _finding("input_scale_off", message, data)


def _structure(probe: ProbeEvidence, anchored: bool) -> Iterator[Finding]:
    """Yield a finding per kind of thing that one side lacks."""
    rows: tuple[tuple[str, str, tuple[str, ...]], ...] = (
        ("modules", "modules of the recording are not here", probe.missing),
        ("steps", "probe steps got no answer", probe.missing_steps),
        ("places", "places could not be compared with the golden", probe.unanchored if anchored else ()),
    )
    for kind, description, names in rows:
        if names:
            message = f"{len(names)} {description} ({listed(names, _SHOWN)})"
            yield _finding("probe_structure", message, {kind: list(names)}, stops=True)
    if not probe.steps and not probe.missing_steps:
        yield _finding("probe_structure", "the recording has no step, so that nothing was compared", {}, stops=True)


def _not_passed(probe: ProbeEvidence, limits: LimitFile) -> Finding:
    """Return the finding of points that the run did not pass.

    It is a note if every velocity is the golden's within its limit: the places lie before the velocity, so the runtime
    computed them in another way, or kept them from a call with the same input. Otherwise it is a fault.
    """
    errors = [step.golden_error for step in probe.steps]
    same = bool(errors) and all(error is not None and not _above(error, limits, VELOCITY) for error in errors)
    count, names = len(probe.not_passed), listed(probe.not_passed, _SHOWN)
    if same and limits.get(VELOCITY.name) is not None:
        message = f"{count} places were not passed, and the velocities are the golden's: computed otherwise ({names})"
        return Finding(stage="probe", code="probe_structure", gating=False, message=message)
    message = f"{count} places could not be compared with the golden ({names})"
    return _finding("probe_structure", message, {"places": list(probe.not_passed)}, stops=True)


def modules_off(probe: ProbeEvidence, limits: LimitFile, anchored: bool) -> tuple[ModuleEvidence, ...]:
    """Return the Linears and norms that, fed alone, exceed a limit: of the base, and if ``anchored`` of the golden."""
    return tuple(
        module
        for module in probe.modules
        if (anchored and _above(module.golden_error, limits, MODULE)) or _above(module.base_error, limits, MODULE_BASE)
    )


def _modules(probe: ProbeEvidence, limits: LimitFile, anchored: bool) -> Iterator[Finding]:
    every = modules_off(probe, limits, anchored)
    norms = [module for module in every if module.format == NORM]
    if norms:
        names = [f"{module.expert}/{module.module}" for module in norms]
        message = f"fed alone, {len(norms)} norms answer otherwise than they did: {', '.join(names[:_SHOWN])}"
        yield _finding("norm_off", message, {"modules": list(names)}, stops=True)
    linears = {f"{module.expert}/{module.module}" for module in every if module.format not in (NORM, ACTIVATION)}
    # with a wrong projection the function behind it answers otherwise too: only the others are off by themselves
    acting = [module for module in every if module.format == ACTIVATION]
    alone = [
        name for activation in acting if f"{(name := f'{activation.expert}/{activation.module}')}.proj" not in linears
    ]
    if alone:
        message = (
            f"fed alone, {len(alone)} activations answer otherwise than they did, and their projections do not: "
            f"{', '.join(alone[:_SHOWN])}"
        )
        yield _finding("activation_off", message, {"modules": list(alone)}, stops=True)
    off = [module for module in every if module.format not in (NORM, ACTIVATION)]
    if not off:
        return
    # the golden before the base: its own rounding is in it, so the error is the fault alone
    worst = max(off, key=lambda module: module.golden_error or module.base_error or 0.0)
    names = [f"{module.expert}/{module.module}" for module in off]
    against = "golden" if anchored and worst.golden_error is not None else "base"
    error = worst.golden_error if against == "golden" else worst.base_error
    total = sum(module.format not in (NORM, ACTIVATION) for module in probe.modules)
    count = f"{len(off)} of {total} Linears"
    message = f"fed alone, {count} are off: {listed(names, _SHOWN)}; the worst by {error:.3g} of the {against}"
    yield _finding("module_off", message, {"modules": list(names), "worst": names[off.index(worst)]}, stops=True)


def _points(probe: ProbeEvidence, limits: LimitFile) -> Iterator[Finding]:
    for step in probe.steps:
        # only the first: every later point gets a wrong input, so its error names no place
        first = next((point for point in step.points if _above(point.golden_error, limits, POINT)), None)
        if first is not None:
            message = (
                f"{step.expert} first diverges at {first.name} ({first.kind}): {first.golden_error:.3g} of the golden, "
                f"on the same input at timestep {step.timestep:g}"
            )
            data: dict[str, Json] = {
                "expert": step.expert,
                "point": first.name,
                "kind": first.kind,
                "error": first.golden_error,
                "timestep": step.timestep,
            }
            yield _finding("first_divergence", message, data)


def _velocity(steps: tuple[ProbeStep, ...], limits: LimitFile, measure: Measure, anchor: str) -> Iterator[Finding]:
    limit = limits.get(measure.name)
    if limit is None or limit.limit is None:
        return
    for expert in dict.fromkeys(step.expert for step in steps):
        of_expert = [step for step in steps if step.expert == expert]
        worst = max(of_expert, key=lambda step: getattr(step, f"{anchor}_error") or 0.0)
        error, cosine = getattr(worst, f"{anchor}_error"), getattr(worst, f"{anchor}_cosine")
        if error is None or limit.admits(error):
            continue
        message = (
            f"on recorded input at timestep {worst.timestep:g} the velocity of {expert} is {error:.3g} off "
            f"the {anchor}'s (cosine {cosine:.4f}), above its limit of {limit.limit:.3g}"
        )
        data: dict[str, Json] = {"expert": expert, "timestep": worst.timestep, "error": error, "limit": limit.limit}
        yield _finding(f"{measure.name}_above_limit", message, data, stops=anchor == "base")


def _above(value: float | None, limits: LimitFile, measure: Measure) -> bool:
    limit = limits.get(measure.name)
    return value is not None and limit is not None and not limit.admits(value)


def _finding(code: str, message: str, data: dict[str, Json], *, stops: bool = False) -> Finding:
    return Finding(stage="probe", code=code, gating=True, message=message, data={**data, "stops": stops})
