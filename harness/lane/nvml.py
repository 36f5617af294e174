"""What NVML says of a GPU, as a frozen value. What this GPU or driver does not give is ``None``, never a guess."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from harness.records.base import Record

THROTTLE_REASONS = {
    0x0000000000000002: "application clocks are set",
    0x0000000000000004: "software power cap",
    0x0000000000000008: "hardware slowdown",
    0x0000000000000010: "sync boost",
    0x0000000000000020: "software thermal slowdown",
    0x0000000000000040: "hardware thermal slowdown",
    0x0000000000000080: "hardware power brake",
    0x0000000000000100: "display clocks are set",
}
"""Bits of ``nvmlDeviceGetCurrentClocksEventReasons`` (nvml.h); bit 0 is "idle" and says nothing."""

RECOVERY_ACTIONS = {
    1: "reset the GPU",
    2: "reboot the node",
    3: "drain peer-to-peer traffic",
    4: "drain and reset the GPU",
    5: "recover the IMEX domain",
    6: "reset the bus",
    7: "reboot the system",
}
"""Values of ``NVML_FI_DEV_GET_GPU_RECOVERY_ACTION`` (nvml.h); 0 is none."""


class GpuProcess(Record):
    """A process that has a compute context on a GPU."""

    pid: int
    name: str
    """Command name, or why it cannot be told."""
    memory_bytes: int | None = None


class GpuFacts(Record):
    """One GPU as NVML describes it."""

    uuid: str
    name: str
    compute_capability: str
    pci: str | None = None
    memory_total: int
    memory_free: int
    ecc_enabled: bool | None = None
    ecc_uncorrected: int | None = None
    """Uncorrected memory errors since the driver was loaded."""
    remap_pending: bool | None = None
    """Rows wait for a reset to be remapped."""
    remap_failed: bool | None = None
    sm_clock: int | None = None
    """MHz, now."""
    sm_clock_max: int | None = None
    """MHz."""
    throttle: tuple[str, ...] | None = None
    recovery: str | None = None
    """What the driver says must be done with this GPU: empty for nothing."""
    mig: bool | None = None
    temperature: int | None = None
    """Degrees Celsius."""
    processes: tuple[GpuProcess, ...] | None = None


@contextmanager
def started(nvml: Any) -> Iterator[bool]:
    """Start NVML for a while; false where there is no driver.

    Raises:
        Exception: ``nvml.NVMLError``: there is a driver and it does not answer.
    """
    try:
        nvml.nvmlInit()
    except (nvml.NVMLError_LibraryNotFound, nvml.NVMLError_DriverNotLoaded):
        yield False
        return
    try:
        yield True
    finally:
        nvml.nvmlShutdown()


def read_gpus(nvml: Any, comm: Callable[[int], str] | None = None) -> tuple[GpuFacts, ...]:
    """Facts of every GPU, in NVML's order. ``nvml`` is started.

    Args:
        nvml: the ``pynvml`` module, or something like it.
        comm: gives the name of a process; read from ``/proc`` if not given.
    """
    handles = [nvml.nvmlDeviceGetHandleByIndex(index) for index in range(nvml.nvmlDeviceGetCount())]
    return tuple(_facts(nvml, handle, comm or process_name) for handle in handles)


def process_name(pid: int) -> str:
    """Command name of a process of this machine."""
    try:
        return Path(f"/proc/{pid}/comm").read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return "not visible from here, such as a process of another container"


def _facts(nvml: Any, handle: object, comm: Callable[[int], str]) -> GpuFacts:
    memory = nvml.nvmlDeviceGetMemoryInfo(handle)
    major, minor = nvml.nvmlDeviceGetCudaComputeCapability(handle)
    ask = _Ask(nvml, handle)
    remapped = ask("nvmlDeviceGetRemappedRows")
    reasons = ask("nvmlDeviceGetCurrentClocksEventReasons")
    ecc, mig, pci = ask("nvmlDeviceGetEccMode"), ask("nvmlDeviceGetMigMode"), ask("nvmlDeviceGetPciInfo")
    running = ask("nvmlDeviceGetComputeRunningProcesses")
    return GpuFacts(
        uuid=_text(nvml.nvmlDeviceGetUUID(handle)),
        name=_text(nvml.nvmlDeviceGetName(handle)),
        compute_capability=f"{major}.{minor}",
        pci=_text(pci.busId) if pci is not None else None,
        memory_total=int(memory.total),
        memory_free=int(memory.free),
        ecc_enabled=bool(ecc[0]) if ecc is not None else None,
        ecc_uncorrected=ask(
            "nvmlDeviceGetTotalEccErrors", nvml.NVML_MEMORY_ERROR_TYPE_UNCORRECTED, nvml.NVML_VOLATILE_ECC
        ),
        remap_pending=bool(remapped[2]) if remapped is not None else None,
        remap_failed=bool(remapped[3]) if remapped is not None else None,
        sm_clock=ask("nvmlDeviceGetClockInfo", nvml.NVML_CLOCK_SM),
        sm_clock_max=ask("nvmlDeviceGetMaxClockInfo", nvml.NVML_CLOCK_SM),
        throttle=None if reasons is None else tuple(said for bit, said in THROTTLE_REASONS.items() if reasons & bit),
        recovery=_recovery(nvml, handle),
        mig=bool(mig[0]) if mig is not None else None,
        temperature=ask("nvmlDeviceGetTemperature", nvml.NVML_TEMPERATURE_GPU),
        processes=None
        if running is None
        else tuple(
            GpuProcess(pid=one.pid, name=comm(one.pid), memory_bytes=one.usedGpuMemory)
            for one in sorted(running, key=lambda one: int(one.pid))
        ),
    )


class _Ask:
    """Calls an NVML function that not every GPU and driver has; ``None`` where this one has not."""

    def __init__(self, nvml: Any, handle: object) -> None:
        self._nvml, self._handle = nvml, handle

    def __call__(self, function: str, *arguments: object) -> Any:
        with contextlib.suppress(self._nvml.NVMLError):
            return getattr(self._nvml, function)(self._handle, *arguments)
        return None


def _recovery(nvml: Any, handle: object) -> str | None:
    """The recovery action, in words; empty for none, ``None`` where the driver does not say (before R570)."""
    field = getattr(nvml, "NVML_FI_DEV_GET_GPU_RECOVERY_ACTION", None)
    if field is None:
        return None
    with contextlib.suppress(nvml.NVMLError):
        value = nvml.nvmlDeviceGetFieldValues(handle, [field])[0]
        if value.nvmlReturn == nvml.NVML_SUCCESS:
            action = int(value.value.uiVal)
            return "" if action == 0 else RECOVERY_ACTIONS.get(action, f"recovery action {action}")
    return None


def _text(value: str | bytes) -> str:
    return value.decode() if isinstance(value, bytes) else value
