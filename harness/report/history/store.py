"""Every record of every run in one SQLite file, and the questions that are asked of it."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.records.case_record import CaseRecord
from harness.report.history.schema import connect, history_error
from harness.report.redact import redact_record

DEFAULT = Path(".quantgate/history.sqlite")
_PACKAGES = ("torch", "diffusers", "transformers", "quantgate")


@dataclass(frozen=True)
class Point:
    """One metric of one record."""

    run: str
    runner: str
    case: str
    started: str
    outcome: str
    golden: str | None
    code: str
    device: str
    driver: str | None
    versions: dict[str, str]
    metric: str
    value: float | None
    limit: float | None
    passed: bool | None
    margin_consumed: float | None


class History:
    """The store. Use :func:`open_history`."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._db = connection

    def add(self, records: Iterable[CaseRecord]) -> int:
        """Add records; one that is there already is replaced by what it says now.

        The same one has the same run, runner, case, attempt and start: a run id may be used every night.

        Returns:
            How many were new.
        """
        clean = [redact_record(record) for record in records]
        self._db.execute("BEGIN IMMEDIATE")
        try:
            before = self._count()
            for record in clean:
                self._put(record)
            new = self._count() - before
        except BaseException:
            with suppress(sqlite3.Error):  # a full disk has rolled back already
                self._db.execute("ROLLBACK")
            raise
        self._db.execute("COMMIT")
        return new

    def _count(self) -> int:
        return int(self._db.execute("SELECT count(*) FROM records").fetchone()[0])

    def _put(self, record: CaseRecord) -> None:
        key = (record.run, record.runner, record.case, record.attempt, record.started)
        self._db.execute("DELETE FROM records WHERE (run, runner, case_id, attempt, started) = (?, ?, ?, ?, ?)", key)
        found = record.fingerprint
        packages = found.packages if found else {}
        verdict = record.verdict
        cursor = self._db.execute(
            "INSERT INTO records (run, runner, case_id, attempt, started, outcome, observed, cause, summary, golden,"
            " code, device, driver, versions, calibration, record)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                *key,
                verdict.outcome.value,
                verdict.observed.value if verdict.observed else None,
                verdict.cause,
                verdict.summary,
                record.golden,
                found.code if found else "",
                found.device.name if found else "",
                found.driver if found else None,
                json.dumps({name: packages[name] for name in _PACKAGES if name in packages}),
                int(is_calibration(record)),
                record.model_dump_json(),
            ),
        )
        rows = [(cursor.lastrowid, *row) for row in measurements(record)]
        self._db.executemany("INSERT INTO measurements VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", rows)

    def cases(self, runner: str | None = None) -> list[tuple[str, str]]:
        """Every ``(case, runner)`` there are records of, sorted."""
        rows = self._db.execute(
            "SELECT DISTINCT case_id, runner FROM records WHERE calibration = 0 AND (?1 IS NULL OR runner = ?1)"
            " ORDER BY case_id, runner",
            (runner,),
        )
        return [(str(case), str(name)) for case, name in rows]

    def outcomes(self, case: str, runner: str) -> list[tuple[str, str, str]]:
        """``(run, started, outcome)`` of a case, oldest first."""
        return self._db.execute(
            "SELECT run, started, outcome FROM records WHERE calibration = 0 AND case_id = ? AND runner = ?"
            " ORDER BY started, run, attempt",
            (case, runner),
        ).fetchall()

    def points(self, case: str | None = None, metric: str | None = None, runner: str | None = None) -> list[Point]:
        """Measurements, oldest first; a filter that is ``None`` lets everything through."""
        rows = self._db.execute(
            "SELECT run, runner, case_id, started, outcome, golden, code, device, driver, versions,"
            " metric, value, limit_value, passed, margin_consumed"
            " FROM records JOIN measurements ON record_id = id"
            " WHERE calibration = 0 AND (?1 IS NULL OR case_id = ?1)"
            " AND (?2 IS NULL OR metric = ?2) AND (?3 IS NULL OR runner = ?3)"
            " ORDER BY started, run, attempt, metric",
            (case, metric, runner),
        )
        return [_point(row) for row in rows]

    def record(self, run: str, runner: str, case: str, attempt: int = 1) -> CaseRecord | None:
        """One whole record, as it was added; the newest where a run id was used again."""
        row = self._db.execute(
            "SELECT record FROM records WHERE (run, runner, case_id, attempt) = (?, ?, ?, ?)"
            " ORDER BY started DESC LIMIT 1",
            (run, runner, case, attempt),
        ).fetchone()
        return CaseRecord.model_validate_json(row[0]) if row else None


def is_calibration(record: CaseRecord) -> bool:
    """Whether a run disturbed the case on purpose, to place limits: kept, and no part of any trend."""
    subject = record.identity.subject if record.identity else {}
    return record.run.startswith("regenerate-") or any(name.startswith("perturbation.") for name in subject)


def measurements(record: CaseRecord) -> list[tuple[Any, ...]]:
    """Rows of a record: every limit, every other metric, and what the generation cost."""
    rows: dict[str, tuple[Any, ...]] = {
        check.metric: (
            check.metric,
            check.value,
            check.limit,
            check.direction,
            int(check.gates),
            int(check.passed),
            check.margin_consumed,
            check.frame,
        )
        for check in record.limits
    }
    for metric in record.comparison.metrics if record.comparison else ():
        bare = (metric.name, metric.gating_value, None, metric.gating_direction, 0, None, None, metric.worst_frame)
        rows.setdefault(metric.name, bare)
    if record.generation is not None:
        cost = {
            "generate_seconds": record.generation.generate_seconds,
            "peak_memory_bytes": record.generation.peak_memory_bytes,
        }
        for name, value in cost.items():
            if value is not None:
                rows.setdefault(name, (name, float(value), None, "lower_is_better", 0, None, None, None))
    return list(rows.values())


def _point(row: tuple[Any, ...]) -> Point:
    return Point(
        run=row[0],
        runner=row[1],
        case=row[2],
        started=row[3],
        outcome=row[4],
        golden=row[5],
        code=row[6],
        device=row[7],
        driver=row[8],
        versions=json.loads(row[9]),
        metric=row[10],
        value=row[11],
        limit=row[12],
        passed=None if row[13] is None else bool(row[13]),
        margin_consumed=row[14],
    )


@contextmanager
def open_history(path: Path = DEFAULT) -> Iterator[History]:
    """The history at ``path``, made where it is absent.

    Raises:
        ReportError: not a history, one of a newer quantgate, or one that turns out to be damaged, in use, or on a full
            disk while it is used. What was added before stays.
    """
    connection = connect(path)
    try:
        yield History(connection)
    except sqlite3.Error as error:
        raise history_error(error, path) from error
    finally:
        connection.close()
