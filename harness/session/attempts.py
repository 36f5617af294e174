"""Attempts at one case: keep the records of earlier attempts, write a record for a dead worker, decide on a retry."""

from __future__ import annotations

import shutil
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from harness.definitions.case import Located
from harness.errors import QuantgateError
from harness.outcomes import RULES, Outcome
from harness.reading import UnreadableError
from harness.records.case_record import CaseRecord
from harness.records.run_folder import RECORD_FILE, attempt_file, attempt_files
from harness.records.verdict import Verdict


class NeverJudgedError(QuantgateError):
    """A case was selected, and the run ended without a verdict for it."""

    outcome = Outcome.NOT_RUN
    kind = "no_record"


def forget(folder: Path) -> None:
    """Remove the folder of a case with everything of earlier runs: record, attempts and frames."""
    if folder.is_dir():
        shutil.rmtree(folder)


def attempt_number(folder: Path) -> int:
    """Return the number of the next attempt at the case of this folder: 1 if this run made none yet."""
    return 1 + len(attempt_files(folder))


def put_aside(folder: Path, attempt: int) -> None:
    """Rename the record of an attempt that is repeated to ``record-attempt-N.json``."""
    with suppress(FileNotFoundError):  # a full disk can leave an attempt without a record
        (folder / RECORD_FILE).replace(folder / attempt_file(attempt))


def last_attempt(folder: Path) -> CaseRecord | None:
    """Return the record of the last attempt that was put aside; ``None`` if no such record can be read."""
    attempts = []
    for path in attempt_files(folder):
        try:
            attempts.append(CaseRecord.read(path))
        except (OSError, UnreadableError):
            continue
    return max(attempts, key=lambda record: record.attempt, default=None)


def lost_record(
    located: Located,
    node: str,
    *,
    run: str,
    runner: str,
    attempt: int,
    error: str | QuantgateError,
    next_command: str,
    plan: str = "",
) -> CaseRecord:
    """Return the record of a case for which no session wrote one: its worker died, or it never got a device.

    Args:
        located: the case and its place.
        node: pytest id.
        run: name of the run.
        runner: name of the profile.
        attempt: from 1.
        error: the failure; a ``QuantgateError`` brings its own outcome and remedy.
        next_command: the command to type next, if the error has no remedy.
        plan: id of the plan that requested the run.
    """
    expected = isinstance(error, QuantgateError)
    summary = error.message if isinstance(error, QuantgateError) else error
    return CaseRecord(
        run=run,
        plan=plan,
        case=located.case.id,
        node=node,
        source=located.place,
        runner=runner,
        started=datetime.now(UTC).isoformat(timespec="seconds"),
        attempt=attempt,
        request=located.case.model_dump(mode="json"),
        verdict=Verdict(
            outcome=error.outcome if isinstance(error, QuantgateError) else Outcome.INFRA,
            cause=getattr(error, "kind", "error") if expected else "worker_died",
            summary=summary,
            next_command=(error.remedy if isinstance(error, QuantgateError) else "") or next_command,
        ),
    )


# Decide whether a case runs once more. The outcome of the verdict decides, never the text of a log.


ATTEMPTS = 2
"""Infra failures get one retry. A quality miss gets none: a rerun that differs would be a finding of its own."""


@dataclass(frozen=True)
class Retry:
    """Number, devices to avoid and reason of the next attempt."""

    attempt: int
    avoid: tuple[str, ...]
    """UUIDs of GPUs to take only if no other is free."""
    why: str


def next_attempt(record: CaseRecord) -> Retry | None:
    """Return the attempt after ``record``, always on a fresh engine; ``None`` if its verdict is final."""
    verdict = record.verdict
    # The outcome of a control that expects infra, or of a waived case, is inverted already, so it is not retried.
    if not RULES[verdict.outcome].retry or record.attempt >= ATTEMPTS:
        return None
    # the GPU on which the first attempt failed may itself be the cause
    uuid = record.fingerprint.device.uuid if record.fingerprint else None
    return Retry(record.attempt + 1, (uuid,) if uuid else (), f"{verdict.outcome.value}: {verdict.cause}")
