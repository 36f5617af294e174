"""Recorded histories, scored by the time gate and its peers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import perf_runs
import pytest

from benchmarks.perf_power import read_recorded, recorded
from harness.records.run_folder import RECORD_FILE

runs: Any = perf_runs


def write(folder: Path, count: int, **conditions: Any) -> Path:
    """Records of healthy runs, below a folder of runs."""
    machine = runs.Machine()
    for number in range(count):
        record = machine.record(number, conditions=machine.conditions(**conditions))
        place = folder / f"run-{number:02}" / "wan"
        place.mkdir(parents=True)
        record.write(place / RECORD_FILE)
    return folder


def share(line: str, rule: str) -> float:
    return float(line.partition(f"{rule} ")[2].partition("%")[0])


def test_quiet_runs_are_no_alarm_and_a_slower_one_is_found(tmp_path: Path) -> None:
    lines = [*recorded(read_recorded(write(tmp_path, 12)), trials=20, seed=0)]
    assert "12 runs, 0 of them disturbed" in lines[0]
    assert share(lines[1], "gate") == 0.0
    assert lines[-1].strip().startswith("+50%")
    assert share(lines[-1], "gate") == 100.0


def test_disturbed_runs_make_no_baseline_and_no_alarm(tmp_path: Path) -> None:
    lines = [*recorded(read_recorded(write(tmp_path, 12, waiting=0.6)), trials=5, seed=0)]
    assert "12 of them disturbed" in lines[0]
    assert "no baseline (0 quiet runs" in lines[1]
    assert {share(line, "gate") for line in lines[2:]} == {0.0}
    assert share(lines[-1], "steps alone") == 100.0


@pytest.mark.parametrize("count", [1, 3])
def test_too_few_runs_are_not_scored(tmp_path: Path, count: int) -> None:
    lines = [*recorded(read_recorded(write(tmp_path, count)), trials=5, seed=0)]
    assert len(lines) == 2
    assert "too few" in lines[1]


def test_a_file_holds_steps_alone(tmp_path: Path) -> None:
    path = tmp_path / "recorded.json"
    path.write_text(json.dumps({"tiny": [[1.0, 1.0, 1.0]] * 3}))
    (history,) = read_recorded(path).values()
    assert [run.disturbed for run in history] == [False] * 3
