"""The list of GPU measurements: every command is one that exists, and what ended is not run again."""

from __future__ import annotations

import runpy
import sys
import time
from pathlib import Path

import pytest

from benchmarks.on_gpu import Step, main, run, steps


def test_every_step_names_a_module_and_options_that_exist(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in sorted({step.module for step in steps(tmp_path)}):
        # as `python -m` does, in a process that has imported torch already
        monkeypatch.setattr(sys, "argv", [module, "--help"])
        with pytest.raises(SystemExit) as ended:
            runpy.run_module(module, run_name="__main__")
        assert ended.value.code == 0
        words = capsys.readouterr().out
        wanted = {word for step in steps(tmp_path) if step.module == module for word in step.arguments}
        assert {word for word in wanted if word.startswith("--")} <= set(words.replace("=", " ").split()) | {
            word.strip("[],") for word in words.split()
        }


def test_what_ended_stays_and_a_failure_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    good, bad = Step("good", "this"), Step("bad", "quantgate_no_such_module")
    assert run([good, bad], tmp_path, time.time() + 60) == 1
    assert "good" in capsys.readouterr().out
    assert "No module named" in (tmp_path / "bad.log").read_text()
    stamps = {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    assert run([good, bad], tmp_path, time.time() + 60) == 1
    assert {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()} == stamps
    (tmp_path / "bad.exit").unlink()
    assert run([good, bad], tmp_path, time.time() - 1) == 2
    assert "not run: the budget ended" in capsys.readouterr().out


@pytest.mark.parametrize("wrong", [["--only", "nothing"], ["--again", "nothing"]])
def test_a_step_that_is_not_there_is_no_success(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], wrong: list[str]
) -> None:
    with pytest.raises(SystemExit) as refused:
        main(["--out", str(tmp_path), *wrong])
    assert refused.value.code == 2
    assert "nothing: no such step; there are selfcheck, tracing" in capsys.readouterr().err
