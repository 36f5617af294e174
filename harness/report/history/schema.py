"""Tables of the history, and how an older file becomes a newer one."""

from __future__ import annotations

import contextlib
import shlex
import sqlite3
from pathlib import Path

from harness.report.errors import ReportError

_RECORDS = """
    CREATE TABLE {name} (
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
        UNIQUE ({key})
    );
"""
_MEASUREMENTS = """
    CREATE TABLE {name} (
        record_id INTEGER NOT NULL REFERENCES {records} (id) ON DELETE CASCADE,
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
_MOVE = """
    INSERT INTO records_2 SELECT * FROM records;
    INSERT INTO measurements_2 SELECT * FROM measurements;
    DROP TABLE measurements;
    DROP TABLE records;
    ALTER TABLE records_2 RENAME TO records;
    ALTER TABLE measurements_2 RENAME TO measurements;
"""
MIGRATIONS: tuple[str, ...] = (
    _RECORDS.format(name="records", key="run, runner, case_id, attempt")
    + _MEASUREMENTS.format(name="measurements", records="records")
    + _INDEX,
    # A run id that was used again has its own row. SQLite changes no constraint, so both tables are made anew.
    _RECORDS.format(name="records_2", key="run, runner, case_id, attempt, started")
    + _MEASUREMENTS.format(name="measurements_2", records="records_2")
    + _MOVE
    + _INDEX,
)
"""One script a version; a file at version N has run the first N. Never edit one that was released: add the next."""

VERSION = len(MIGRATIONS)
WAIT_SECONDS = 30.0
"""How long another process may hold the history."""
_UNREACHABLE = (sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_PERM, sqlite3.SQLITE_IOERR)


def connect(path: Path) -> sqlite3.Connection:
    """Open the history at ``path``, making or upgrading it.

    Raises:
        ReportError: not a database, one of a newer quantgate, in use, on a full disk, or it cannot be opened.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        connection = sqlite3.connect(path, timeout=WAIT_SECONDS, isolation_level=None)
    except (OSError, sqlite3.Error) as error:
        raise history_error(error, path) from error
    try:
        connection.execute("PRAGMA foreign_keys = ON")
        _upgrade(connection, path)
    except sqlite3.Error as error:
        connection.close()
        raise history_error(error, path) from error
    except ReportError:
        connection.close()
        raise
    return connection


def history_error(error: OSError | sqlite3.Error, path: Path) -> ReportError:
    """What SQLite or the system said of the history as one sentence, with what to do about it.

    Only a damaged file is to be moved away: one that is in use, or on a full disk, is sound.
    """
    code = (getattr(error, "sqlite_errorcode", None) or 0) & 0xFF  # the low byte is the primary code
    place = shlex.quote(str(path))
    if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        what, remedy = f"another process writes the history for more than {WAIT_SECONDS:g} s", f"fuser -v {place}"
    elif code == sqlite3.SQLITE_FULL:
        what, remedy = "the disk is full; the history is what it was", "make room: rm -r runs/<old run>"
    elif isinstance(error, OSError) or code in _UNREACHABLE:
        what, remedy = (
            f"the history cannot be opened or written: {error}",
            f"ls -ld {place} {shlex.quote(str(path.parent))}",
        )
    else:
        what, remedy = f"this is not a history, or a damaged one: {error}", f"mv {place} {place}.damaged, and ask again"
    return ReportError(what, where=str(path), remedy=remedy)


def _upgrade(connection: sqlite3.Connection, path: Path) -> None:
    """Run what is missing, in one transaction: two processes that open a new file at once do not both make it."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        version = int(connection.execute("PRAGMA user_version").fetchone()[0])
        if version > VERSION:
            raise ReportError(
                f"the history has version {version}, and this quantgate knows {VERSION}",
                where=str(path),
                remedy="pip install --upgrade quantgate",
            )
        for script in MIGRATIONS[version:]:
            for statement in filter(str.strip, script.split(";")):
                connection.execute(statement)
        connection.execute(f"PRAGMA user_version = {VERSION}")
    except BaseException:
        with contextlib.suppress(sqlite3.Error):  # a full disk has rolled back already
            connection.execute("ROLLBACK")
        raise
    connection.execute("COMMIT")
