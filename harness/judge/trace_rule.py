"""Did the generation take the same way? Exact facts of the trace against the golden's, before any pixel."""

from __future__ import annotations

from collections.abc import Iterator

from harness.judge.evidence import Evidence
from harness.records.base import Json
from harness.records.generation import Step, Trace
from harness.records.verdict import Finding

TIMESTEP_TOLERANCE = 1e-3
"""Timesteps lie in [0, 1000] and are computed in float32 or float64 by schedulers: equal means within this."""


def judge_trace(evidence: Evidence) -> Iterator[Finding]:
    """Findings where timestep, expert, guidance, scheduler or VAE settings differ from the golden's trace."""
    golden = evidence.golden
    if evidence.generation is None or golden is None or golden.trace is None:
        return
    mine, reference = evidence.generation.trace, golden.trace
    yield from _steps(mine, reference)
    yield from _settings("scheduler", mine.scheduler, reference.scheduler)
    yield from _settings("vae", mine.vae, reference.vae)
    if mine.initial_latents_sha256 != reference.initial_latents_sha256:
        yield _finding(
            "initial_latents",
            "the initial latents are other bytes than the golden's, under the same seed",
            {"golden": reference.initial_latents_sha256, "run": mine.initial_latents_sha256},
        )


def _steps(mine: Trace, reference: Trace) -> Iterator[Finding]:
    if len(mine.steps) != len(reference.steps):
        message = f"{len(mine.steps)} denoising steps ran, the golden has {len(reference.steps)}"
        yield _finding("step_count", message, {"golden": len(reference.steps), "run": len(mine.steps)})
        return
    pairs = list(zip(mine.steps, reference.steps, strict=True))
    for code, name in (("timestep", "timestep"), ("expert", "expert"), ("guidance", "guidance_scale")):
        first = next((pair for pair in pairs if not _same(*pair, name)), None)
        if first is not None:
            ours, theirs = getattr(first[0], name), getattr(first[1], name)
            message = f"from denoising step {first[0].index} on, {name} is {ours} where the golden has {theirs}"
            yield _finding(code, message, {"step": first[0].index, "golden": theirs, "run": ours})


def _same(mine: Step, reference: Step, name: str) -> bool:
    ours, theirs = getattr(mine, name), getattr(reference, name)
    if isinstance(ours, float):
        return bool(abs(ours - theirs) <= TIMESTEP_TOLERANCE)
    return bool(ours == theirs)


def _settings(what: str, mine: dict[str, Json], reference: dict[str, Json]) -> Iterator[Finding]:
    names = sorted(
        name
        for name in mine.keys() | reference.keys()
        if not name.startswith("_") and mine.get(name) != reference.get(name)
    )
    if names:
        rows = ", ".join(f"{name} {reference.get(name)!r} -> {mine.get(name)!r}" for name in names[:5])
        yield _finding(
            f"{what}_settings",
            f"the {what} is set otherwise than the golden's: {rows}",
            {name: {"golden": reference.get(name), "run": mine.get(name)} for name in names},
        )


def _finding(code: str, message: str, data: dict[str, Json]) -> Finding:
    return Finding(stage="trace", code=code, gating=True, message=message, data=data)
