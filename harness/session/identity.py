"""The identity of a run: four classes with one rule each (see ``harness.records.identity``), and the subject."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from fnmatch import fnmatchcase

from harness.definitions.case import Case
from harness.definitions.request import flat, request_of
from harness.records.base import Json
from harness.records.generation import Receipts
from harness.records.identity import FILE, PROGRAM, Device, Fingerprint, Identity
from harness.session.perturbation import NONE, Perturbation


def identity_of(
    case: Case,
    device: Device,
    weights: Mapping[str, str],
    *,
    files: Mapping[str, str] | None = None,
    harmless_env: Iterable[str] = (),
    fingerprint: Fingerprint | None = None,
    receipts: Receipts | None = None,
    perturbation: Perturbation = NONE,
    programs: Mapping[str, str] | None = None,
) -> Identity:
    """Assemble the identity of a run from the facts known so far.

    Args:
        case: the resolved case.
        device: the device that it runs on.
        weights: content digest of each component that the engine loads (``harness.session.contents``).
        files: sha256 of each file of the weights, by ``component/file``.
        harmless_env: names or globs of environment variables that change no pixel, from the runner's profile. They
            are listed under the subject.
        fingerprint: versions that the engine reports, if it was started.
        receipts: computations that the modules report, if they ran.
        perturbation: a healthy change that was forced on the engine.
        programs: sha256 of each file of the case's ``command`` (``harness.session.programs``).
    """
    hardware: dict[str, Json] = {"device": device.name}
    if device.compute_capability is not None:
        hardware["compute_capability"] = device.compute_capability
    rows: dict[str, Json] = dict(sorted(weights.items()))
    rows.update(flat("quantization", case.quantization.model_dump(mode="json")))
    # values of passed-through variables may be secrets, so only their names are recorded
    env: dict[str, Json] = {**dict(sorted(case.env.items())), **dict.fromkeys(sorted(case.pass_env), "(passed)")}
    globs = tuple(harmless_env)
    shown: dict[str, Json] = {f"env.{name}": value for name, value in env.items() if is_harmless(name, globs)}
    shown.update({f"{FILE}{file}": digest for file, digest in sorted((files or {}).items())})
    shown.update({f"{PROGRAM}{file}": digest for file, digest in sorted((programs or {}).items())})
    return Identity(
        request=request_of(case),
        hardware=hardware,
        weights=rows,
        env={name: value for name, value in env.items() if not is_harmless(name, globs)},
        subject={**_subject(case, fingerprint, receipts, perturbation), **shown},
    )


def is_harmless(name: str, globs: Iterable[str]) -> bool:
    """Return whether the runner's profile lists an environment variable as harmless, so that it changes no pixel."""
    return any(fnmatchcase(name, glob) for glob in globs)


def _subject(
    case: Case,
    fingerprint: Fingerprint | None,
    receipts: Receipts | None,
    perturbation: Perturbation,
) -> dict[str, Json]:
    """Return the facts under test. Loader options count: a runtime that reads bytes differently is a code change."""
    subject = flat("loader", case.loader.model_dump(mode="json"))
    subject["execution.threads"] = case.execution.threads
    subject.update({"runtime": case.runtime} if case.runtime else {})
    taken = perturbation.taken(case)
    forced = {name: value for name, value in sorted(perturbation.env.items()) if name not in taken}
    subject.update({f"perturbation.{name}": value for name, value in forced.items()})
    if fingerprint is not None:
        subject.update(
            {
                "code": fingerprint.code,
                "driver": fingerprint.driver,
                "cuda": fingerprint.cuda,
                "cpu_capability": fingerprint.cpu_capability,
                "device_model": fingerprint.device.model,
                "python": fingerprint.python,
                **{f"package.{name}": version for name, version in sorted(fingerprint.packages.items())},
            }
        )
    if receipts is not None:
        for expert in ("transformer", "transformer_2"):
            counts = receipts.count(expert)
            subject.update({f"receipts.{expert}.{kind}": count for kind, count in counts.items()})
    return subject
