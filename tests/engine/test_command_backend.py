"""Another program as the runtime: its frames are taken exactly, or not at all."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from harness.definitions.case import Case
from harness.engine.owner import EngineOwner
from harness.errors import InfraError, InvalidCaseError
from harness.frames.clip import read_clip
from harness.records.generation import Generation

PROGRAM = str(Path(__file__).with_name("a_runtime.py"))
SHAPE = (3, 16, 24, 3)


def _case(fault: str = "fine", **changes: Any) -> Case:
    data: dict[str, Any] = {
        "id": "command",
        "runners": ["cpu"],
        "backend": "command",
        "command": [sys.executable, PROGRAM, "{case_json}", "{out}", fault],
        "model": {"path": "./model"},
        "sampling": {
            "prompt": "x", "height": 16, "width": 24, "num_frames": 3, "num_inference_steps": 1, "guidance_scale": 1.0,
        },
        "timeouts": {"load": 60, "generate": 60},
    }  # fmt: skip
    return Case.model_validate(data | changes)


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Callable[[Case], tuple[Generation, Any]]]:
    owners: list[EngineOwner] = []

    def start(case: Case) -> tuple[Generation, Any]:
        owner = EngineOwner(case, tmp_path, {}, {"model": tmp_path / "model"}, device="cpu")
        owners.append(owner)
        owner.start()
        generation = owner.generate(case, tmp_path / "out")
        assert any("runtime chatter" in line for line in owner.log_tail())
        return generation, read_clip(tmp_path / "out" / generation.clip).frames

    yield start
    for owner in owners:
        owner.close()


Run = Callable[[Case], tuple[Generation, Any]]


def _ramp() -> Any:
    return np.linspace(0.0, 1.0, int(np.prod(SHAPE)), dtype=np.float32).reshape(SHAPE)


def test_uint8_frames_are_taken_as_they_are(run: Run, tmp_path: Path) -> None:
    generation, frames = run(_case(env={"STATED": "stated-by-the-case"}))
    np.testing.assert_array_equal(frames, (_ramp() * 255).astype(np.uint8))
    assert generation.shape == SHAPE
    assert generation.receipts.modules == ()
    assert generation.float_stats.maximum == 1.0
    log = next(tmp_path.glob("engine-*.log")).read_text()
    assert "stated-by-the-case" in log


@pytest.mark.parametrize("fault", ["float", "overshoot"])
def test_float_frames_are_looked_at_then_rounded(run: Run, fault: str) -> None:
    generation, frames = run(_case(fault))
    video = _ramp() if fault == "float" else _ramp() * 2 - 0.5
    np.testing.assert_array_equal(frames, (video.clip(0, 1) * 255).round().astype(np.uint8))
    assert generation.float_stats.minimum == pytest.approx(float(video.min()))
    assert generation.float_stats.maximum == pytest.approx(float(video.max()))


def test_nan_is_seen_before_rounding(run: Run) -> None:
    stats = run(_case("nan"))[0].float_stats
    assert (stats.nan, stats.inf, stats.first_bad_frame) == (1, 0, 2)


@pytest.mark.parametrize(
    ("fault", "kind", "words"),
    [
        ("short", "protocol", "[2, 16, 24, 3]"),
        ("transposed", "protocol", "[3, 24, 16, 3]"),
        ("double", "protocol", "float64"),
        ("two", "protocol", "extra"),
        ("name", "protocol", "video"),
        ("nothing", "protocol", "cannot be read"),
        ("garbage", "protocol", "cannot be read"),
        ("exit", "crash", "exit status 3"),
        ("killed", "crash", "SIGKILL"),
    ],
)
def test_anything_else_is_an_error(run: Run, fault: str, kind: str, words: str) -> None:
    with pytest.raises(InfraError) as caught:
        run(_case(fault))
    assert caught.value.kind == kind
    assert words in caught.value.what


def _with_receipts(fault: str) -> Case:
    case = _case(fault)
    return case.model_copy(update={"command": (*case.command, "{receipts}")})


def test_a_program_that_is_asked_for_receipts_brings_them(run: Run) -> None:
    (one,) = run(_with_receipts("fine"))[0].receipts.modules
    assert (one.module, one.format, one.kernel, one.calls) == ("a", "nvfp4", "cutlass", 2)


def test_receipts_that_are_none_are_an_error(run: Run, tmp_path: Path) -> None:
    with pytest.raises(InfraError, match="receipts cannot be read") as caught:
        run(_with_receipts("receipts"))
    assert caught.value.kind == "protocol"


def test_a_stale_result_is_not_taken(run: Run, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "frames.safetensors").write_bytes(b"of an earlier run")
    with pytest.raises(InfraError, match="cannot be read"):
        run(_case("nothing"))
    assert not (tmp_path / "out" / "frames.safetensors").exists()


def test_a_hanging_program_is_killed_with_its_children(run: Run, tmp_path: Path) -> None:
    with pytest.raises(InfraError) as caught:
        run(_case("hang", timeouts={"load": 60, "generate": 4}))
    assert caught.value.kind == "hang"
    pids = [int(pid) for pid in (tmp_path / "out" / "pids").read_text().split()]
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline and any(map(psutil.pid_exists, pids)):
        time.sleep(0.05)
    assert not any(map(psutil.pid_exists, pids))


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ([], "needs `command`"),
        (["program", "{out}"], "{case_json}"),
        (["program", "{case_json}"], "{out}"),
        (["no-such-program", "{case_json}", "{out}"], "no-such-program"),
    ],
)
def test_a_command_that_cannot_work_is_refused_at_load(run: Run, command: list[str], words: str) -> None:
    with pytest.raises(InvalidCaseError) as caught:
        run(_case(command=command))
    assert words in caught.value.what
