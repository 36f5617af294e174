"""An engine that is forked from a warm process keeps every promise of one that is a program of its own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from engine_processes import chain_of, left

from harness.definitions.case import Case
from harness.engine import starter as module
from harness.engine.environment import engine_environment
from harness.engine.owner import EngineOwner
from harness.engine.starter import Starter, early
from harness.errors import InfraError
from harness.machine.processes import MARKER, leftovers, marked

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="subreapers, death signals and /proc are Linux's")
Make = Callable[..., Case]
Start = Callable[..., EngineOwner]


def _pids(folder: Path) -> list[int]:
    return [int(line) for line in (folder / "pids").read_text().split()]


@pytest.fixture
def starter(make_case: Make) -> Iterator[Starter]:
    """A starter that imports nothing heavy, of the environment of a plain case."""
    made = Starter(engine_environment(make_case(), {}), ())
    yield made
    made.end()


@pytest.fixture
def forked(starter: Starter, start_owner: Start) -> Start:
    def start(case: Case, **options: Any) -> EngineOwner:
        return start_owner(case, starter=starter, **options)

    return start


def started(owner: EngineOwner) -> str:
    assert owner.start_record is not None
    return owner.start_record.started


def test_engines_are_forked_and_the_record_says_so(
    forked: Start, start_owner: Start, starter: Starter, make_case: Make, tmp_path: Path
) -> None:
    owner, plain = forked(make_case(id="first")), start_owner(make_case(id="first"))
    assert (started(owner), started(plain)) == ("fork", "process")
    assert owner.pid is not None
    guard, supervisor, worker = chain_of(owner.pid)
    assert psutil.Process(guard).ppid() == starter.pid
    assert {os.getsid(pid) for pid in (guard, supervisor, worker)} == {guard}
    assert psutil.Process(worker).cwd() == str(tmp_path)
    seen = [one.call("environment", {}, 30) for one in (owner, plain)]
    for environment in seen:
        assert isinstance(environment, dict)
        environment.pop(MARKER)
        environment.pop("LC_CTYPE", None)
    assert seen[0] == seen[1]
    assert (
        owner.generate(make_case(), tmp_path / "a").clip_sha256
        == plain.generate(make_case(), tmp_path / "b").clip_sha256
    )
    again = forked(make_case(id="second"))
    assert started(again) == "fork"
    assert again.generate(make_case("noise"), tmp_path / "c").clip
    owner.close()
    assert left([guard, supervisor, worker], 20.0) == []
    assert psutil.pid_exists(starter.pid)


def test_a_variable_that_counts_before_an_import_makes_it_a_process(forked: Start, make_case: Make) -> None:
    assert started(forked(make_case(execution={"threads": 2}))) == "process"
    assert started(forked(make_case(env={"ANYTHING": "1"}))) == "process"
    late = make_case(execution={"deterministic": True})
    assert started(forked(late)) == "fork"
    assert "CUBLAS_WORKSPACE_CONFIG" not in early(engine_environment(late, {"CUDA_VISIBLE_DEVICES": "3"}))
    assert "CUDA_VISIBLE_DEVICES" not in early(engine_environment(late, {"CUDA_VISIBLE_DEVICES": "3"}))


def test_whatever_it_starts_ends_with_a_forked_engine(forked: Start, make_case: Make, tmp_path: Path) -> None:
    owner = forked(make_case())
    with pytest.raises(InfraError) as caught:
        owner.generate(make_case("children_then_hang", timeouts={"load": 60, "generate": 4}), tmp_path)
    assert caught.value.kind == "hang"
    assert len(_pids(tmp_path)) == 3
    assert left(_pids(tmp_path), 20.0) == []


def test_how_a_forked_engine_died_is_told(forked: Start, make_case: Make, tmp_path: Path) -> None:
    with pytest.raises(InfraError, match="SIGKILL") as caught:
        forked(make_case()).generate(make_case("sigkill"), tmp_path)
    assert caught.value.kind == "crash"


@pytest.mark.parametrize("victims", [(0,), (1,), (0, 1)], ids=["guard", "supervisor", "both"])
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP], ids=["killed", "stopped"])
def test_the_fate_of_guard_and_supervisor_leaves_nothing(
    forked: Start, make_case: Make, tmp_path: Path, victims: tuple[int, ...], number: int
) -> None:
    owner = forked(make_case())
    assert owner.pid is not None
    chain = chain_of(owner.pid)
    owner.generate(make_case("children"), tmp_path)
    for victim in victims:
        os.kill(chain[victim], number)
    owner.close()
    assert left([*chain, *_pids(tmp_path)], 20.0) == []


def test_the_marker_in_proc_is_the_engines_own(forked: Start, starter: Starter, make_case: Make) -> None:
    owner = forked(make_case())
    assert owner.pid is not None
    environment = psutil.Process(owner.pid).environ()
    mine = marked(environment[MARKER])
    assert {process.pid for process in mine} == set(chain_of(owner.pid))
    assert psutil.Process(starter.pid).environ()[MARKER] != environment[MARKER]
    assert not leftovers()


def test_the_death_of_the_starter_is_a_crash_and_the_next_engine_is_a_process(
    forked: Start, starter: Starter, make_case: Make, tmp_path: Path
) -> None:
    owner = forked(make_case())
    assert owner.pid is not None
    chain = chain_of(owner.pid)
    threading.Timer(0.3, os.kill, (starter.pid, signal.SIGKILL)).start()
    with pytest.raises(InfraError) as caught:
        owner.generate(make_case("hang"), tmp_path)
    assert caught.value.kind == "crash"
    assert left([*chain], 20.0) == []
    assert started(forked(make_case())) == "process"


def test_a_starter_that_does_not_answer_is_given_up(
    forked: Start, starter: Starter, make_case: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert started(forked(make_case(id="warm"))) == "fork"
    monkeypatch.setattr(module, "ANSWER_SECONDS", 0.5)
    os.kill(starter.pid, signal.SIGSTOP)
    assert started(forked(make_case())) == "process"
    assert left([starter.pid], 20.0) == []


def test_a_library_that_starts_a_thread_is_not_forked(
    start_owner: Start, make_case: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "with_a_thread.py").write_text(
        "import threading, time\nthreading.Thread(target=time.sleep, args=(60,), daemon=True).start()\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    threaded = Starter(engine_environment(make_case(), {}), ("with_a_thread",))
    try:
        owner = start_owner(make_case(), starter=threaded)
        assert started(owner) == "process"
        assert "threads run after the imports" in threaded.why
        assert owner.start_record is not None
        assert owner.start_record.not_forked == threaded.why
    finally:
        threaded.end()


def test_counting_gpus_leaves_a_process_forkable_and_cuda_does_not(tmp_path: Path) -> None:
    for name in ("nvidia-uvm", "nvidiactl"):
        (tmp_path / name).touch()
    program = (
        "import sys\n"
        "from harness.engine import warm\n"
        "warm.CUDA_MEMORY = sys.argv[1] + '/nvidia-uvm'\n"
        "counting = open(sys.argv[1] + '/nvidiactl')\n"
        "assert warm.unforkable() == '', warm.unforkable()\n"
        "memory = open(sys.argv[1] + '/nvidia-uvm')\n"
        "assert warm.unforkable() == 'the imports initialized CUDA', warm.unforkable()\n"
    )
    ended = subprocess.run([sys.executable, "-c", program, tmp_path], capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr


def test_the_death_of_the_owner_ends_starter_and_engine(tmp_path: Path) -> None:
    program = f"""
import os, sys, pathlib
sys.path.insert(0, {str(Path(__file__).parents[1] / "support")!r})
from fault_cases import fault_case
from harness.engine.owner import EngineOwner
from harness.engine.environment import engine_environment
from harness.engine.starter import Starter
folder, case = pathlib.Path({str(tmp_path)!r}), fault_case()
starter = Starter(engine_environment(case, {{}}), ())
paths = {{"model": folder / "model"}}
owner = EngineOwner(case, folder, {{}}, paths, allow_python_backend=True, starter=starter)
assert owner.start().started == "fork"
owner.generate(fault_case("children"), folder)
print(owner.pid, starter.pid, flush=True)
os.kill(os.getpid(), 9)
"""
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode == -signal.SIGKILL, ended.stderr
    assert left([*map(int, ended.stdout.split()[-2:]), *_pids(tmp_path)], 20.0) == []


def test_it_can_be_switched_off(monkeypatch: pytest.MonkeyPatch, make_case: Make) -> None:
    monkeypatch.setenv(module.SWITCH, "0")
    assert module.SHARED.get(engine_environment(make_case(), {})) is None


def test_each_environment_has_its_starter_and_there_are_two_at_most(
    monkeypatch: pytest.MonkeyPatch, make_case: Make
) -> None:
    monkeypatch.setattr(module, "MODULES", ())
    shared = module._Shared()
    plain, own, third = (
        engine_environment(make_case(env=env), {}) for env in ({}, {"ONEDNN_MAX_CPU_ISA": "SSE41"}, {"MY_SWITCH": "1"})
    )
    monkeypatch.setattr(module, "Starter", lambda environment: Starter(environment, ()))
    try:
        first, second = shared.get(own), shared.get(plain)
        assert first is not None
        assert second is not None
        assert first.pid != second.pid
        assert (shared.get(own), shared.get(plain)) == (first, second)
        assert shared.get(third) is None, "a new program"
        assert shared.get({**plain, "CUDA_VISIBLE_DEVICES": "3"}) is second, "read only when the device is used"
    finally:
        shared.end()
    assert left([first.pid, second.pid], 20.0) == []


def test_packages_that_happen_to_be_installed_are_hidden_and_come_back_and_cuda_is_not_called() -> None:
    program = (
        "import importlib.util as u\n"
        # as on a machine with a GPU, for those who ask for the accelerator; a call of CUDA ends the imports
        "import sys, torch\n"
        "def call_cuda(): raise AssertionError('CUDA was called')\n"
        "torch._C._accelerator_getAccelerator = call_cuda\n"
        "torch.cuda.is_available = lambda: sys._getframe(1).f_code.co_filename.endswith('needs.py')\n"
        "from harness.engine.backends import needs\n"
        "with needs.counted_by_driver():\n"
        "    assert torch.accelerator.current_accelerator().type == 'cuda'\n"
        "assert torch._C._accelerator_getAccelerator is call_cuda\n"
        "import sys, transformers.utils.import_utils as t\n"
        "assert not {'torchao', 'bitsandbytes', 'peft', 'modelopt'} & set(sys.modules), sorted(sys.modules)\n"
        "assert u.find_spec('hypothesis') is not None\n"
        "with needs.hidden(('hypothesis',)):\n"
        "    assert u.find_spec('hypothesis') is None\n"
        "assert u.find_spec('hypothesis') is not None\n"
        "from harness.engine.backends.wan_loading import COMPONENTS, PIPELINES\n"
        "before = set(sys.modules)\n"
        "for library, kind in set().union(*COMPONENTS.values(), {('diffusers', name) for name in PIPELINES}):\n"
        "    getattr(sys.modules[library], kind)\n"
        "assert set(sys.modules) == before, sorted(set(sys.modules) - before)[:20]\n"
        "from harness.engine.warm import unforkable\n"
        "assert unforkable() == ''\n"
    )
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    ended = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=240, check=False, env=environment
    )
    assert ended.returncode == 0, ended.stderr
