"""When a run fails in a way that nobody foresaw: the error that its record names, and a folder without old evidence."""

from __future__ import annotations

import traceback
from pathlib import Path

from harness.definitions.case import Case
from harness.errors import InfraError, QuantgateError
from harness.pipeline.environment import secrets_of
from harness.pipeline.failures import kind_of
from harness.pipeline.redaction import redact

TRACEBACK_LINES = 20
EVIDENCE = (
    "record.json",
    "origin.json",
    "candidate.json",
    "clip.safetensors",
    "trace.json",
    "golden.safetensors",
    "golden-trace.json",
    "probes.safetensors",
    "sketches.safetensors",
    "experiments.json",
)
"""What a run leaves in its case's folder. Records of earlier attempts have names of their own, and stay."""


def clear(folder: Path) -> None:
    """Make the folder of a case, and take away what an earlier run of the same name left there.

    Raises:
        InfraError: kind ``disk``: it cannot be.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name in EVIDENCE:
            (folder / name).unlink(missing_ok=True)
    except OSError as error:
        raise InfraError(
            f"the run's folder cannot be written to: {error}",
            where=str(folder),
            remedy=f"make {folder.parent} writable, or name another place: pytest -o quantgate_runs=DIR",
            kind="disk",
        ) from error


def as_ours(error: Exception, case: Case) -> QuantgateError:
    """Any exception as one that a verdict can be made of: what is not ours already is infra."""
    if isinstance(error, QuantgateError):
        return error
    return InfraError(
        redact(f"the run failed in the parent: {named(error)}", secrets_of(case)),
        where=case.id,
        remedy="read the traceback at the end of the record's log_tail",
        kind=kind_of(error),
    )


def named(error: Exception) -> str:
    """An exception in one line."""
    return " ".join(f"{type(error).__name__}: {error}".split())


def last_lines(error: Exception, case: Case) -> tuple[str, ...]:
    """The end of an exception's traceback, without what the case passes through."""
    text = "".join(traceback.format_exception(error))
    return tuple(redact(text, secrets_of(case)).splitlines()[-TRACEBACK_LINES:])
