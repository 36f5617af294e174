"""The benchmark of real size goes on where it stopped, says what did not run, and puts models where there is room."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from benchmarks.real_size import __main__ as program
from benchmarks.real_size.setup import NoRoomError, Setup, Shape
from benchmarks.real_size.table import table


def setup_of(folder: Path, *places: Path) -> Setup:
    return Setup(folder / "work", places or (folder,), 192, 6, (Shape(96, 64, 17, 2),), "cpu")


def test_a_shape_is_read_and_written() -> None:
    assert str(Shape.parse("640x384x17@12")) == "640x384x17@12"
    for wrong in ("640x384@12", "640x384x17", "axbxc@1"):
        with pytest.raises(ValueError, match="is not WIDTHxHEIGHTxFRAMES@STEPS"):
            Shape.parse(wrong)


def test_a_model_goes_where_there_is_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    free = {"full": 10, "roomy": 1 << 40}

    def usage(place: Path) -> Any:
        return SimpleNamespace(free=free[Path(place).name])

    monkeypatch.setattr("benchmarks.real_size.setup.shutil.disk_usage", usage)
    full, roomy = tmp_path / "full", tmp_path / "roomy"
    assert setup_of(tmp_path, full, roomy).place_for("base") == roomy
    with pytest.raises(NoRoomError, match=r"the base model needs .* GB: .*full has 0\.0 GB free; name more with --at"):
        setup_of(tmp_path, full).place_for("base")


class Ran:
    """Stands for the processes of the steps."""

    def __init__(self, results: Path, codes: dict[str, int]) -> None:
        self.results, self.codes, self.steps = results, codes, list[str]()

    def run(self, command: list[str], *, stdout: Any, **_: Any) -> Any:
        step = command[command.index("--step") + 1]
        self.steps.append(step)
        rows = json.loads(self.results.read_text()) if self.results.exists() else {}
        rows[step] = rows.get(step, {}) | {"facts": {"seconds": 1.0}}
        self.results.write_text(json.dumps(rows))
        stdout.write("what it said\nlast line")
        return type("Done", (), {"returncode": self.codes.get(step, 0)})


def test_done_steps_stay_done_and_failed_ones_run_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, setup = tmp_path / "results.json", setup_of(tmp_path)
    ran = Ran(path, {"engine-start": 1})
    monkeypatch.setattr(program.subprocess, "run", ran.run)
    results = program.Results(path)
    assert program.run(["machine", "engine-start"], results, [], setup, float("inf")) == 1
    assert results.rows["engine-start"]["why"].endswith("last line")
    ran.codes.clear()
    assert program.run(["machine", "engine-start"], program.Results(path), [], setup, float("inf")) == 0
    assert ran.steps == ["machine", "engine-start", "engine-start"]


def test_a_model_that_is_gone_is_built_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, setup = tmp_path / "results.json", setup_of(tmp_path)
    results = program.Results(path)
    results.save("build-fp8", state="done")
    ran = Ran(path, {})
    monkeypatch.setattr(program.subprocess, "run", ran.run)
    program.run(["build-fp8"], results, [], setup, float("inf"))
    assert ran.steps == ["build-fp8"]


def test_what_the_budget_did_not_allow_is_said(tmp_path: Path) -> None:
    results = program.Results(tmp_path / "results.json")
    assert program.run(["machine", "read-fp8"], results, [], setup_of(tmp_path), 0.0) == 2
    assert "read-fp8                             not run: the budget ended" in table(results.rows)


def test_a_step_without_its_model_does_not_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert program.run_step("read-fp8", program.Results(tmp_path / "r.json"), setup_of(tmp_path)) == 1
    assert "the model fp8 is not there" in capsys.readouterr().out


def test_the_table_shows_ratio_and_failures() -> None:
    stages = dict.fromkeys(("inspect", "load", "probe", "generate", "compare"), 1.0)
    again = {**stages, "total": 5.0, "outcome": "pass", "cause": "none", "gpu_peak_bytes": 2e9}
    shape = "640x384x17@12"
    rows: dict[str, Any] = {
        "case-fp8": {"state": "done", "facts": {shape: {"again": again, "golden_bytes": 1e6, "host_peak_bytes": 3e9}}},
        "bare-fp8": {"state": "done", "facts": {shape: 4.0, "load_seconds": 9.0}},
        "incident": {"state": "failed", "why": "Traceback\nValueError: a reason\n"},
    }
    text = table(rows)
    assert "fp8 640x384x17@12 against bare          1.250  bare 4.00 s" in text
    assert "incident                             failed: ValueError: a reason" in text


def test_every_step_has_its_work_and_its_models() -> None:
    from benchmarks.real_size.steps import NEEDS, WORK

    assert set(WORK) == set(program.STEPS)
    assert set(NEEDS) <= set(WORK)
