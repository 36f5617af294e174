"""Probes of a case: where their inputs come from, and running them on an engine."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from harness.definitions.case import Case, Loader, Quantization
from harness.engine.owner import EngineOwner
from harness.engine.resolve import resolve_cached, resolve_checkpoint
from harness.errors import QuantgateError
from harness.goldens.golden import Golden, copy_private
from harness.judge.observation import hold_against_nearest, read_observation
from harness.records.base import Json
from harness.records.probe import PROBES, SKETCHES, ProbeEvidence
from harness.records.run_folder import PROBES_FILE, SKETCHES_FILE
from harness.session.context import SessionContext
from harness.session.origin import Origins

PROBING = frozenset({"diffusers", "sglang"})
"""Backends whose engines know the methods ``probe`` and ``record_probes``."""


@dataclass(frozen=True)
class ProbeSource:
    """What a run's probes are fed with, and held against."""

    inputs: Path
    """Recording of the base."""
    sketches: tuple[Path, ...] = ()
    """Observations of the golden's own configuration, of a bistable case one a golden."""


def probe_source(context: SessionContext, case: Case, goldens: Sequence[Golden]) -> ProbeSource | None:
    """The recording for a case: one that was just made (regeneration), or the golden's; ``None`` where there is none.

    Raises:
        GoldenError: the golden's part is damaged.
    """
    if case.id in context.probe_inputs:
        return ProbeSource(context.probe_inputs[case.id])
    if not goldens or PROBES not in goldens[0].manifest.parts:
        return None
    return ProbeSource(goldens[0].open_part(PROBES), tuple(sketches_of(goldens)))


def sketches_of(goldens: Sequence[Golden]) -> list[Path]:
    """What the goldens' configuration made of the first one's recording; another recording cannot be compared.

    Raises:
        GoldenError: a part is damaged.
    """
    wanted = goldens[0].manifest.parts.get(PROBES)
    return [
        golden.open_part(SKETCHES)
        for golden in goldens
        if wanted is not None
        and SKETCHES in golden.manifest.parts
        and (own := golden.manifest.parts.get(PROBES)) is not None
        and own.sha256 == wanted.sha256
    ]


def run_probes(engine: EngineOwner, case: Case, source: ProbeSource, folder: Path) -> ProbeEvidence:
    """Feed the recording into the engine. Leaves recording and observation in ``folder``, as a golden's parts to be.

    Raises:
        QuantgateError: the engine died, or a file is no recording.
    """
    inputs = place(source.inputs, folder / PROBES_FILE)
    out = folder / SKETCHES_FILE
    engine.call("probe", {"inputs": str(inputs.resolve()), "out": str(out.resolve())}, case.timeouts.generate)
    goldens = [read_observation(path) for path in source.sketches]
    return hold_against_nearest(read_observation(out), read_observation(inputs), goldens)


def record_inputs(get_engine: Callable[[Case], EngineOwner], case: Case, folder: Path, origins: Origins) -> Path | None:
    """Record the inputs of ``case`` from its base; a recording below ``folder`` of the same origin is kept.

    Returns:
        The recording, or ``None`` where the case has no base or its backend cannot be looked into.

    Raises:
        QuantgateError: the base cannot be resolved or does not run.
    """
    base = base_case(case)
    if base is None:
        return None
    out = folder / origins.of_recording(base).digest()[:16] / PROBES_FILE
    if not out.exists():
        out.parent.mkdir(parents=True, exist_ok=True)
        part = out.with_name(f"part-{out.name}")
        params: dict[str, Json] = {"case": base.model_dump(mode="json"), "out": str(part.resolve())}
        get_engine(base).call("record_probes", params, case.timeouts.generate)
        part.replace(out)
    return out


def base_case(case: Case) -> Case | None:
    """The same request of the BF16 base: no overrides, nothing quantized."""
    if case.base is None or (case.backend not in PROBING and ":" not in case.backend):
        return None
    update = {
        "model": case.base,
        "transformer": None,
        "transformer_2": None,
        "quantization": Quantization(),
        "loader": Loader(),
    }
    return case.model_copy(update=update)


def base_on_disk(case: Case, root: Path) -> Path | None:
    """Folder of the base where it lies on this machine; nothing is fetched."""
    if case.base is None:
        return None
    try:
        return resolve_checkpoint(case.base, root) if case.base.is_local else resolve_cached(case.base)
    except (QuantgateError, FileNotFoundError):
        return None


def place(source: Path, target: Path) -> Path:
    """Copy a file, in place of an older one. Never a link: the engine writes beside its own inputs."""
    if target.exists() and source.samefile(target) and target.stat().st_nlink == 1:
        return target
    return copy_private(source, target)
