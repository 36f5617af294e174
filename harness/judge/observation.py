"""Read observations of probes from disk, and compare them with the two anchors (base and golden). numpy only."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from harness.errors import GoldenError
from harness.judge.held_rule import differing
from harness.judge.precision import lowered
from harness.limits.probes import relative_error
from harness.reading import check_safetensors, parse_json, reason, sentence
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
        """Return the predicted velocity [C, T, H, W] of a probe; ``None`` if the file has none."""
        return self.tensors.get(f"velocity.{probe}")

    def points(self, probe: int) -> dict[str, F32]:
        """Return the sketch per point of a probe. A point that was passed twice keeps its first sketch."""
        rows = self.tensors.get(f"points.{probe}")
        by_name: dict[str, F32] = {}
        if rows is not None:
            for point, row in zip(self.index.points[probe], rows, strict=True):
                by_name.setdefault(point.name, row)
        return by_name

    def modules(self, expert: Expert) -> dict[str, F32]:
        """Return the sketch of the output per Linear or norm that was fed alone."""
        rows = self.tensors.get(f"modules.{expert}")
        return {} if rows is None else dict(zip(self.index.modules[expert], rows, strict=True))


def read_observation(path: Path) -> Observation:
    """Read an observation or a recording; the inputs of a recording stay on disk.

    Raises:
        GoldenError: the file cannot be read, or it is neither.
    """
    from safetensors import SafetensorError, safe_open

    try:
        check_safetensors(path)
        with safe_open(path, framework="numpy") as file:
            index = ObservationIndex.model_validate_json(json_of(file.metadata()))
            names = [name for name in file.keys() if not name.startswith(("latents.", "text.", "timesteps."))]  # noqa: SIM118
            tensors = {name: cast("F32", file.get_tensor(name)) for name in names}
    except (OSError, SafetensorError, ValidationError, KeyError, ValueError) as error:
        why = sentence(error) if isinstance(error, ValidationError) else reason(error)
        raise GoldenError(
            f"this is no observation of probes: {why}",
            place=str(path),
            remedy="quantgate regenerate, which records it",
        ) from error
    return Observation(index, tensors)


def json_of(metadata: dict[str, str] | None) -> str:
    """Return the index, as JSON text, from the metadata of a safetensors header.

    Raises:
        KeyError: the metadata has no index.
        ValueError: the index is no JSON.
    """
    text = (metadata or {})[METADATA_KEY]
    parse_json(text, "the index of the probes")
    return text


def cosine(run: NDArray[Any], anchor: NDArray[Any]) -> float:
    """Return the cosine of the angle, in [-1, 1]; 0 if shapes differ, a value is not finite or a side is all zero."""
    run, anchor = run.astype(np.float64).reshape(-1), anchor.astype(np.float64).reshape(-1)
    if run.shape != anchor.shape or not (np.isfinite(run).all() and np.isfinite(anchor).all()):
        return 0.0
    size = float(np.linalg.norm(run) * np.linalg.norm(anchor))
    return float(np.clip(run @ anchor / size, -1.0, 1.0)) if size else 0.0


def gain(run: F32, anchor: F32) -> float | None:
    """Return the least-squares g of ``run = g * anchor``; ``None`` if a value is not finite or the anchor is zero."""
    a, b = run.astype(np.float64), anchor.astype(np.float64)
    size = float(b @ b)
    if not np.isfinite(a).all() or not np.isfinite(size) or size == 0.0:
        return None
    return float(np.clip(a @ b / size, -BROKEN, BROKEN))


def hold_against(run: Observation, base: Observation, golden: Observation | None) -> ProbeEvidence:
    """Compare a run's observation with the base's recording and, if there is one, with the golden's observation."""
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
        held={} if golden is None else differing(run.index.held, golden.index.held),
        input_ranges=run.index.input_ranges,
        unanchored=() if golden is None else tuple(dict.fromkeys(_unanchored(run, base, golden))),
        not_passed=() if golden is None else tuple(dict.fromkeys(_not_passed(run, base, golden))),
        seconds=run.index.seconds,
    )


def hold_against_nearest(run: Observation, base: Observation, goldens: Sequence[Observation]) -> ProbeEvidence:
    """Compare like :func:`hold_against`, with the golden nearest to the run: a bistable case has several."""
    evidences = [hold_against(run, base, golden) for golden in goldens or (None,)]
    return evidences[0] if len(evidences) == 1 else min(evidences, key=_off)


def _off(probe: ProbeEvidence) -> float:
    errors = [step.golden_error for step in probe.steps] + [module.golden_error for module in probe.modules]
    return max((error for error in errors if error is not None), default=BROKEN)


def _named(number: int, base: Observation) -> str:
    probe = base.index.probes[number]
    return f"{probe.expert} at step {probe.step}"


def _unanswered(number: int, run: Observation, base: Observation, golden: Observation | None) -> bool:
    others = [base, *([golden] if golden is not None else [])]
    return run.velocity(number) is None and any(other.velocity(number) is not None for other in others)


def _unanchored(run: Observation, base: Observation, golden: Observation) -> Iterator[str]:
    """Yield every probe and module that cannot be compared with the golden. Probes without output are skipped.

    A module that only the run has is no fault, because later versions record more of them. A whole step that only the
    run has is one.
    """
    for number in range(len(base.index.probes)):
        if run.velocity(number) is not None and golden.velocity(number) is None:
            yield _named(number, base)
    for expert in golden.index.modules:
        for name in sorted(golden.modules(expert).keys() - run.modules(expert).keys()):
            yield f"{expert}/{name} alone"


def _not_passed(run: Observation, base: Observation, golden: Observation) -> Iterator[str]:
    """Yield every point of the golden that the run did not pass, of the probes that both answered."""
    for number, probe in enumerate(base.index.probes):
        if run.velocity(number) is None or golden.velocity(number) is None:
            continue
        parts = run.index.in_parts.get(probe.expert, ())
        for name in sorted(golden.points(number).keys() - run.points(number).keys() - set(parts)):
            yield f"{probe.expert}/{name}"


def _lowered(run: Observation, golden: Observation) -> Iterator[str]:
    for expert in sorted(run.index.dtypes):
        for line in lowered(golden.index.dtypes.get(expert, {}), run.index.dtypes[expert]):
            yield f"{expert}: {line}"


def _step(number: int, run: Observation, base: Observation, golden: Observation | None) -> ProbeStep | None:
    probe, velocity, anchor = base.index.probes[number], run.velocity(number), base.velocity(number)
    if velocity is None or anchor is None:
        return None
    same = None if golden is None else golden.velocity(number)
    base_points, golden_points = base.points(number), {} if golden is None else golden.points(number)
    ran = run.points(number)
    kinds = {point.name: point.kind for point in run.index.points[number]}
    return ProbeStep(
        expert=probe.expert,
        step=probe.step,
        timestep=probe.timestep,
        base_error=relative_error(velocity, anchor),
        base_cosine=cosine(velocity, anchor),
        golden_error=None if same is None else relative_error(velocity, same),
        golden_cosine=None if same is None else cosine(velocity, same),
        points=tuple(
            PointEvidence(
                name=name,
                kind=kinds[name],
                base_error=relative_error(row, base_points[name]) if name in base_points else None,
                golden_error=relative_error(row, golden_points[name]) if name in golden_points else None,
            )
            for name, row in ran.items()
        ),
    )


def _module(
    expert: Expert, name: str, run: Observation, base: Observation, golden: Observation | None
) -> ModuleEvidence:
    output, same = run.modules(expert)[name], None if golden is None else golden.modules(expert).get(name)
    return ModuleEvidence(
        expert=expert,
        module=name,
        format=run.index.formats.get(expert, {}).get(name, ""),
        base_error=relative_error(output, base.modules(expert)[name]),
        golden_error=None if same is None else relative_error(output, same),
        golden_gain=None if same is None else gain(output, same),
    )
