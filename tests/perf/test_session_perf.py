"""What the session generates again for times, and the command that makes baselines."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from typer.testing import CliRunner

from harness.errors import InfraError
from harness.goldens.store import open_store
from harness.perf.baseline import baseline_path, build, load_baseline
from harness.perf.comparing import Look
from harness.records.identity import Device
from harness.report.history.store import open_history
from harness.session.context import SessionContext
from harness.session.perf import Timed, judge_perf

runs: Any = sys.modules["perf_runs"]  # tests/perf/conftest.py loads it
ROOT = Path(__file__).parents[2]


class Engine:
    """An engine that generates what it is told to, one after the other; its blocks are as slow as it says."""

    def __init__(self, machine: Any, *slower: float, fails: bool = False) -> None:
        self.machine, self.slower, self.fails = machine, list(slower), fails
        self.pid = None
        self.start_record = machine.engine()
        self.asked: list[str] = []

    def generate(self, _case: Any, folder: Path) -> Any:
        self.asked.append("generate")
        if self.fails:
            raise InfraError("the engine crashed", kind="crash")
        folder.mkdir()
        return self.machine.generation(self.slower.pop(0), ordinal=1 + len(self.asked))

    def call(self, method: str, _params: Any, _deadline: float) -> Any:
        self.asked.append(method)
        blocks = [{"block": f"transformer.blocks.{place}", "seconds": 0.01 * (1 + (place == 3))} for place in range(8)]
        return {"blocks": blocks, "kernels": 400, "synchronizations": 0}


def judged(machine: Any, folder: Path, slower: float, engine: Engine, *, red: bool = False) -> Any:
    context = SessionContext(
        root=folder, run="r", runs_dir=folder / "runs", runner=SimpleNamespace(name="h200"),
        device=Device(kind="cpu", name="x86_64"), store=open_store(folder / "goldens"),
        thresholds=folder / "thresholds",
    )  # fmt: skip
    file, _ = build(runs.case(), "h200", machine.history(), author="ann", reason="first")
    file.write(baseline_path(context.thresholds, "h200", "wan"))
    look = Look(machine.generation(slower), machine.engine(), machine.conditions())
    timed = Timed(runs.case(), folder, look, machine.record(0).fingerprint, red)
    return judge_perf(context, timed, lambda: engine)


def test_a_healthy_run_generates_nothing_further(machine: Any, tmp_path: Path) -> None:
    engine = Engine(machine)
    assert judged(machine, tmp_path, 1.0, engine).state == "within"
    assert engine.asked == []


def test_a_slow_run_is_confirmed_then_profiled_and_leaves_nothing_behind(machine: Any, tmp_path: Path) -> None:
    engine = Engine(machine, 1.2, 1.2)
    report = judged(machine, tmp_path, 1.2, engine)
    assert engine.asked == ["generate", "generate", "perf_profile"]
    assert (report.state, report.cause) == ("slower", "some_blocks")
    assert "transformer.blocks.3 (2.00 times its siblings)" in report.message
    assert not (tmp_path / "perf-again").exists()


def test_a_case_that_is_red_already_is_not_generated_again(machine: Any, tmp_path: Path) -> None:
    engine = Engine(machine)
    report = judged(machine, tmp_path, 1.2, engine, red=True)
    assert engine.asked == []
    assert report.state == "inconclusive"
    assert "red already" in report.message


def test_an_engine_that_fails_meanwhile_makes_nothing_red(machine: Any, tmp_path: Path) -> None:
    report = judged(machine, tmp_path, 1.2, Engine(machine, fails=True))
    assert report.state == "inconclusive"


CASES = """
cases:
  wan:
    runners: [cpu]
    model: {path: ./nothing}
    sampling: {prompt: x, height: 16, width: 16, num_frames: 1, num_inference_steps: 13, guidance_scale: 3.0}
"""


@pytest.fixture
def project(machine: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project with one case and eight runs of it in its history."""
    (tmp_path / "cases").mkdir()
    (tmp_path / "cases" / "a.yaml").write_text(CASES)
    shutil.copytree(ROOT / "runners", tmp_path / "runners")
    monkeypatch.delenv("CI", raising=False)
    monkeypatch.delenv("GITHUB_ACTIONS", raising=False)
    with open_history(tmp_path / ".quantgate" / "history.sqlite") as history:
        history.add([machine.record(number, None, runner="cpu") for number in range(8)])
    return tmp_path


def regenerate(project: Path, *options: str) -> Any:
    from harness.cli.app import app

    command = ["regenerate", "--perf", "--runner", "cpu", "--root", str(project), *options]
    return CliRunner().invoke(app, command)


def test_a_baseline_is_made_of_the_history(project: Path) -> None:
    shown = regenerate(project, "--dry-run")
    assert shown.exit_code == 0, shown.output
    assert "nothing was written" in shown.output
    assert load_baseline(project / "thresholds", "cpu", "wan") is None
    done = regenerate(project, "--author", "ann")
    assert done.exit_code == 0, done.output
    assert "pool cpu: 8 runs on 8 days and 1 machine" in done.output
    assert "thresholds/cpu/wan.perf.json" in done.output
    file = load_baseline(project / "thresholds", "cpu", "wan")
    assert file is not None
    assert (file.author, len(file.pools[0].runs)) == ("ann", 8)


def test_too_few_runs_end_with_the_next_command(project: Path) -> None:
    done = regenerate(project, "--since", "2026-01-05")
    assert done.exit_code != 0
    assert "needs 5 quiet runs" in f"{done.output}{done.exception}"
