"""Nothing of an engine is left, whoever of its guards dies, is stopped, or both, and whenever: real processes."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from engine_processes import alive, chain_of, left

from harness.definitions.case import Case
from harness.engine.owner import EngineOwner
from harness.errors import InfraError
from harness.machine.leases import acquire
from harness.machine.processes import MARKER, end_leftovers, kill, leftovers, look, new_marker
from harness.records.identity import Device

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="subreapers and death signals are Linux's")

Start = Callable[..., EngineOwner]
Make = Callable[..., Case]
KINDS = 5
"""What the fault `all_kinds` starts: a child, one in a session of its own, an orphan, a daemon, one deaf to SIGTERM."""


@pytest.fixture
def last_resort(tmp_path: Path) -> Iterator[None]:
    """Kill what a failed test left."""
    yield
    for line in (tmp_path / "pids").read_text().split() if (tmp_path / "pids").exists() else []:
        if alive(int(line)):
            os.kill(int(line), signal.SIGKILL)


@pytest.mark.usefixtures("last_resort")
@pytest.mark.parametrize(
    ("number", "victims"),
    [
        (signal.SIGKILL, ["guard"]),
        (signal.SIGKILL, ["supervisor"]),
        (signal.SIGKILL, ["guard", "supervisor"]),
        (signal.SIGKILL, ["guard", "supervisor", "worker"]),
        (signal.SIGSTOP, ["guard"]),
        (signal.SIGSTOP, ["supervisor"]),
        pytest.param(signal.SIGSTOP, ["guard", "supervisor"], marks=pytest.mark.slow),
    ],
)
def test_the_engine_ends_with_whoever_guards_it(
    start_owner: Start, make_case: Make, tmp_path: Path, number: signal.Signals, victims: list[str]
) -> None:
    owner = start_owner(make_case())
    assert owner.pid is not None
    chain = dict(zip(("guard", "supervisor", "worker"), chain_of(owner.pid), strict=True))

    def strike() -> None:
        for name in victims:
            os.kill(chain[name], number)

    # Where nobody is left to see a stop, the deadline ends it.
    seconds = 4 if len(victims) == 2 and number == signal.SIGSTOP else 60
    case = make_case("all_kinds", timeouts={"load": 60, "generate": seconds})
    began = time.monotonic()
    with pytest.raises(InfraError):
        owner.generate(case, tmp_path, lambda event: strike() if event.stage == "spawned" else None)
    assert time.monotonic() - began < 40
    pids = [int(line) for line in (tmp_path / "pids").read_text().split()]
    assert len(pids) == KINDS
    assert left([*pids, *chain.values()]) == []


PARENT = """
import os, sys, pathlib
sys.path.insert(0, sys.argv[1])
from fault_cases import fault_case
from harness.engine.owner import EngineOwner
from harness.machine.leases import acquire
from harness.records.identity import Device
folder = pathlib.Path(sys.argv[2])
lease = acquire([Device(kind="cuda", name="NVIDIA B200", uuid="FAKE-0")], 0, folder=folder / "leases")
owner = EngineOwner(fault_case(), folder, {}, {"model": folder / "model"}, allow_python_backend=True)
owner.start()
print(owner.pid, flush=True)
owner.generate(fault_case("all_kinds"), folder, lambda e: print(e.stage, flush=True))
"""


@pytest.mark.usefixtures("last_resort")
@pytest.mark.parametrize(
    ("stopped", "killed"),
    [
        ([], []),
        (["supervisor"], []),
        (["guard"], []),
        pytest.param(["guard", "supervisor"], [], marks=pytest.mark.slow),
        ([], ["guard", "supervisor"]),
    ],
)
def test_a_dead_parent_leaves_neither_processes_nor_its_lease(
    tmp_path: Path, stopped: list[str], killed: list[str]
) -> None:
    support = str(Path(__file__).parents[1] / "support")
    parent = subprocess.Popen([sys.executable, "-c", PARENT, support, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    guard = int(parent.stdout.readline())
    while parent.stdout.readline() not in ("spawned\n", ""):
        pass
    chain = dict(zip(("guard", "supervisor", "worker"), chain_of(guard), strict=True))
    for name in stopped:
        os.kill(chain[name], signal.SIGSTOP)
    parent.kill()
    for name in killed:
        os.kill(chain[name], signal.SIGKILL)
    parent.wait()
    parent.stdout.close()
    pids = [int(line) for line in (tmp_path / "pids").read_text().split()]
    assert len(pids) == KINDS
    if killed or len(stopped) == 2:
        # Nobody is left, or nobody who runs: the worker ends by itself, and the next run ends what it left.
        assert left([chain["worker"]]) == []
    else:
        assert left([*pids, *chain.values()]) == []
    with acquire([Device(kind="cuda", name="NVIDIA B200", uuid="FAKE-0")], 10, folder=tmp_path / "leases"):
        assert left([*pids, *chain.values()], 1.0) == []


@pytest.mark.slow
@pytest.mark.usefixtures("last_resort")
@pytest.mark.parametrize("seed", range(30))
def test_seeded_kill_points(tmp_path: Path, seed: int) -> None:
    """Parent, guard, supervisor or worker, each killed, stopped or left alone, at a random moment from the start on."""
    draw = random.Random(seed)
    support = str(Path(__file__).parents[1] / "support")
    parent = subprocess.Popen([sys.executable, "-c", PARENT, support, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    guard = int(parent.stdout.readline())
    chain = chain_of(guard)
    threading.Thread(target=parent.stdout.read, daemon=True).start()
    time.sleep(draw.uniform(0, 1.5))
    struck = {pid: draw.choice([signal.SIGKILL, signal.SIGSTOP]) for pid in draw.sample(chain, draw.randint(0, 3))}
    for pid, number in struck.items():
        if alive(pid):
            os.kill(pid, number)
            time.sleep(draw.choice([0, 0, 0.05]))
    parent.kill()
    parent.wait()
    if len(struck) < len(chain):  # else nobody runs who could notice
        assert left([chain[2]]) == []
    end_leftovers()
    pids = [int(line) for line in (tmp_path / "pids").read_text().split()] if (tmp_path / "pids").exists() else []
    assert left([*pids, *chain], 5.0) == []


def _sleeper(marker: str | None) -> subprocess.Popen[bytes]:
    environment = {**os.environ, **({MARKER: marker} if marker is not None else {})}
    return subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], env=environment)


def test_only_engines_whose_owner_is_gone_are_leftovers() -> None:
    own = new_marker()
    pid, started, namespace, rest = own.split(":")
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    markers = {
        "alive": own,
        "unmarked": None,
        "nonsense": "no marker of ours",
        "other namespace": f"{dead.pid}:1:4026530000:{rest}",
        "owner gone": f"{dead.pid}:1:{namespace}:{rest}",
        "number given away": f"{pid}:{int(started) - 1}:{namespace}:{rest}",
    }
    sleepers = {name: _sleeper(marker) for name, marker in markers.items()}
    try:
        time.sleep(0.2)
        gone = {name for name, sleeper in sleepers.items() if sleeper.pid in {item.pid for item in leftovers()}}
        assert gone == {"owner gone", "number given away"}
        ended = end_leftovers()
        assert {sleepers[name].pid for name in gone} <= set(ended)
        assert {name for name, sleeper in sleepers.items() if sleeper.poll() is None} == set(markers) - gone
    finally:
        for sleeper in sleepers.values():
            sleeper.kill()
            sleeper.wait()


def test_a_number_that_was_given_away_is_not_killed() -> None:
    sleeper = _sleeper(None)
    try:
        process = look(sleeper.pid)
        assert process is not None
        kill(process._replace(started=process.started - 1))
        time.sleep(0.1)
        assert sleeper.poll() is None
        kill(process)
        assert sleeper.wait(10) == -signal.SIGKILL
    finally:
        sleeper.kill()
        sleeper.wait()


def test_a_process_ends_with_the_parent_that_it_was_started_by(tmp_path: Path) -> None:
    """What a worker of xdist asks for."""
    child = (
        "from harness.plugin.terminal import end_with_parent; import time; end_with_parent(); print('x', flush=True)"
    )
    parent = (
        "import subprocess, sys, os\n"
        f"child = subprocess.Popen([sys.executable, '-c', {child + '; time.sleep(600)'!r}], stdout=subprocess.PIPE)\n"
        "child.stdout.readline(); print(child.pid, flush=True); os.kill(os.getpid(), 9)"
    )
    ended = subprocess.run([sys.executable, "-c", parent], capture_output=True, text=True, timeout=60, check=False)
    assert left([int(ended.stdout)]) == []
