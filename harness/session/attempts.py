"""Attempts at one case: earlier ones stay beside the record that counts, also where their process is gone."""

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
    """A case was selected, and its run ended without a verdict of it."""

    outcome = Outcome.NOT_RUN
    kind = "no_record"


def forget(folder: Path) -> None:
    """Remove what an earlier run left in the folder of a case: its record, its attempts and its frames."""
    if folder.is_dir():
        shutil.rmtree(folder)


def attempt_number(folder: Path) -> int:
    """Number of the next attempt at the case whose folder this is: 1 where none was made in this run."""
    return 1 + len(attempt_files(folder))


def put_aside(folder: Path, attempt: int) -> None:
    """Keep the record of an attempt that will be repeated as ``record-attempt-N.json``."""
    with suppress(FileNotFoundError):  # a full disk left none
        (folder / RECORD_FILE).replace(folder / attempt_file(attempt))


def last_attempt(folder: Path) -> CaseRecord | None:
    """The record of the last attempt that was put aside; ``None`` where there is none that can be read."""
    found = []
    for path in attempt_files(folder):
        try:
            found.append(CaseRecord.read(path))
        except (OSError, UnreadableError):
            continue
    return max(found, key=lambda record: record.attempt, default=None)


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
    """The record of a case for which no session could write one: its worker died, or it never got a device.

    Args:
        located: the case and its place.
        node: pytest id.
        run: name of the run.
        runner: name of the profile.
        attempt: from 1.
        error: what happened; an error of ours brings its own outcome and remedy.
        next_command: what to type next, where the error does not say.
        plan: id of the plan that asked for it.
    """
    ours = isinstance(error, QuantgateError)
    summary = error.what if isinstance(error, QuantgateError) else error
    return CaseRecord(
        run=run,
        plan=plan,
        case=located.case.id,
        node=node,
        source=located.where,
        runner=runner,
        started=datetime.now(UTC).isoformat(timespec="seconds"),
        attempt=attempt,
        request=located.case.model_dump(mode="json"),
        verdict=Verdict(
            outcome=error.outcome if isinstance(error, QuantgateError) else Outcome.INFRA,
            cause=getattr(error, "kind", "error") if ours else "worker_died",
            summary=summary,
            next_command=(error.remedy if isinstance(error, QuantgateError) else "") or next_command,
        ),
    )


# Whether a case runs once more. The verdict's class decides, never the text of a log.


ATTEMPTS = 2
"""Infra gets one second chance. A quality miss never does: a rerun that differs would be a finding of its own."""


@dataclass(frozen=True)
class Retry:
    """How the next attempt is made."""

    attempt: int
    avoid: tuple[str, ...]
    """UUIDs of GPUs to take only if no other is free."""
    why: str


def next_attempt(record: CaseRecord) -> Retry | None:
    """The attempt after ``record``, always on a fresh engine; ``None`` where its verdict stands."""
    verdict = record.verdict
    # A control that expects infra, or a waived case, has had its verdict turned: what was observed is not retried then.
    if not RULES[verdict.outcome].retry or record.attempt >= ATTEMPTS:
        return None
    uuid = record.fingerprint.device.uuid if record.fingerprint else None
    return Retry(record.attempt + 1, (uuid,) if uuid else (), f"{verdict.outcome.value}: {verdict.cause}")
