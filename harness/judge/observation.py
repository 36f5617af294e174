"""Observations of probes read from disk, and held against the two anchors. numpy only."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from harness.errors import GoldenError
from harness.judge.precision import lowered
from harness.limits.probes import relative_error
from harness.records.generation import Expert
from harness.records.probe import (
    BROKEN,
    METADATA_KEY,
    ModuleEvidence,
    ObservationIndex,
    PointEvidence,
    ProbeEvidence,
    ProbeStep,
)

F32 = NDArray[np.float32]


@dataclass(frozen=True)
class Observation:
    """One observation file."""

    index: ObservationIndex
    tensors: dict[str, F32]

    def velocity(self, probe: int) -> F32 | None:
        """Predicted velocity [C, T, H, W] of a probe."""
        return self.tensors.get(f"velocity.{probe}")

    def points(self, probe: int) -> dict[str, F32]:
        """Sketch by point. A point that was passed twice keeps its first sketch."""
        rows = self.tensors.get(f"points.{probe}")
        found: dict[str, F32] = {}
        if rows is not None:
            for point, row in zip(self.index.points[probe], rows, strict=True):
                found.setdefault(point.name, row)
        return found

    def modules(self, expert: Expert) -> dict[str, F32]:
        """Sketch of the answer of every Linear that was fed alone."""
        rows = self.tensors.get(f"modules.{expert}")
        return {} if rows is None else dict(zip(self.index.modules[expert], rows, strict=True))


def read_observation(path: Path) -> Observation:
    """Read an observation or a recording; the inputs of a recording are left on disk.

    Raises:
        GoldenError: it is none.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy") as file:
            index = ObservationIndex.model_validate_json(json_of(file.metadata()))
            names = [name for name in file.keys() if not name.startswith(("latents.", "text.", "timesteps."))]  # noqa: SIM118
            tensors = {name: cast("F32", file.get_tensor(name)) for name in names}
    except (OSError, SafetensorError, ValidationError, KeyError, ValueError) as error:
        raise GoldenError(
            f"this is no observation of probes: {error}",
            where=str(path),
            remedy="quantgate regenerate, which records it",
        ) from error
    return Observation(index, tensors)


def json_of(metadata: dict[str, str] | None) -> str:
    """The index in a safetensors header.

    Raises:
        KeyError: there is none.
    """
    text = (metadata or {})[METADATA_KEY]
    json.loads(text)
    return text


def cosine(run: NDArray[Any], anchor: NDArray[Any]) -> float:
    """Cosine of the angle, in [-1, 1]; 0 where it has none."""
    a, b = run.astype(np.float64).reshape(-1), anchor.astype(np.float64).reshape(-1)
    if a.shape != b.shape or not (np.isfinite(a).all() and np.isfinite(b).all()):
        return 0.0
    size = float(np.linalg.norm(a) * np.linalg.norm(b))
    return float(np.clip(a @ b / size, -1.0, 1.0)) if size else 0.0


def gain(run: F32, anchor: F32) -> float | None:
    """Least-squares g of ``run = g * anchor``; ``None`` where there is none."""
    a, b = run.astype(np.float64), anchor.astype(np.float64)
    size = float(b @ b)
    if not np.isfinite(a).all() or not np.isfinite(size) or size == 0.0:
        return None
    return float(np.clip(a @ b / size, -BROKEN, BROKEN))


def hold_against(run: Observation, base: Observation, golden: Observation | None) -> ProbeEvidence:
    """Compare what a run saw with the base's recording and, where there is one, with the golden's observation."""
    experts = tuple(run.index.modules) or tuple(base.index.modules)
    missing = sorted(
        f"{expert}/{name}"
        for expert in base.index.modules
        for name in base.modules(expert).keys() - run.modules(expert)
    )
    numbers = range(len(base.index.probes))
    return ProbeEvidence(
        steps=tuple(step for number in numbers if (step := _step(number, run, base, golden)) is not None),
        modules=tuple(
            _module(expert, name, run, base, golden)
            for expert in experts
            for name in run.modules(expert)
            if name in base.modules(expert)
        ),
        golden_anchor=golden is not None,
        missing=tuple(missing),
        missing_steps=tuple(_named(number, base) for number in numbers if _unanswered(number, run, base, golden)),
        lowered=() if golden is None else tuple(_lowered(run, golden)),
        unanchored=() if golden is None else tuple(_unanchored(run, base, golden)),
        seconds=run.index.seconds,
    )


def hold_against_nearest(run: Observation, base: Observation, goldens: Sequence[Observation]) -> ProbeEvidence:
    """As :func:`hold_against`, with the golden that the run is nearest to: a bistable case has several."""
    found = [hold_against(run, base, golden) for golden in goldens or (None,)]
    return found[0] if len(found) == 1 else min(found, key=_off)


def _off(probe: ProbeEvidence) -> float:
    errors = [step.golden_error for step in probe.steps] + [module.golden_error for module in probe.modules]
    return max((error for error in errors if error is not None), default=BROKEN)


def _named(number: int, base: Observation) -> str:
    probe = base.index.probes[number]
    return f"{probe.expert} at step {probe.step}"


def _unanswered(number: int, run: Observation, base: Observation, golden: Observation | None) -> bool:
    others = [base, *([golden] if golden is not None else [])]
    return run.velocity(number) is None and any(one.velocity(number) is not None for one in others)


def _unanchored(run: Observation, base: Observation, golden: Observation) -> Iterator[str]:
    """What golden and run cannot be compared in, where the run answered at all.

    What the run has and the golden has not, but for a whole step, is no fault: later versions look at more places.
    """
    for number, probe in enumerate(base.index.probes):
        if run.velocity(number) is None:
            continue
        if golden.velocity(number) is None:
            yield _named(number, base)
            continue
        parts = run.index.in_parts.get(probe.expert, ())
        for name in sorted(golden.points(number).keys() - run.points(number).keys() - set(parts)):
            yield f"{probe.expert}/{name}"
    for expert in golden.index.modules:
        for name in sorted(golden.modules(expert).keys() - run.modules(expert).keys()):
            yield f"{expert}/{name} alone"


def _lowered(run: Observation, golden: Observation) -> Iterator[str]:
    for expert in sorted(run.index.dtypes):
        for sentence in lowered(golden.index.dtypes.get(expert, {}), run.index.dtypes[expert]):
            yield f"{expert}: {sentence}"


def _step(number: int, run: Observation, base: Observation, golden: Observation | None) -> ProbeStep | None:
    probe, mine, anchor = base.index.probes[number], run.velocity(number), base.velocity(number)
    if mine is None or anchor is None:
        return None
    same = None if golden is None else golden.velocity(number)
    theirs, wanted = base.points(number), {} if golden is None else golden.points(number)
    ran = run.points(number)
    kinds = {point.name: point.kind for point in run.index.points[number]}
    return ProbeStep(
        expert=probe.expert,
        step=probe.step,
        timestep=probe.timestep,
        base_error=relative_error(mine, anchor),
        base_cosine=cosine(mine, anchor),
        golden_error=None if same is None else relative_error(mine, same),
        golden_cosine=None if same is None else cosine(mine, same),
        points=tuple(
            PointEvidence(
                name=name,
                kind=kinds[name],
                base_error=relative_error(row, theirs[name]) if name in theirs else None,
                golden_error=relative_error(row, wanted[name]) if name in wanted else None,
            )
            for name, row in ran.items()
        ),
    )


def _module(
    expert: Expert, name: str, run: Observation, base: Observation, golden: Observation | None
) -> ModuleEvidence:
    mine, same = run.modules(expert)[name], None if golden is None else golden.modules(expert).get(name)
    return ModuleEvidence(
        expert=expert,
        module=name,
        format=run.index.formats.get(expert, {}).get(name, ""),
        base_error=relative_error(mine, base.modules(expert)[name]),
        golden_error=None if same is None else relative_error(mine, same),
        golden_gain=None if same is None else gain(mine, same),
    )
