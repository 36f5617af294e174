"""The lane on a machine with two GPUs or more: ``python -m benchmarks.two_gpus [--runner NAME] [--seeds N]``.

The cases of ``cases/tiny.yaml``, each with several seeds so that an engine has several cases, run three times: on every
GPU, on one GPU, and on every GPU with an xdist worker killed in the middle of a case. From their records it is checked,
and printed, that each engine was loaded once and stayed on one GPU, that all GPUs were used, that the killed worker's
case is ``infra`` and ran again in a fresh engine, that no process outlived a run, and that the GPUs' memory came back.
Verdicts do not matter here: without goldens the cases end as ``golden_missing``. Exit status 1 if a check fails.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import psutil

from harness.definitions.loading import load_cases
from harness.definitions.runner import load_runners
from harness.machine.devices import read_gpus, started
from harness.records.case_record import CaseRecord
from harness.records.identity import Device
from harness.session.context import devices_for

ROOT = Path(__file__).parents[1]
ENGINES = frozenset({"harness.engine.worker", "harness.engine.warm"})
BUSY_SECONDS = 5.0
"""How long an engine process must have lived before its worker is killed: it loads or generates by then."""
SETTLE_SECONDS = 20.0
SLACK_BYTES = 256 << 20


@dataclass
class Run:
    """One pytest run and what it left."""

    root: Path
    name: str
    seconds: float
    engines: set[int]
    """Every engine process that was seen while it ran, and their children."""
    killed: str = ""

    @property
    def folder(self) -> Path:
        """Folder of its records."""
        return self.root / "runs" / self.name

    def records(self) -> list[CaseRecord]:
        """Records that count."""
        return [CaseRecord.read(path) for path in sorted(self.folder.glob("*/record.json"))]

    def first_attempts(self) -> list[CaseRecord]:
        """Records of attempts that were repeated."""
        return [CaseRecord.read(path) for path in sorted(self.folder.glob("*/record-attempt-1.json"))]


def engines_below(pytest: psutil.Process) -> Iterator[psutil.Process]:
    """Engine processes that a pytest run has started, directly or through its workers."""
    for child in pytest.children(recursive=True):
        try:
            if ENGINES & set(child.cmdline()):
                yield child
        except psutil.Error:
            continue


def project(root: Path, runner: str, seeds: int) -> None:
    """A repository with the tiny cases of ``runner`` times ``seeds``; JSON is YAML."""
    shutil.copytree(ROOT / "runners", root / "runners")
    for name in ("weights", "exports"):
        if not (ROOT / "tiny" / name).is_dir():
            raise SystemExit(f"there is no tiny/{name}: python -m tiny.export --out tiny/exports")
        shutil.copytree(ROOT / "tiny" / name, root / "tiny" / name)
    (root / "pytest.ini").write_text("[pytest]\naddopts = --import-mode=importlib\n", encoding="utf-8")
    tiny = load_cases([ROOT / "cases/tiny.yaml"], ROOT)
    cases = {
        case.case.id: {
            **case.case.model_dump(mode="json", exclude={"id", "waiver", "golden_of"}),
            "runners": [runner],
            "matrix": {"sampling.seed": list(range(seeds))},
        }
        for case in tiny
        if runner in case.case.runners
    }
    (root / "cases").mkdir()
    (root / "cases/tiny.yaml").write_text(json.dumps({"cases": cases}, indent=1), encoding="utf-8")


def run(root: Path, name: str, runner: str, devices: tuple[Device, ...], kill: bool = False) -> Run:
    """Run pytest on ``devices`` and watch its processes."""
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": ",".join(device.uuid or "" for device in devices)}
    environment["PYTHONPATH"] = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--run-id", name]
    command += ["cases", "--runner", runner, "-n", "auto"]
    begin = time.monotonic()
    seen: set[int] = set()
    killed = ""
    log = root / f"{name}.log"
    with (
        log.open("w") as out,
        subprocess.Popen(command, cwd=root, env=environment, stdout=out, stderr=subprocess.STDOUT) as process,
    ):
        watched = psutil.Process(process.pid)
        while process.poll() is None:
            try:
                engines = list(engines_below(watched))
                seen |= {engine.pid for engine in engines}
                seen |= {child.pid for engine in engines for child in engine.children(recursive=True)}
                old = [engine for engine in engines if time.time() - engine.create_time() > BUSY_SECONDS]
                if kill and not killed and old:
                    worker = next(parent for parent in old[0].parents() if not ENGINES & set(parent.cmdline()))
                    os.kill(worker.pid, signal.SIGKILL)
                    killed = f"worker {worker.pid} of engine {old[0].pid}"
            except psutil.Error:
                continue
            finally:
                time.sleep(0.05)
    return Run(root, name, time.monotonic() - begin, seen, killed)


def memory(devices: tuple[Device, ...]) -> dict[str, int]:
    """Used bytes by UUID."""
    import pynvml

    with started(pynvml):
        gpus = read_gpus(pynvml)
    wanted = {device.uuid for device in devices}
    return {gpu.uuid: gpu.memory_total - gpu.memory_free for gpu in gpus if gpu.uuid in wanted}


class Checks:
    """Prints each check and remembers whether one failed."""

    def __init__(self) -> None:
        self.failed = False

    def __call__(self, name: str, right: bool, shown: object = "") -> None:
        print(f"{'ok  ' if right else 'FAIL'}  {name}: {shown}")
        self.failed = self.failed or not right


def check_run(check: Checks, run: Run, devices: tuple[Device, ...], before: dict[str, int]) -> None:
    """What must hold for every run."""
    records = run.records()
    places = defaultdict(set)
    for record in records:
        if record.engine is not None and record.fingerprint is not None:
            places[record.engine.engine].add((record.engine.process, record.fingerprint.device.uuid))
    used = {uuid for place in places.values() for _, uuid in place}
    retried = {record.case for record in run.first_attempts()}
    whole = {
        key: place
        for key, place in places.items()
        if not retried & {record.case for record in records if record.engine and record.engine.engine == key}
    }
    if not records:
        print((run.root / f"{run.name}.log").read_text()[-3000:])
    check(f"{run.name}: records", bool(records), f"{len(records)} cases, {len(places)} engines")
    check(
        "  one process and one GPU an engine", all(len(place) == 1 for place in whole.values()), f"{len(whole)} engines"
    )
    processes = {process for place in whole.values() for process, _ in place}
    check("  loads, one an engine", len(processes) == len(whole), len(processes))
    if not run.killed:  # after a kill the other GPU may have done the rest before a new worker stood
        check("  GPUs used", used == {device.uuid for device in devices}, ", ".join(sorted(map(str, used))))
    deadline = time.monotonic() + SETTLE_SECONDS
    left, extra = {0}, {"": 0}
    while (left or extra) and time.monotonic() < deadline:
        left = {pid for pid in run.engines if psutil.pid_exists(pid) and _runs(pid)}
        now = memory(devices)
        extra = {uuid: now[uuid] - before[uuid] for uuid in now if now[uuid] - before[uuid] > SLACK_BYTES}
        time.sleep(0.5)
    check("  processes left", not left, sorted(left) or f"none of {len(run.engines)}")
    check("  memory left", not extra, extra or "none")


def _runs(pid: int) -> bool:
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.Error:
        return False


def prove(check: Checks, root: Path, runner: str, devices: tuple[Device, ...], before: dict[str, int]) -> None:
    """The three runs and what must hold for them."""
    every = run(root, "every", runner, devices)
    check_run(check, every, devices, before)
    single = run(root, "one", runner, devices[:1])
    check_run(check, single, devices[:1], before)
    killed = run(root, "killed", runner, devices, kill=True)
    check_run(check, killed, devices, before)
    first = killed.first_attempts()
    check("  a worker was killed", bool(killed.killed), killed.killed)
    causes = [(record.case, record.verdict.outcome.value, record.verdict.cause) for record in first]
    check("  its case is infra", [cause[1:] for cause in causes] == [("infra", "worker_died")], causes)
    again = {record.case: record for record in killed.records()}
    second = [again[record.case] for record in first if record.case in again]
    fresh = [record for record in second if record.attempt == 2 and record.engine is not None]
    check("  and ran again in a fresh engine", len(fresh) == 1, [record.case for record in fresh])
    rest = {record.case: record.verdict.outcome for record in every.records()}
    moved = [name for name, record in again.items() if rest.get(name) != record.verdict.outcome]
    check("  verdicts are those of the undisturbed run", again.keys() == rest.keys() and not moved, moved or len(rest))
    print(f"wall time: {every.seconds:.1f} s on {len(devices)} GPUs, {single.seconds:.1f} s on one,", end=" ")
    print(f"{single.seconds / every.seconds:.2f} times as fast; {killed.seconds:.1f} s with a worker killed")


def main() -> None:
    """Run, check, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runner", default="h200")
    parser.add_argument("--seeds", type=int, default=3, help="cases an engine")
    options = parser.parse_args()
    devices = devices_for(load_runners(ROOT / "runners")[options.runner])
    if len(devices) < 2:
        raise SystemExit(f"{len(devices)} GPU of runner {options.runner}: this needs two")
    check = Checks()
    before = memory(devices)
    with TemporaryDirectory() as folder:
        root = Path(folder) / "repo"
        root.mkdir()
        project(root, options.runner, options.seeds)
        prove(check, root, options.runner, devices, before)
    sys.exit(check.failed)


if __name__ == "__main__":
    main()
