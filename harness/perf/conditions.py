"""The machine while an engine works: clocks, power, heat, throttling, other processes, and the engine's host memory.

Sampled by a thread of the parent, twice a second, so that it works for any backend. It reads ``/proc`` and NVML;
values that they do not give are ``None``.
"""

from __future__ import annotations

import contextlib
import os
import platform
import statistics
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.machine.devices import THROTTLE_REASONS, process_name
from harness.machine.processes import descendants
from harness.records.perf import Conditions

PERIOD_SECONDS = 0.5
_LOOK_AROUND = 4
"""Samples between two searches for new processes of the engine; in between, only those processes are read."""
POOL_VARIABLE = "QUANTGATE_POOL"
MACHINE_VARIABLE = "QUANTGATE_MACHINE"


@dataclass(frozen=True)
class GpuSample:
    """NVML's values for one GPU at one moment."""

    sm_clock: int | None = None
    sm_clock_max: int | None = None
    power: float | None = None
    temperature: int | None = None
    throttle: tuple[str, ...] = ()
    processes: tuple[int, ...] = ()


class Sampler:
    """Samples from `start` to `stop`.

    Args:
        root: process id of the engine's session leader; all its descendants belong to the engine.
        gpu: takes one sample of the GPU, or ``None`` without one.
        machine: name of the machine, see `machine_name`.
        pool: label of the machines that are alike, or empty.
        period: seconds between two samples.
    """

    def __init__(
        self,
        root: int,
        gpu: Callable[[], GpuSample] | None,
        machine: str,
        pool: str = "",
        period: float = PERIOD_SECONDS,
    ) -> None:
        self._root, self._gpu, self._machine, self._pool, self._period = root, gpu, machine, pool, period
        self._samples: list[GpuSample] = []
        self._host: list[int] = []
        self._own_pids: set[int] = set()
        self._tree: tuple[int, ...] = (root,)
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._ran, self._waited = 0, 0

    @contextmanager
    def sampling(self) -> Iterator[Sampler]:
        """Sample while the context lasts."""
        self._ran, self._waited = _scheduled(self._root)
        self._take()
        self._thread.start()
        try:
            yield self
        finally:
            self._stopped.set()
            self._thread.join()
            self._take()
            ran, waited = _scheduled(self._root)
            self._ran, self._waited = max(0, ran - self._ran), max(0, waited - self._waited)

    def conditions(self) -> Conditions:
        """Return the conditions over all samples."""
        busy = self._ran + self._waited
        clocks = [sample.sm_clock for sample in self._samples if sample.sm_clock is not None]
        powers = [sample.power for sample in self._samples if sample.power is not None]
        heats = [sample.temperature for sample in self._samples if sample.temperature is not None]
        tops = [sample.sm_clock_max for sample in self._samples if sample.sm_clock_max is not None]
        return Conditions(
            machine=self._machine,
            pool=self._pool,
            samples=len(self._host),
            sm_clock=round(statistics.median(clocks)) if clocks else None,
            sm_clock_max=max(tops, default=None),
            power=round(statistics.median(powers), 1) if powers else None,
            temperature=max(heats, default=None),
            throttle=tuple(sorted({reason for sample in self._samples for reason in sample.throttle})),
            foreign=tuple(self._foreign()),
            waiting=round(self._waited / busy, 4) if busy else None,
            host_before=self._host[0] if self._host else None,
            host_peak=max(self._host, default=None),
            host_after=self._host[-1] if self._host else None,
        )

    def _foreign(self) -> Iterator[str]:
        """Yield the processes on the GPU that are not the engine's.

        In a container NVML may number processes as the host does. If none of its numbers is the engine's, one of them
        must be, and the others are foreign: they cannot be named then.
        """
        pids = {pid for sample in self._samples for pid in sample.processes}
        strangers = pids - self._own_pids
        if pids and not pids & self._own_pids:
            at_once = max(len(sample.processes) for sample in self._samples)
            yield from (f"a process that is not visible from here ({place})" for place in range(1, at_once))
            return
        yield from (f"{process_name(pid)} (pid {pid})" for pid in sorted(strangers))

    def _run(self) -> None:
        while not self._stopped.wait(self._period):
            self._take()

    def _take(self) -> None:
        if len(self._host) % _LOOK_AROUND == 0 or self._stopped.is_set():
            self._tree = (self._root, *(process.pid for process in descendants(self._root)))
            self._own_pids.update(self._tree)
        self._host.append(sum(map(anonymous_bytes, self._tree)))
        if self._gpu is not None:
            # a GPU that stops answering is found by its engine; the sampler only goes without
            with contextlib.suppress(Exception):
                self._samples.append(self._gpu())


def anonymous_bytes(pid: int) -> int:
    """Return the bytes that a process allocated, without mapped files and shared memory; 0 if it is gone."""
    import psutil  # its import takes longer than the start of most commands may cost

    with contextlib.suppress(psutil.Error):
        memory = psutil.Process(pid).memory_info()
        return int(memory.rss - getattr(memory, "shared", 0))  # macOS counts no shared memory
    return 0


def _scheduled(root: int) -> tuple[int, int]:
    """Return the nanoseconds for which an engine's threads ran, and waited for a CPU (proc_pid_schedstat).

    psutil has the time on the CPU and not the time of waiting.
    """
    ran = waited = 0
    for pid in (root, *(process.pid for process in descendants(root))):
        with contextlib.suppress(OSError):
            for task in Path(f"/proc/{pid}/task").iterdir():
                with contextlib.suppress(OSError, ValueError, IndexError):
                    fields = (task / "schedstat").read_text(encoding="ascii").split()
                    ran, waited = ran + int(fields[0]), waited + int(fields[1])
    return ran, waited


def machine_name(uuid: str | None) -> str:
    """Return the name of the machine: ``QUANTGATE_MACHINE``, else the GPU's UUID, else the host's name."""
    return os.environ.get(MACHINE_VARIABLE, "") or uuid or platform.node()


def pool_name() -> str:
    """Return the label of this machine's pool, as the lane states it; empty if it states none."""
    return os.environ.get(POOL_VARIABLE, "")


@contextmanager
def gpu_sampler(uuid: str | None) -> Iterator[Callable[[], GpuSample] | None]:
    """Return a function that samples the GPU ``uuid`` through NVML; ``None`` if there is no GPU or no driver."""
    if not uuid or uuid.startswith("FAKE-"):
        yield None
        return
    import pynvml

    try:
        pynvml.nvmlInit()
        handle = pynvml.nvmlDeviceGetHandleByUUID(uuid)
    except pynvml.NVMLError:
        yield None
        return
    try:
        yield lambda: sample_gpu(pynvml, handle)
    finally:
        with contextlib.suppress(pynvml.NVMLError):
            pynvml.nvmlShutdown()


def sample_gpu(nvml: Any, handle: object) -> GpuSample:
    """Return one sample of one GPU. ``nvml`` is the initialised ``pynvml`` module, or a stand-in."""

    def ask(function: str, *arguments: object) -> Any:
        with contextlib.suppress(nvml.NVMLError):
            return getattr(nvml, function)(handle, *arguments)
        return None

    reasons = ask("nvmlDeviceGetCurrentClocksEventReasons") or 0
    power = ask("nvmlDeviceGetPowerUsage")
    return GpuSample(
        sm_clock=ask("nvmlDeviceGetClockInfo", nvml.NVML_CLOCK_SM),
        sm_clock_max=ask("nvmlDeviceGetMaxClockInfo", nvml.NVML_CLOCK_SM),
        power=None if power is None else power / 1000,
        temperature=ask("nvmlDeviceGetTemperature", nvml.NVML_TEMPERATURE_GPU),
        throttle=tuple(reason for bit, reason in THROTTLE_REASONS.items() if reasons & bit),
        processes=tuple(int(process.pid) for process in ask("nvmlDeviceGetComputeRunningProcesses") or ()),
    )


@contextmanager
def sampled(pid: int | None, uuid: str | None) -> Iterator[Callable[[], Conditions]]:
    """Sample an engine and its GPU while the context lasts.

    Args:
        pid: the engine's session leader; ``None``: it is gone, and nothing is sampled.
        uuid: of the GPU; ``None`` on a CPU.

    Yields:
        A function that gives the conditions, to be called afterwards.
    """
    machine, pool = machine_name(uuid), pool_name()
    if pid is None:
        yield lambda: Conditions(machine=machine, pool=pool)
        return
    with gpu_sampler(uuid) as gpu:
        sampler = Sampler(pid, gpu, machine, pool)
        with sampler.sampling():
            yield sampler.conditions
