"""Every way an engine can die is a typed error, leaves no process behind, and the next engine works."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
from engine_processes import alive, left

from harness.definitions.case import Case
from harness.engine import owner as owner_module
from harness.engine.environment import engine_environment, engine_key
from harness.engine.owner import EngineOwner
from harness.errors import CheckpointFaultError, InfraError, InvalidCaseError
from harness.frames.clip import read_clip
from harness.machine.processes import MARKER
from harness.records.generation import Progress

Start = Callable[..., EngineOwner]
Make = Callable[..., Case]


def _session_members(leader: int) -> list[int]:
    members = []
    for pid in psutil.pids():
        try:
            if os.getsid(pid) == leader and alive(pid):
                members.append(pid)
        except (ProcessLookupError, PermissionError):
            continue
    return members


def test_one_engine_serves_many_cases_and_reports_progress(start_owner: Start, make_case: Make, tmp_path: Path) -> None:
    owner = start_owner(make_case())
    seen: list[Progress] = []
    first = owner.generate(make_case(), tmp_path / "a", seen.append)
    second = owner.generate(make_case(id="other"), tmp_path / "b")
    assert first.clip_sha256 == second.clip_sha256
    for folder, made in (("a", first), ("b", second)):
        assert read_clip(tmp_path / folder / made.clip).digest == made.clip_sha256
    assert [(event.stage, event.step, event.steps) for event in seen] == [("denoise", 1, 2), ("denoise", 2, 2)]
    assert owner.start_record is not None
    assert owner.start_record.loads == 1
    assert owner.start_record.quantized_modules == {"transformer": {"blocks.0.ffn.net.2": "nvfp4"}}


@pytest.mark.parametrize(
    ("fault", "kind", "words"),
    [
        ("segfault", "crash", "SIGSEGV"),
        ("exit", "crash", "exit status 7"),
        ("sigkill", "crash", "SIGKILL"),
        ("exception", "crash", "ValueError: something odd"),
        ("oom", "oom", "out of memory"),
        ("memory_error", "oom", "Unable to allocate"),
        ("device", "device", "illegal memory access"),
        ("nonsense", "protocol", "not JSON"),
        ("wrong_record", "protocol", "is no Generation"),
        ("clip_elsewhere", "protocol", "no file in its folder"),
        ("clip_link", "protocol", "no file in its folder"),
    ],
)
def test_a_fault_is_typed_and_the_engine_is_dead(
    start_owner: Start, make_case: Make, tmp_path: Path, fault: str, kind: str, words: str
) -> None:
    owner = start_owner(make_case())
    leader = owner.pid
    assert leader is not None
    with pytest.raises(InfraError) as caught:
        owner.generate(make_case(fault), tmp_path)
    assert caught.value.kind == kind
    assert words in caught.value.message
    assert str(owner.log_path) in caught.value.remedy
    assert not owner.alive
    assert _session_members(leader) == []
    with pytest.raises(InfraError, match="not running"):
        owner.generate(make_case(), tmp_path)


def test_a_clip_may_be_named_by_its_whole_path(start_owner: Start, make_case: Make, tmp_path: Path) -> None:
    """Backends of others do; it is the same file in the same folder."""
    made = start_owner(make_case()).generate(make_case("clip_absolute"), tmp_path / "a")
    assert read_clip(tmp_path / "a" / made.clip).digest == made.clip_sha256


@pytest.mark.parametrize("fault", ["hang", "stop"])
def test_a_deadline_is_the_parents(start_owner: Start, make_case: Make, tmp_path: Path, fault: str) -> None:
    owner = start_owner(make_case())
    leader = owner.pid
    assert leader is not None
    case = make_case(fault, timeouts={"load": 60, "generate": 0.5})
    with pytest.raises(InfraError, match="generate took longer than") as caught:
        owner.generate(case, tmp_path)
    assert caught.value.kind == "hang"
    assert _session_members(leader) == []


def test_a_frozen_worker_is_seen_before_its_deadline(start_owner: Start, make_case: Make, tmp_path: Path) -> None:
    owner = start_owner(make_case(), silence_limit=3.0)
    with pytest.raises(InfraError, match="generate: no sign of life for 3 s, and the engine was killed") as caught:
        owner.generate(make_case("stop"), tmp_path)
    assert caught.value.kind == "hang"
    assert "took longer" not in str(caught.value), "its deadline did not pass"


def test_a_sleeping_worker_still_beats(start_owner: Start, make_case: Make, tmp_path: Path) -> None:
    owner = start_owner(make_case(), silence_limit=6.0)
    with pytest.raises(InfraError, match="deadline passed"):
        owner.generate(make_case("hang", timeouts={"load": 60, "generate": 7}), tmp_path)


@pytest.mark.parametrize("fault", ["children_then_hang", "children_then_crash"])
def test_children_orphans_and_escapees_die_with_the_engine(
    start_owner: Start, make_case: Make, tmp_path: Path, fault: str
) -> None:
    owner = start_owner(make_case())
    with pytest.raises(InfraError):
        owner.generate(make_case(fault, timeouts={"load": 60, "generate": 5}), tmp_path)
    pids = [int(line) for line in (tmp_path / "pids").read_text().split()]
    assert len(pids) == 3
    assert left(pids) == []


def test_closing_ends_children_too(start_owner: Start, make_case: Make, tmp_path: Path) -> None:
    owner = start_owner(make_case())
    owner.generate(make_case("children"), tmp_path)
    pids = [int(line) for line in (tmp_path / "pids").read_text().split()]
    assert all(map(alive, pids))
    owner.close()
    owner.close()
    assert left(pids) == []


def test_a_fork_bomb_dies_with_its_group(start_owner: Start, make_case: Make, tmp_path: Path) -> None:
    owner = start_owner(make_case())
    leader = owner.pid
    assert leader is not None
    with pytest.raises(InfraError):
        owner.generate(make_case("fork_bomb", timeouts={"load": 60, "generate": 0.3}), tmp_path)
    assert left(_session_members(leader)) == []
    assert _session_members(leader) == []


def test_the_death_of_the_supervisor_is_a_crash_and_leaves_nothing(
    start_owner: Start, make_case: Make, tmp_path: Path
) -> None:
    owner = start_owner(make_case())
    leader = owner.pid
    assert leader is not None
    threading.Timer(0.5, os.kill, (leader, signal.SIGKILL)).start()
    with pytest.raises(InfraError, match="SIGKILL") as caught:
        owner.generate(make_case("children_then_hang"), tmp_path)
    assert caught.value.kind == "crash"
    assert _session_members(leader) == []


def test_a_kill_by_the_kernel_for_memory_is_oom(
    start_owner: Start, make_case: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    counter = iter((3, 4))
    monkeypatch.setattr(owner_module, "kernel_kills", lambda: next(counter))
    owner = start_owner(make_case())
    with pytest.raises(InfraError, match="the kernel killed the engine for memory") as caught:
        owner.generate(make_case("sigkill"), tmp_path)
    assert caught.value.kind == "oom"


def test_the_parents_side_never_imports_torch() -> None:
    program = (
        "import sys, harness.engine.owner, harness.engine.resolve; "
        "print(sorted({'torch', 'diffusers', 'transformers'} & set(sys.modules)))"
    )
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120, check=False)
    assert (ended.returncode, ended.stdout) == (0, "[]\n"), ended.stderr


def test_the_death_of_the_parent_ends_the_engine(tmp_path: Path) -> None:
    program = f"""
import os, sys, pathlib
sys.path.insert(0, {str(Path(__file__).parents[1] / "support")!r})
from fault_cases import fault_case
from harness.engine.owner import EngineOwner
folder = pathlib.Path({str(tmp_path)!r})
paths = {{"model": folder / "model"}}
owner = EngineOwner(fault_case(), folder, {{}}, paths, allow_python_backend=True)
owner.start()
owner.generate(fault_case("children"), folder)
print(owner.pid, flush=True)
os.kill(os.getpid(), 9)
"""
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode == -signal.SIGKILL, ended.stderr
    leader = int(ended.stdout.split()[-1])
    pids = [int(line) for line in (tmp_path / "pids").read_text().split()]
    assert left([leader, *pids]) == []
    assert _session_members(leader) == []


def test_noise_on_the_standard_streams_goes_to_the_log(start_owner: Start, make_case: Make, tmp_path: Path) -> None:
    owner = start_owner(make_case())
    owner.generate(make_case("noise"), tmp_path)
    assert any("library chatter" in line for line in owner.log_tail())
    assert any('"event": "result"' in line for line in owner.log_tail(5000))


def test_passed_values_are_never_shown_or_kept(
    start_owner: Start, make_case: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAULT_SECRET", "hunter2-value")
    owner = start_owner(make_case(pass_env=["FAULT_SECRET"]))
    owner.generate(make_case("noise", pass_env=["FAULT_SECRET"]), tmp_path)
    assert "library chatter, secret=<FAULT_SECRET>" in owner.log_tail()
    assert "hunter2-value" not in owner.log_path.read_text(), "nor before the engine ends: the parent may be killed"
    environment = owner.call("environment", {}, 30)
    assert isinstance(environment, dict)
    # only the value itself is replaced by its name, so the engine has it, and its answer does not carry it further
    assert environment["FAULT_SECRET"] == "<FAULT_SECRET>"  # noqa: S105 - the name in place of the value
    with pytest.raises(InfraError, match="token <FAULT_SECRET>"):
        owner.generate(make_case("secret", pass_env=["FAULT_SECRET"]), tmp_path)
    assert "hunter2-value" not in owner.log_path.read_text()


def test_the_death_of_the_parent_ends_an_engine_whose_output_it_reads(tmp_path: Path) -> None:
    program = f"""
import os, sys, time, pathlib
sys.path.insert(0, {str(Path(__file__).parents[1] / "support")!r})
from fault_cases import fault_case
from harness.engine.owner import EngineOwner
folder = pathlib.Path({str(tmp_path)!r})
paths = {{"model": folder / "model"}}
case = fault_case("noise_then_hang", pass_env=["FAULT_SECRET"])
owner = EngineOwner(case, folder, {{}}, paths, allow_python_backend=True)
owner.start()
print(owner.pid, flush=True)
def end(progress):
    if progress.stage == "said":
        while not owner.log_path.stat().st_size:  # a thread writes it, and may be behind
            time.sleep(0.01)
        os.kill(os.getpid(), 9)
owner.generate(case, folder, end)
"""
    environment = {**os.environ, "FAULT_SECRET": "hunter2-value"}
    ended = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False, env=environment
    )
    assert ended.returncode == -signal.SIGKILL, ended.stderr
    assert left([int(ended.stdout.split()[-1])]) == []
    log = next(tmp_path.glob("engine-*.log")).read_text()
    assert '"event": "result"' in log
    assert "hunter2-value" not in log


def test_a_log_that_cannot_be_written_does_not_block_the_engine(
    start_owner: Start, make_case: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAULT_SECRET", "hunter2-value")
    case = make_case("noise", pass_env=["FAULT_SECRET"])
    key = engine_key(case)
    (tmp_path / f"engine-{key[:12]}.log").symlink_to("/dev/full")
    start_owner(case).generate(case, tmp_path)


def test_a_missing_passed_name_is_refused(start_owner: Start, make_case: Make) -> None:
    with pytest.raises(InvalidCaseError, match="QUANTGATE_NOT_SET"):
        start_owner(make_case(pass_env=["QUANTGATE_NOT_SET"]))


def test_the_environment_is_exactly_what_is_documented(
    start_owner: Start, make_case: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LEAKED", "yes")
    monkeypatch.setenv("PASSED", "value")
    monkeypatch.setenv("PYTHONPATH", "/somewhere")
    case = make_case(
        env={"STATED": "1", "OMP_NUM_THREADS": "3"},
        pass_env=["PASSED"],
        execution={"threads": 2, "deterministic": True},
    )
    environment = start_owner(case).call("environment", {}, 30)
    assert isinstance(environment, dict)
    base = {"PATH", "HOME", "LANG", "LC_ALL", "TMPDIR", "LD_LIBRARY_PATH", "HF_HOME", "CUDA_VISIBLE_DEVICES"}
    base |= {"CUDA_DEVICE_ORDER", "PYTHONPATH"}
    set_here = {"OMP_NUM_THREADS", "MKL_NUM_THREADS", "HF_HUB_OFFLINE", "HF_HUB_DISABLE_TELEMETRY", "PYTHONUNBUFFERED"}
    set_here |= {"TOKENIZERS_PARALLELISM", "CUBLAS_WORKSPACE_CONFIG", "STATED", "PASSED"}
    # LC_CTYPE is set by the interpreter itself under the C locale (PEP 538).
    assert set(environment) - base - {"LC_CTYPE", MARKER} == set_here
    assert environment["STATED"] == "1"
    assert environment["PASSED"] == "value"
    assert environment["OMP_NUM_THREADS"] == "3"
    assert environment["MKL_NUM_THREADS"] == "2"
    assert str(environment["PYTHONPATH"]).endswith(":/somewhere")


def test_the_cpu_engine_sees_no_gpu(make_case: Make, tmp_path: Path) -> None:
    owner = EngineOwner(
        make_case(), tmp_path, {"EXTRA": "1"}, {"model": tmp_path / "model"}, allow_python_backend=True, device="cpu"
    )
    with owner:
        owner.start()
        environment = owner.call("environment", {}, 30)
    assert isinstance(environment, dict)
    assert environment["CUDA_VISIBLE_DEVICES"] == ""
    assert environment["EXTRA"] == "1"


def test_no_case_sees_a_gpu_that_is_not_leased(make_case: Make) -> None:
    """A case file that says so is refused; whatever else made the case, the lease wins."""
    case = make_case(env={"CUDA_VISIBLE_DEVICES": "0", "STATED": "1"}, pass_env=["CUDA_DEVICE_ORDER"])
    caller = {"CUDA_DEVICE_ORDER": "FASTEST_FIRST", "CUDA_VISIBLE_DEVICES": "1,2"}
    environment = engine_environment(case, {"CUDA_VISIBLE_DEVICES": "GPU-1"}, caller)
    assert (environment["CUDA_VISIBLE_DEVICES"], environment["STATED"]) == ("GPU-1", "1")
    assert engine_environment(case, {}, caller)["CUDA_VISIBLE_DEVICES"] == "1,2"


def test_a_refused_request_leaves_the_engine_alive(start_owner: Start, make_case: Make, tmp_path: Path) -> None:
    owner = start_owner(make_case())
    with pytest.raises(InvalidCaseError, match="no such size"):
        owner.generate(make_case("refuse"), tmp_path)
    with pytest.raises(InvalidCaseError, match="no method 'probe'; it has: echo, environment"):
        owner.call("probe", {}, 10)
    with pytest.raises(InvalidCaseError, match="another engine"):
        owner.generate(make_case(env={"OTHER": "1"}), tmp_path)
    assert owner.call("echo", {"a": [1, 2]}, 10) == {"a": [1, 2]}
    assert owner.alive


@pytest.mark.parametrize(
    ("fault", "error", "words"),
    [("checkpoint", CheckpointFaultError, "no weight_scale"), ("exit", InfraError, "exit status 3")],
)
def test_a_failed_load_is_typed(
    start_owner: Start, make_case: Make, fault: str, error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words) as caught:
        start_owner(make_case(env={"FAULT_AT_LOAD": fault}))
    if isinstance(caught.value, CheckpointFaultError):
        assert caught.value.code == "scale_missing"
        assert caught.value.place == "transformer"


def test_a_backend_by_python_name_is_refused_from_a_case(make_case: Make, tmp_path: Path) -> None:
    owner = EngineOwner(make_case(), tmp_path, {}, {"model": tmp_path})
    with pytest.raises(InvalidCaseError, match="there is no backend"):
        owner.start()


def test_the_fingerprint_is_asked_of_the_engine(start_owner: Start, make_case: Make) -> None:
    fingerprint = start_owner(make_case(), runner="cpu").fingerprint()
    assert fingerprint.runner == "cpu"
    assert fingerprint.device.kind == "cpu"
    assert fingerprint.packages["numpy"]
