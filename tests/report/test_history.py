"""The store of all records: idempotent, versioned, queried; drift is seen before a limit breaks."""

from __future__ import annotations

import sqlite3
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from rich.console import Console
from typer.testing import CliRunner

from harness.cli.report import add_runs
from harness.records.case_record import CaseRecord
from harness.records.identity import Identity
from harness.records.limits import LimitCheck
from harness.report.history import store
from harness.report.history.store import VERSION, drift, history_error, open_history, sentence
from harness.report.history.terminal import case_table, cases_table, sparkline
from harness.report.history.trend_page import charts_of, render_history
from harness.report.load import ReportError


def series(make: ModuleType, margins: list[float], runner: str = "cpu", **changes: Any) -> list[CaseRecord]:
    """A record a margin, one a day, all of them passing or failing by it."""
    return [
        make.record(
            "case",
            run=f"202601{day + 1:02d}-000000-aaaa",
            started=f"2026-01-{day + 1:02d}T00:00:00+00:00",
            runner=runner,
            golden="ab" * 32,
            limits=(
                LimitCheck(
                    metric="mad", value=margin / 100, limit=0.01, direction="lower_is_better", gates=True,
                    passed=margin <= 1, margin_consumed=margin,
                ),
            ),
            **changes,
        )
        for day, margin in enumerate(margins)
    ]  # fmt: skip


def test_adding_a_record_twice_changes_nothing(make: ModuleType, tmp_path: Path) -> None:
    golden = make.drawn_clip()
    found = make.measured_record("x", golden, make.broken_clip(golden))
    with open_history(tmp_path / "h.sqlite") as history:
        assert history.add([found]) == 1
        before = history.points()
        assert history.add([found, found]) == 0
        assert history.points() == before
        assert history.record(found.run, "cpu", "x") == found
        assert {point.metric for point in before} == {
            "mad",
            "psnr",
            "tile_mad",
            "generate_seconds",
            "peak_memory_bytes",
        }
        assert history.add([found.model_copy(update={"attempt": 2})]) == 1


def test_a_run_id_that_is_used_every_night_has_a_row_a_night(make: ModuleType, tmp_path: Path) -> None:
    nights = [record.model_copy(update={"run": "shard-1"}) for record in series(make, [0.1, 0.2, 0.3])]
    with open_history(tmp_path / "h.sqlite") as history:
        assert [history.add([night]) for night in nights] == [1, 1, 1]
        assert [point.margin_consumed for point in history.points("case", "mad")] == [0.1, 0.2, 0.3]
        assert history.record("shard-1", "cpu", "case") == nights[-1]


def test_a_file_of_an_older_version_is_refused_and_kept(tmp_path: Path) -> None:
    path = tmp_path / "history.sqlite"
    with sqlite3.connect(path) as raw:
        raw.execute(f"PRAGMA user_version = {VERSION - 1}")
    before = path.read_bytes()
    with pytest.raises(ReportError, match=r"mv .*history\.sqlite\.old"), open_history(path):
        pass
    assert path.read_bytes() == before


def test_a_run_folder_is_added_once(make: ModuleType, sample: Path, tmp_path: Path) -> None:
    with open_history(tmp_path / "h.sqlite") as history:
        assert add_runs(history, sample.parent) == 7
        assert add_runs(history, sample.parent) == 0
        assert add_runs(history, tmp_path) == 0


def test_filters(make: ModuleType, tmp_path: Path) -> None:
    with open_history(tmp_path / "h.sqlite") as history:
        history.add([*series(make, [0.1, 0.2]), *series(make, [0.3], runner="b200")])
        assert history.cases() == [("case", "b200"), ("case", "cpu")]
        assert [point.margin_consumed for point in history.points("case", "mad", "cpu")] == [0.1, 0.2]
        assert [point.runner for point in history.points(runner="b200")] == ["b200"]
        assert history.points("other") == []


def test_calibration_runs_are_kept_and_are_no_part_of_a_trend(make: ModuleType, tmp_path: Path) -> None:
    subject = {"perturbation.ATEN_CPU_CAPABILITY": "avx2"}
    identity = Identity(request={}, hardware={}, weights={}, env={}, subject=subject)
    usual, named, disturbed = series(make, [0.1, 0.9, 0.9])
    named = named.model_copy(update={"run": "regenerate-20260101/none"})
    disturbed = disturbed.model_copy(update={"identity": identity})
    with open_history(tmp_path / "h.sqlite") as history:
        assert history.add([usual, named, disturbed]) == 3
        assert [point.margin_consumed for point in history.points()] == [0.1]
        assert len(history.outcomes("case", "cpu")) == 1
        assert history.record(named.run, "cpu", "case") == named


def test_the_file_says_its_version_and_a_newer_one_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "h.sqlite"
    with open_history(path):
        pass
    with sqlite3.connect(path) as raw:
        assert raw.execute("PRAGMA user_version").fetchone() == (VERSION,)
        raw.execute(f"PRAGMA user_version = {VERSION + 1}")
    with pytest.raises(ReportError, match="upgrade"), open_history(path):
        pass


def test_a_file_that_is_no_database_is_refused_and_kept(tmp_path: Path) -> None:
    path = tmp_path / "h.sqlite"
    path.write_text("my notes, and they are long enough to be no empty database\n" * 40)
    before = path.read_bytes()
    with pytest.raises(ReportError, match="not a history"), open_history(path):
        pass
    assert path.read_bytes() == before


def test_writers_at_once_lose_nothing(make: ModuleType, tmp_path: Path) -> None:
    def write(runner: int) -> int:
        with open_history(tmp_path / "h.sqlite") as history:
            return history.add(series(make, [0.1] * 5, runner=f"r{runner}"))

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(write, range(4))) == [5] * 4
    with open_history(tmp_path / "h.sqlite") as history:
        assert len(history.points(metric="mad")) == 20


@pytest.mark.parametrize(
    ("margins", "message"),
    [
        ([0.1, 0.2, 0.3, 0.4, 0.5, 0.6], "drifting, +10.0% of the margin a run: at its limit in about 4 runs"),
        ([0.1, 0.9, 0.2, 0.8, 0.1, 0.9, 0.2], ""),
        ([0.5] * 9, ""),
        ([0.1, 0.2, 0.3], ""),
        ([0.9, 0.8, 0.7, 0.6, 0.5, 0.4], "recovering, -10.0% of the margin a run"),
    ],
)
def test_drift_is_said_before_the_limit_breaks(
    make: ModuleType, tmp_path: Path, margins: list[float], message: str
) -> None:
    with open_history(tmp_path / "h.sqlite") as history:
        history.add(series(make, margins))
        points = history.points("case", "mad")
    assert all(point.passed for point in points)
    assert sentence(drift(points)) == message


def test_a_new_golden_starts_a_new_series(make: ModuleType, tmp_path: Path) -> None:
    with open_history(tmp_path / "h.sqlite") as history:
        history.add(series(make, [0.1, 0.2, 0.3, 0.4, 0.5, 0.6]))
        fresh = series(make, [0.0] * 8)[-1].model_copy(update={"golden": "cd" * 32})
        history.add([fresh])
        assert drift(history.points("case", "mad")).runs == 1


def printed(table: Any) -> str:
    console = Console(width=180)
    with console.capture() as capture:
        console.print(table)
    return capture.get()


def test_tables(make: ModuleType, tmp_path: Path) -> None:
    with open_history(tmp_path / "h.sqlite") as history:
        history.add(series(make, [0.1, 0.2, 0.3, 0.4, 0.5, 0.6]))
        overview = printed(cases_table(history))
        assert "60 %" in overview
        assert "about 4 runs" in overview
        rows = printed(case_table(history.points("case", "mad"), "case", "mad"))
        assert rows.count("│ mad") == 6
        assert "2026-01-06" in rows
    assert sparkline([0.0, 1.0, None, 7.0]) == "▁█·█"


def test_square_brackets_in_names_are_no_markup(make: ModuleType, tmp_path: Path) -> None:
    with open_history(tmp_path / "h.sqlite") as history:
        history.add([record.model_copy(update={"case": "[red]a[/b]"}) for record in series(make, [0.1])])
        assert "[red]a[/b]" in printed(cases_table(history))


def test_trend_page_overlays_runners_and_version_changes(make: ModuleType, tmp_path: Path) -> None:
    golden = make.drawn_clip()
    print_of = make.measured_record("case", golden, golden).fingerprint
    new = print_of.model_copy(update={"packages": {"torch": "9.9.9"}})
    cpu = series(make, [0.1, 0.2, 0.3], fingerprint=print_of)
    cpu[2] = cpu[2].model_copy(update={"fingerprint": new})
    with open_history(tmp_path / "h.sqlite") as history:
        history.add([*cpu, *series(make, [0.4, 0.5], runner="b200", fingerprint=print_of)])
        chart = charts_of(history.points("case"))[0]
        assert [line.runner for line in chart.lines] == ["b200", "cpu"] or [line.runner for line in chart.lines] == [
            "cpu",
            "b200",
        ]
        assert len({line.shape for line in chart.lines}) == 2
        assert ["torch 2.13.0 → 9.9.9" in change.title for change in chart.changes] == [True]
        index = render_history(history, tmp_path / "trend")
    assert "case" in index.read_text()
    page = (index.parent / "0000-case.html").read_text()
    assert "torch 2.13.0 → 9.9.9" in page


def test_command(make: ModuleType, tmp_path: Path) -> None:
    import typer

    from harness.cli.report import history_command

    app = typer.Typer()
    app.command()(history_command)
    for record in series(make, [0.1, 0.2]):
        record.write(tmp_path / "runs" / record.run / "case" / "record.json")
    place = ["--runs", str(tmp_path / "runs"), "--store", str(tmp_path / "h.sqlite")]
    assert "20 %" in CliRunner().invoke(app, place).stdout
    assert "0.002" in CliRunner().invoke(app, ["case", "--metric", "mad", *place]).stdout
    missing = CliRunner().invoke(app, ["nope", *place])
    assert isinstance(missing.exception, ReportError)
    html = CliRunner().invoke(app, ["--html", str(tmp_path / "out"), *place]).stdout.strip()
    assert Path(html).is_file()


def _filled(make: ModuleType, path: Path) -> bytes:
    """A sound history of 40 records; its bytes."""
    with open_history(path) as history:
        history.add(series(make, [0.1] * 28))
    return path.read_bytes()


def test_a_history_whose_pages_are_damaged_is_one_sentence_and_kept(make: ModuleType, tmp_path: Path) -> None:
    path = tmp_path / "h.sqlite"
    data = _filled(make, path)
    damaged = data[:4096] + b"\xff" * (len(data) - 4096)  # the header is sound: it opens
    path.write_bytes(damaged)
    with pytest.raises(ReportError, match="damaged") as refused, open_history(path) as history:
        history.points()
    assert (refused.value.exit_code, refused.value.place) == (18, str(path))
    assert refused.value.remedy.startswith(f"mv {path}")
    assert path.read_bytes()[100:] == damaged[100:]  # but for the header, which counts changes


def test_a_full_disk_loses_nothing_of_the_history(make: ModuleType, tmp_path: Path) -> None:
    path = tmp_path / "h.sqlite"
    _filled(make, path)

    def fill() -> None:
        with open_history(path) as history:
            # SQLite's own stand-in for a full disk: the database may not grow.
            history._db.execute("PRAGMA max_page_count = 1")
            history.add(series(make, [0.2] * 28, runner="h200"))

    with pytest.raises(ReportError, match="the disk is full"):
        fill()
    with open_history(path) as history:
        assert history.cases() == [("case", "cpu")]


def test_a_history_that_another_process_writes_is_not_called_damaged(
    make: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "h.sqlite"
    _filled(make, path)
    monkeypatch.setattr(store, "WAIT_SECONDS", 0.05)
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    with pytest.raises(ReportError, match="another process") as refused, open_history(path):
        pass
    assert "mv" not in refused.value.remedy
    other.execute("ROLLBACK")
    other.close()
    with open_history(path) as history:
        assert history.cases()


def test_a_history_in_a_place_that_is_none_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "folder").mkdir()
    for path in (tmp_path / "file/h.sqlite", tmp_path / "folder"):
        with pytest.raises(ReportError, match="cannot be opened"), open_history(path):
            pass


def test_names_out_of_a_damaged_history_are_not_quoted(tmp_path: Path) -> None:
    path = tmp_path / "h.sqlite"
    with closing(sqlite3.connect(path)) as raw:
        raw.execute("CREATE TABLE records (a TEXT PRIMARY KEY, b TEXT)")
        raw.commit()
    path.write_bytes(path.read_bytes().replace(b"sqlite_autoindex_records_1", b"sql\nte_autoindex_records_1"))
    with closing(sqlite3.connect(path)) as raw, pytest.raises(sqlite3.DatabaseError) as refused:
        raw.execute("SELECT * FROM records").fetchall()
    assert "autoindex" in str(refused.value), "sqlite quotes it"
    message = history_error(refused.value, path).message
    assert message == "this is not a history, or a damaged one (SQLITE_CORRUPT)"
