"""Probes of a case: select their inputs, and run them on an engine."""

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
"""Backends whose engines implement the methods ``probe`` and ``record_probes``."""


@dataclass(frozen=True)
class ProbeSource:
    """Inputs of a run's probes, and the sketches that they are compared with."""

    inputs: Path
    """Recording of the base."""
    sketches: tuple[Path, ...] = ()
    """Sketches of the golden's own configuration; of a bistable case one per golden."""


def probe_source(context: SessionContext, case: Case, goldens: Sequence[Golden]) -> ProbeSource | None:
    """Return the recording for a case: made for this session (regeneration), or the golden's; ``None`` without any.

    Raises:
        GoldenError: the golden's part is damaged.
    """
    # a recording of this session comes first: regeneration measures limits for it
    if case.id in context.probe_inputs:
        return ProbeSource(context.probe_inputs[case.id])
    # the newest golden decides: sketches are outputs for one recording, and only one can be fed
    if not goldens or PROBES not in goldens[0].manifest.parts:
        return None
    return ProbeSource(goldens[0].open_part(PROBES), tuple(sketches_of(goldens)))


def sketches_of(goldens: Sequence[Golden]) -> list[Path]:
    """Return the goldens' sketches of the first golden's recording. Sketches of another recording are not comparable.

    Raises:
        GoldenError: a part is damaged.
    """
    wanted = goldens[0].manifest.parts.get(PROBES)
    return [
        golden.open_part(SKETCHES)
        for golden in goldens
        if wanted is not None
        and SKETCHES in golden.manifest.parts
        and (part := golden.manifest.parts.get(PROBES)) is not None
        and part.sha256 == wanted.sha256
    ]


def run_probes(engine: EngineOwner, case: Case, source: ProbeSource, folder: Path) -> ProbeEvidence:
    """Feed the recording into the engine. Leave recording and sketches in ``folder``, as parts of a later golden.

    Raises:
        QuantgateError: the engine died, or a file is no recording.
    """
    inputs = place(source.inputs, folder / PROBES_FILE)
    out = folder / SKETCHES_FILE
    engine.call("probe", {"inputs": str(inputs.resolve()), "out": str(out.resolve())}, case.timeouts.generate)
    goldens = [read_observation(path) for path in source.sketches]
    return hold_against_nearest(read_observation(out), read_observation(inputs), goldens)


def record_inputs(get_engine: Callable[[Case], EngineOwner], case: Case, folder: Path, origins: Origins) -> Path | None:
    """Record the inputs of ``case`` from its base. A recording of the same origin below ``folder`` is reused.

    Returns:
        The recording, or ``None`` if the case has no base or its backend has no probes.

    Raises:
        QuantgateError: the base cannot be resolved or does not run.
    """
    base = base_case(case)
    if base is None:
        return None
    out = folder / origins.of_recording(base).digest()[:16] / PROBES_FILE
    if not out.exists():
        out.parent.mkdir(parents=True, exist_ok=True)
        # write under another name first: an interrupted recording must not look complete
        part = out.with_name(f"part-{out.name}")
        params: dict[str, Json] = {"case": base.model_dump(mode="json"), "out": str(part.resolve())}
        get_engine(base).call("record_probes", params, case.timeouts.generate)
        part.replace(out)
    return out


def base_case(case: Case) -> Case | None:
    """Return the same request with the BF16 base: no overrides, nothing quantized. ``None`` without base or probes."""
    # a backend named `module:Class` (Python callers only) may offer the probes
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
    """Return the folder of the base if it is on this machine, else ``None``. Downloads nothing."""
    if case.base is None:
        return None
    try:
        return resolve_checkpoint(case.base, root) if case.base.is_local else resolve_cached(case.base)
    except (QuantgateError, FileNotFoundError):
        return None


def place(source: Path, target: Path) -> Path:
    """Copy a file over an older one. Never link: the engine writes beside its own inputs."""
    # nlink 1: the target is the source itself; a hard link to it has more names, and must become a copy
    if target.exists() and source.samefile(target) and target.stat().st_nlink == 1:
        return target
    return copy_private(source, target)
