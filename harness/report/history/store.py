"""Store all records of all runs in one SQLite file, and query it for trends."""

from __future__ import annotations

import contextlib
import json
import math
import shlex
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

from harness.perf.comparing import BAD
from harness.reading import UnreadableError, parse_object, reason
from harness.records.case_record import CaseRecord
from harness.report.load import ReportError
from harness.report.redact import redact_record

# Tables of the history.


_RECORDS = """
    CREATE TABLE records (
        id INTEGER PRIMARY KEY,
        run TEXT NOT NULL,
        runner TEXT NOT NULL,
        case_id TEXT NOT NULL,
        attempt INTEGER NOT NULL,
        started TEXT NOT NULL,
        outcome TEXT NOT NULL,
        observed TEXT,
        cause TEXT NOT NULL,
        summary TEXT NOT NULL,
        golden TEXT,
        code TEXT NOT NULL,
        device TEXT NOT NULL,
        driver TEXT,
        versions TEXT NOT NULL,
        calibration INTEGER NOT NULL,
        record TEXT NOT NULL,
        UNIQUE (run, runner, case_id, attempt, started)
    );
"""
_MEASUREMENTS = """
    CREATE TABLE measurements (
        record_id INTEGER NOT NULL REFERENCES records (id) ON DELETE CASCADE,
        metric TEXT NOT NULL,
        value REAL,
        limit_value REAL,
        direction TEXT,
        gates INTEGER NOT NULL,
        passed INTEGER,
        margin_consumed REAL,
        frame INTEGER,
        PRIMARY KEY (record_id, metric)
    ) WITHOUT ROWID;
"""
_INDEX = "CREATE INDEX records_by_case ON records (case_id, runner, started);"
TABLES = _RECORDS + _MEASUREMENTS + _INDEX
VERSION = 2
"""Version of the tables. Raise it with every change of them."""
WAIT_SECONDS = 30.0
"""Seconds to wait while another process holds the history."""
_UNREACHABLE = (sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_PERM, sqlite3.SQLITE_IOERR)


def connect(path: Path) -> sqlite3.Connection:
    """Open the history at ``path``; create the file if needed.

    Raises:
        ReportError: not a database, one of another version, in use, on a full disk, or it cannot be opened.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # isolation_level=None: transactions are begun and ended explicitly
        connection = sqlite3.connect(path, timeout=WAIT_SECONDS, isolation_level=None)
    except (OSError, sqlite3.Error) as error:
        raise history_error(error, path) from error
    try:
        connection.execute("PRAGMA foreign_keys = ON")
        _create(connection, path)
    except sqlite3.Error as error:
        connection.close()
        raise history_error(error, path) from error
    except ReportError:
        connection.close()
        raise
    return connection


def history_error(error: OSError | sqlite3.Error | UnicodeDecodeError, path: Path) -> ReportError:
    """Convert an error of SQLite or the system to one sentence about the history, with the next step.

    The advice is to move the file away only if it is damaged: a file in use, or on a full disk, is sound.
    """
    code = (getattr(error, "sqlite_errorcode", None) or 0) & 0xFF  # the low byte is the primary code
    place = shlex.quote(str(path))
    if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        message, remedy = f"another process writes the history for more than {WAIT_SECONDS:g} s", f"fuser -v {place}"
    elif code == sqlite3.SQLITE_FULL:
        message, remedy = "the disk is full; the history is unchanged", "make room: rm -r runs/<old run>"
    elif isinstance(error, OSError) or code in _UNREACHABLE:
        message, remedy = (
            f"the history cannot be opened or written: {reason(error)}",
            f"ls -ld {place} {shlex.quote(str(path.parent))}",
        )
    else:
        # sqlite's own text quotes names out of the damaged file
        kind = getattr(error, "sqlite_errorname", None) or type(error).__name__
        message, remedy = (
            f"this is not a history, or a damaged one ({kind})",
            f"mv {place} {place}.damaged, and ask again",
        )
    return ReportError(message, place=str(path), remedy=remedy)


def _create(connection: sqlite3.Connection, path: Path) -> None:
    """Create the tables of a new file in one transaction, so that two processes do not both create them.

    Raises:
        ReportError: the file has another version. No version but this one was ever released.
    """
    # IMMEDIATE takes the write lock before the version is read
    connection.execute("BEGIN IMMEDIATE")
    try:
        version = int(connection.execute("PRAGMA user_version").fetchone()[0])
        if version not in (0, VERSION):
            place = shlex.quote(str(path))
            newer = version > VERSION
            raise ReportError(
                f"the history has version {version}, and version {VERSION} is needed",
                place=str(path),
                remedy="pip install --upgrade quantgate"
                if newer
                else f"mv {place} {place}.old; the next command makes the history again from the runs that are kept",
            )
        for statement in filter(str.strip, TABLES.split(";") if version == 0 else ()):
            connection.execute(statement)
        connection.execute(f"PRAGMA user_version = {VERSION}")
    except BaseException:
        with contextlib.suppress(sqlite3.Error):  # a full disk has rolled back already
            connection.execute("ROLLBACK")
        raise
    connection.execute("COMMIT")


TRIED = "try_"
"""Prefix of the cause of a record that `quantgate try` wrote."""
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
        """Add records; a record that exists already is replaced.

        Records are the same if run, runner, case, attempt and start are equal: a run id may be used every night.

        Returns:
            Number of new records.
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
        fingerprint = record.fingerprint
        packages = fingerprint.packages if fingerprint else {}
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
                fingerprint.code if fingerprint else "",
                fingerprint.device.name if fingerprint else "",
                fingerprint.driver if fingerprint else None,
                json.dumps({name: packages[name] for name in _PACKAGES if name in packages}),
                int(is_calibration(record)),
                record.model_dump_json(),
            ),
        )
        rows = [(cursor.lastrowid, *row) for row in measurements(record)]
        self._db.executemany("INSERT INTO measurements VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", rows)

    def cases(self, runner: str | None = None) -> list[tuple[str, str]]:
        """Return every ``(case, runner)`` with records, sorted."""
        rows = self._db.execute(
            "SELECT DISTINCT case_id, runner FROM records WHERE calibration = 0 AND (?1 IS NULL OR runner = ?1)"
            " ORDER BY case_id, runner",
            (runner,),
        )
        return [(str(case), str(name)) for case, name in rows]

    def outcomes(self, case: str, runner: str) -> list[tuple[str, str, str]]:
        """Return ``(run, started, outcome)`` of a case, oldest first."""
        return self._db.execute(
            "SELECT run, started, outcome FROM records WHERE calibration = 0 AND case_id = ? AND runner = ?"
            " ORDER BY started, run, attempt",
            (case, runner),
        ).fetchall()

    def points(self, case: str | None = None, metric: str | None = None, runner: str | None = None) -> list[Point]:
        """Return measurements, oldest first; a filter that is ``None`` matches all."""
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

    def records(self, case: str, runner: str) -> list[CaseRecord]:
        """Return whole records of a case on a runner, oldest first, without records that this version cannot read."""
        rows = self._db.execute(
            "SELECT record FROM records WHERE calibration = 0 AND case_id = ? AND runner = ?"
            " ORDER BY started, run, attempt",
            (case, runner),
        )
        records = []
        for (text,) in rows:
            with suppress(UnreadableError):  # written by a version with other records
                records.append(CaseRecord.parse(text, f"the history's record of {case}"))
        return records

    def record(self, run: str, runner: str, case: str, attempt: int = 1) -> CaseRecord | None:
        """Return one whole record as it was added; the newest if a run id was used again."""
        row = self._db.execute(
            "SELECT record FROM records WHERE (run, runner, case_id, attempt) = (?, ?, ?, ?)"
            " ORDER BY started DESC LIMIT 1",
            (run, runner, case, attempt),
        ).fetchone()
        return CaseRecord.parse(row[0], f"the history's record of {case}") if row else None


def is_calibration(record: CaseRecord) -> bool:
    """Return whether a run was disturbed to place limits, or is a trial: it is stored, and is no part of any trend."""
    subject = record.identity.subject if record.identity else {}
    disturbed = record.run.startswith("regenerate-") or any(name.startswith("perturbation.") for name in subject)
    return disturbed or record.verdict.cause.startswith(TRIED)


def measurements(record: CaseRecord) -> list[tuple[Any, ...]]:
    """Return the rows of a record: every limit, every other metric, and time and memory of the generation."""
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
    for row in record.perf.comparisons if record.perf else ():
        # no margin: times scatter around their baseline, so the distance of one time to its limit is no drift
        passed = None if row.state in ("unmeasured", "inconclusive") else int(row.state not in BAD)
        name = f"perf.{row.measure}"
        rows[name] = (name, row.value, row.limit, "lower_is_better", int(row.gates), passed, None, None)
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
        versions=parse_object(row[9], "versions"),
        metric=row[10],
        value=row[11],
        limit=row[12],
        passed=None if row[13] is None else bool(row[13]),
        margin_consumed=row[14],
    )


@contextmanager
def open_history(path: Path = DEFAULT) -> Iterator[History]:
    """Open the history at ``path``, created if absent, and close it afterwards.

    Raises:
        ReportError: not a history, one of a newer quantgate, or one that turns out to be damaged, in use, or on a full
            disk while it is used. Rows that were added before stay.
    """
    connection = connect(path)
    try:
        yield History(connection)
    except (sqlite3.Error, UnicodeDecodeError) as error:  # a damaged page may hold text that is not UTF-8
        raise history_error(error, path) from error
    finally:
        connection.close()


# Drift: a measurement that moves towards its limit while every run still passes.


FEWEST = 5
"""Least runs of a trend: with four runs Kendall's test cannot reach the level at all."""
LEVEL = 0.05


@dataclass(frozen=True)
class Drift:
    """The trend of the margin consumed, for one case, metric, runner and golden."""

    runs: int
    latest: float | None
    slope: float | None
    """Share of the margin per run, by Theil and Sen (median of pairwise slopes); ``None`` without a trend."""
    runs_left: int | None
    """Runs until the limit at this slope; ``None`` without a rising trend."""

    @property
    def rising(self) -> bool:
        """Whether the margin is being used up: the slope is positive."""
        return self.slope is not None and self.slope > 0


def drift(points: Sequence[Point]) -> Drift:
    """Test for a monotonic trend in ``margin_consumed`` since golden, limit or runner last changed.

    Kendall's tau against the order of runs (two-sided, level ``LEVEL``) decides whether there is a trend, and the
    Theil-Sen estimator gives its slope. Both tolerate a single outlier.
    """
    values = [point.margin_consumed for point in same_basis(points)]
    margins = [value for value in values if value is not None and math.isfinite(value)]
    latest = margins[-1] if margins else None
    if len(margins) < FEWEST or len(set(margins)) == 1:
        return Drift(len(margins), latest, None, None)
    from scipy.stats import kendalltau, theilslopes

    order = list(range(len(margins)))
    if not kendalltau(order, margins).pvalue < LEVEL:
        return Drift(len(margins), latest, None, None)
    slope = float(theilslopes(margins, order).slope)
    runs_left = math.ceil((1.0 - margins[-1]) / slope - 1e-9) if slope > 0 and margins[-1] < 1 else None
    return Drift(len(margins), latest, slope, runs_left)


def same_basis(points: Sequence[Point]) -> list[Point]:
    """Return the last points with equal runner, golden and limit: earlier margins had another reference."""
    groups = [list(group) for _, group in groupby(points, key=lambda point: (point.runner, point.golden, point.limit))]
    return groups[-1] if groups else []


def sentence(trend: Drift) -> str:
    """Return the drift in words; empty without a trend."""
    if trend.slope is None:
        return ""
    if not trend.rising:
        return f"recovering, {trend.slope:+.1%} of the margin a run"
    if trend.runs_left is None:
        return f"drifting, {trend.slope:+.1%} of the margin a run, past its limit"
    return f"drifting, {trend.slope:+.1%} of the margin a run: at its limit in about {trend.runs_left} runs"
