"""Another program as the runtime: its frames are taken exactly, or not at all."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import psutil
import pytest
from builders import make_case

from harness.definitions.case import Case
from harness.engine.backends.command_backend import CommandBackend, _run, _usage
from harness.engine.owner import EngineOwner
from harness.errors import InfraError, InvalidCaseError
from harness.frames.clip import read_clip
from harness.records.generation import Generation

PROGRAM = str(Path(__file__).with_name("a_runtime.py"))
SHAPE = (3, 16, 24, 3)


def _case(fault: str = "fine", **changes: Any) -> Case:
    usual = {
        "backend": "command",
        "command": [sys.executable, PROGRAM, "{case_json}", "{out}", fault],
        "sampling": {"height": 16, "width": 24, "num_inference_steps": 1},
        "timeouts": {"load": 60, "generate": 60},
    }
    return make_case(**{**usual, **changes})


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
        ("exit", "crash", "exit status 3; its stderr ends: RuntimeError: shapes do not match"),
        ("silent", "crash", "exit status 3; it wrote nothing"),
        ("memory", "oom", "CUDA out of memory"),
        ("killed", "crash", "SIGKILL"),
    ],
)
def test_anything_else_is_an_error(run: Run, fault: str, kind: str, words: str) -> None:
    with pytest.raises(InfraError) as caught:
        run(_case(fault))
    assert caught.value.kind == kind
    assert words in caught.value.message


def test_a_crash_keeps_the_end_of_both_streams(run: Run) -> None:
    with pytest.raises(InfraError) as caught:
        run(_case("exit"))
    output = caught.value.output
    assert output["stdout"].splitlines() == [f"step {number}" for number in range(20, 40)]
    assert output["stderr"].splitlines() == ["Traceback", "RuntimeError: shapes do not match"]


@pytest.mark.parametrize(
    ("stdout", "stderr", "kind", "words"),
    [
        ("torch.OutOfMemoryError: CUDA out of memory. Tried 2 GiB", "loading", "oom", "its stdout ends: torch.OutOf"),
        ("retried after CUDA out of memory\\nstep 1", "KeyError: 'x'", "crash", "its stderr ends: KeyError: 'x'"),
        ("", "RuntimeError: first line\\nsecond line", "crash", "its stderr ends: RuntimeError: first line"),
        ("", "[rank0]: torch.OutOfMemoryError: CUDA out of memory\\nbye", "oom", "[rank0]: torch.OutOfMemoryError"),
        ("done", "Segmentation fault", "crash", "its stderr ends: Segmentation fault"),
    ],
)
def test_the_error_is_found_in_either_stream(tmp_path: Path, stdout: str, stderr: str, kind: str, words: str) -> None:
    program = tmp_path / "program.sh"
    program.write_text(f'printf "{stdout}"\nprintf "{stderr}" >&2\nexit 1\n')
    backend = CommandBackend()
    backend.set_root(tmp_path)
    case = _case(command=["sh", str(program), "{case_json}", "{out}"])
    backend.load(case, {}, "cpu", lambda _: None)
    with pytest.raises(InfraError) as caught:
        backend.generate(case, tmp_path / "out", lambda _: None)
    assert caught.value.kind == kind
    assert words in caught.value.message


@pytest.mark.parametrize(("free", "kind"), [(SHAPE[0] * SHAPE[1] * SHAPE[2] * 12 - 1, "disk"), (1 << 30, "crash")])
def test_a_program_that_fails_on_a_full_disk_is_a_fault_of_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, free: int, kind: str
) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=free))
    backend = CommandBackend()
    backend.set_root(tmp_path)
    case = _case(command=["sh", "-c", "echo 'OSError: 9 requested and 3 written' >&2; exit 1", "{case_json}", "{out}"])
    backend.load(case, {}, "cpu", lambda _: None)
    with pytest.raises(InfraError, match="9 requested and 3 written") as caught:
        backend.generate(case, tmp_path / "out", lambda _: None)
    assert caught.value.kind == kind
    assert ("are free in" in caught.value.message) == (kind == "disk")


def test_no_passed_value_is_in_the_words_of_a_crash(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    secret = "s3cr3t-" * 20
    monkeypatch.setenv("MY_TOKEN", secret)
    with pytest.raises(InfraError) as caught:
        run(_case("secret", pass_env=["MY_TOKEN"]))
    for text in (caught.value.message, caught.value.output["stderr"]):
        assert "s3cr3t" not in text
    assert "<MY_TOKEN>" in caught.value.output["stderr"]


def test_a_daemon_that_holds_the_streams_holds_nobody_up(run: Run) -> None:
    began = time.monotonic()
    run(_case("daemon"))
    assert time.monotonic() - began < 50


def test_a_program_runs_in_the_root_and_is_told_its_places(tmp_path: Path) -> None:
    root = tmp_path / "root {out}"  # a path is never taken for a placeholder
    (root / "bin").mkdir(parents=True)
    (root / "bin" / "program").write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
    (root / "bin" / "program").chmod(0o755)
    command = ("bin/program", PROGRAM, "{case_json}", "{out}", "where", "{root}/x", "{out_dir}", "{disturb}", "{other}")
    case = _case(command=command)
    with EngineOwner(case, tmp_path / "work", {}, {"model": tmp_path / "m"}, device="cpu", root=root) as owner:
        owner.start()
        owner.generate(case, tmp_path / "out")
    printed = (tmp_path / "out" / "where").read_text().splitlines()
    assert printed == [str(root), f"{root}/x", str(tmp_path / "out" / "program"), "0", "{other}"]


def test_a_program_that_takes_a_seed_is_disturbed_and_one_that_takes_none_says_so(tmp_path: Path) -> None:
    plain = _case("disturb")
    case = plain.model_copy(update={"command": (*plain.command, "{disturb}")})
    out, noise = tmp_path / "noisy", {"seed": 5, "dtype": "bf16", "initial": True, "between": False}
    with EngineOwner(case, tmp_path, {}, {"model": tmp_path / "m"}, device="cpu") as owner:
        owner.start()
        params: Any = {"case": case.model_dump(mode="json"), "out_dir": str(out), "noise": noise}
        still, noisy = (
            owner.generate(case, tmp_path / "out"),
            Generation.model_validate(owner.call("generate_perturbed", params, 60)),
        )
        params["case"] = plain.model_dump(mode="json")
        with pytest.raises(InvalidCaseError, match=r"takes no \{disturb\}"):
            owner.call("generate_perturbed", params, 60)
    first, second = (read_clip(path / "clip.safetensors").frames for path in (tmp_path / "out", out))
    np.testing.assert_array_equal(second, first + np.uint8(5))
    assert still.clip_sha256 != noisy.clip_sha256


def test_a_run_without_receipts_is_marked_and_one_with_them_is_not(run: Run) -> None:
    assert run(_case())[0].unproven == "not proven which kernels ran: the program writes no receipts"
    assert run(_with_receipts("fine"))[0].unproven == ""


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


def test_a_program_of_another_machine_cannot_be_started(tmp_path: Path) -> None:
    program = tmp_path / "binary"
    program.write_bytes(b"\x7fELF of another machine")
    program.chmod(0o755)
    with pytest.raises(InfraError, match="cannot be started: Exec format error") as caught:
        _run([str(program)], tmp_path, _case(command=[str(program), "{case_json}", "{out}"]), tmp_path)
    assert caught.value.remedy.startswith("begin `command` with a program for this machine")


def test_a_usage_that_is_none_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "usage.json"
    assert _usage(path, 2.5).total == 2.5  # a program that wrote none
    path.write_text("{}")
    with pytest.raises(InfraError, match="usage cannot be read") as caught:
        _usage(path, 2.5)
    assert (caught.value.kind, caught.value.place) == ("protocol", str(path))
    assert "take {usage} out of `command`" in caught.value.remedy
    path.write_text('{"clock": "host", "total": 4.0, "ordinal": 9}')
    assert (_usage(path, 2.5).total, _usage(path, 2.5).ordinal) == (4.0, 1)


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
        (["no-such-program", "{case_json}", "{out}"], "there is no program 'no-such-program' on PATH"),
        (["bin/none", "{case_json}", "{out}"], "there is no program bin/none, seen from the repository's root"),
        (["{root}/engine-x.log", "{case_json}", "{out}"], "engine-x.log is not executable"),
    ],
)
def test_a_command_that_cannot_work_is_refused_at_load(
    run: Run, tmp_path: Path, command: list[str], words: str
) -> None:
    (tmp_path / "engine-x.log").touch()
    with pytest.raises(InvalidCaseError) as caught:
        run(_case(command=command))
    assert words in caught.value.message
