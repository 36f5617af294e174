"""List the devices of this machine, named exactly as by the driver. NVML only: no torch, no CUDA context."""

from __future__ import annotations

import contextlib
import os
import platform
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from harness.architecture import hardware_class
from harness.errors import InfraError
from harness.records.base import Record
from harness.records.identity import Device

FAKE_DEVICES = "QUANTGATE_FAKE_DEVICES"
"""For tests of this project only: a JSON list of devices that replaces NVML's. Their UUIDs begin with ``FAKE-``, so
that no record passes for one of a real run, and an engine that requests such a device from CUDA finds none."""


def cpu_device() -> Device:
    """Return the CPU as a device. Its name is the architecture; the marketing name is for display only."""
    model = cpu_info("model name") or platform.processor()
    return Device(kind="cpu", name=hardware_class(platform.machine()), model=model)


def cpu_info(key: str) -> str:
    """Return the value of the first ``key``, such as ``flags``, in Linux's /proc/cpuinfo; empty on other systems."""
    # psutil gives neither the model nor the instruction sets of a CPU.
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return ""
    return next((line.partition(":")[2].strip() for line in lines if line.startswith(key)), "")


def gpu_devices() -> tuple[Device, ...]:
    """Return every NVIDIA GPU that NVML and ``CUDA_VISIBLE_DEVICES`` show, in NVML's order; empty without a driver.

    Raises:
        InfraError: a driver is installed and does not answer.
    """
    if FAKE_DEVICES in os.environ:
        return _visible(_fake(os.environ[FAKE_DEVICES]), os.environ.get("CUDA_VISIBLE_DEVICES"))
    import pynvml

    try:
        pynvml.nvmlInit()
    except (pynvml.NVMLError_LibraryNotFound, pynvml.NVMLError_DriverNotLoaded):
        return ()
    except pynvml.NVMLError as error:
        raise InfraError(f"the NVIDIA driver does not answer: {error}", kind="device", remedy="nvidia-smi") from error
    try:
        handles = [pynvml.nvmlDeviceGetHandleByIndex(index) for index in range(pynvml.nvmlDeviceGetCount())]
        devices = [_gpu(handle) for handle in handles]
    except pynvml.NVMLError as error:
        raise InfraError(f"the NVIDIA driver does not answer: {error}", kind="device", remedy="nvidia-smi") from error
    finally:
        pynvml.nvmlShutdown()
    return _visible(tuple(devices), os.environ.get("CUDA_VISIBLE_DEVICES"))


def driver_version() -> str | None:
    """Return the version of the NVIDIA driver, or ``None`` without a driver."""
    if FAKE_DEVICES in os.environ:
        return None
    import pynvml

    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return None
    try:
        return text_of(pynvml.nvmlSystemGetDriverVersion())
    except pynvml.NVMLError:
        return None
    finally:
        pynvml.nvmlShutdown()


def _fake(text: str) -> tuple[Device, ...]:
    devices = TypeAdapter(tuple[Device, ...]).validate_json(text)
    for device in devices:
        if not (device.uuid or "").startswith("FAKE-"):
            raise ValueError(f"{FAKE_DEVICES}: the UUID of a fake device begins with FAKE-, not {device.uuid!r}")
    return devices


def _gpu(handle: object) -> Device:
    import pynvml

    major, minor = pynvml.nvmlDeviceGetCudaComputeCapability(handle)
    return Device(
        kind="cuda",
        name=text_of(pynvml.nvmlDeviceGetName(handle)),
        compute_capability=f"{major}.{minor}",
        uuid=text_of(pynvml.nvmlDeviceGetUUID(handle)),
        memory_bytes=int(pynvml.nvmlDeviceGetMemoryInfo(handle).total),
    )


def _visible(devices: tuple[Device, ...], mask: str | None) -> tuple[Device, ...]:
    """Filter by ``CUDA_VISIBLE_DEVICES``: an index or a UUID prefix; as CUDA, stop at the first unknown entry."""
    if mask is None:
        return devices
    chosen: list[Device] = []
    for entry in (part.strip() for part in mask.split(",")):
        if entry.isdigit():
            match = devices[int(entry) : int(entry) + 1]
        else:
            match = tuple(device for device in devices if entry and (device.uuid or "").startswith(entry))[:1]
        if not match:
            break
        chosen.extend(match)
    return tuple(chosen)


def text_of(value: str | bytes) -> str:
    return value.decode() if isinstance(value, bytes) else value


# NVML's facts of a GPU, as a frozen value. A fact that this GPU or driver does not provide is ``None``, never a guess.


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
"""Bits of ``nvmlDeviceGetCurrentClocksEventReasons`` (nvml.h); bit 0 is "idle" and is left out."""

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
    """Command name, or why it cannot be read."""
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
    """Whether rows wait for a reset to be remapped."""
    remap_failed: bool | None = None
    sm_clock: int | None = None
    """Current clock, MHz."""
    sm_clock_max: int | None = None
    """Highest clock, MHz."""
    throttle: tuple[str, ...] | None = None
    """Reasons why clocks are held back, from ``THROTTLE_REASONS``."""
    recovery: str | None = None
    """Action that the driver recommends for this GPU; empty if none."""
    mig: bool | None = None
    temperature: int | None = None
    """Degrees Celsius."""
    processes: tuple[GpuProcess, ...] | None = None


@contextmanager
def started(nvml: Any) -> Iterator[bool]:
    """Start NVML for the duration of a block; yield false if there is no driver.

    Raises:
        Exception: ``nvml.NVMLError``: a driver is installed and does not answer.
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
    """Return the facts of every GPU, in NVML's order. ``nvml`` must be started.

    Args:
        nvml: the ``pynvml`` module, or a stand-in with the same functions.
        comm: returns the command name of a process id; :func:`process_name` if not given.
    """
    handles = [nvml.nvmlDeviceGetHandleByIndex(index) for index in range(nvml.nvmlDeviceGetCount())]
    return tuple(_facts(nvml, handle, comm or process_name) for handle in handles)


def process_name(pid: int) -> str:
    """Return the command name of a process of this machine, or a note if the process is not visible."""
    import psutil  # only named processes need it, and most commands name none

    try:
        return str(psutil.Process(pid).name())
    except psutil.Error:
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
        uuid=text_of(nvml.nvmlDeviceGetUUID(handle)),
        name=text_of(nvml.nvmlDeviceGetName(handle)),
        compute_capability=f"{major}.{minor}",
        pci=text_of(pci.busId) if pci is not None else None,
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
        throttle=None
        if reasons is None
        else tuple(reason for bit, reason in THROTTLE_REASONS.items() if reasons & bit),
        recovery=_recovery(nvml, handle),
        mig=bool(mig[0]) if mig is not None else None,
        temperature=ask("nvmlDeviceGetTemperature", nvml.NVML_TEMPERATURE_GPU),
        processes=None
        if running is None
        else tuple(
            GpuProcess(pid=process.pid, name=comm(process.pid), memory_bytes=process.usedGpuMemory)
            for process in sorted(running, key=lambda item: int(item.pid))
        ),
    )


class _Ask:
    """Call an NVML function that not every GPU and driver supports; return ``None`` if this one does not."""

    def __init__(self, nvml: Any, handle: object) -> None:
        self._nvml, self._handle = nvml, handle

    def __call__(self, function: str, *arguments: object) -> Any:
        with contextlib.suppress(self._nvml.NVMLError):
            return getattr(self._nvml, function)(self._handle, *arguments)
        return None


def _recovery(nvml: Any, handle: object) -> str | None:
    """Return the recovery action in words; empty if none, ``None`` if the driver does not report it (before R570)."""
    field = getattr(nvml, "NVML_FI_DEV_GET_GPU_RECOVERY_ACTION", None)
    if field is None:
        return None
    with contextlib.suppress(nvml.NVMLError):
        value = nvml.nvmlDeviceGetFieldValues(handle, [field])[0]
        if value.nvmlReturn == nvml.NVML_SUCCESS:
            action = int(value.value.uiVal)
            return "" if action == 0 else RECOVERY_ACTIONS.get(action, f"recovery action {action}")
    return None
