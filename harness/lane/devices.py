"""Which devices are in this machine, exactly as the driver names them. NVML only: no torch, no CUDA context."""

from __future__ import annotations

import os
import platform
from pathlib import Path

from pydantic import TypeAdapter

from harness.architecture import hardware_class
from harness.errors import InfraError
from harness.records.fingerprint import Device

FAKE_DEVICES = "QUANTGATE_FAKE_DEVICES"
"""For tests of this project only: a JSON list of devices that stands for what NVML says. Their UUIDs begin with
``FAKE-``, so that no record of a real run can be mistaken, and an engine that asks CUDA for one finds none."""


def cpu_device() -> Device:
    """Describe the CPU as a device: its class is the architecture, its marketing name is only shown."""
    return Device(
        kind="cpu", name=hardware_class(platform.machine()), model=cpu_info("model name") or platform.processor()
    )


def cpu_info(key: str) -> str:
    """Value of the first ``key`` that Linux says of its CPUs, such as ``flags``; empty elsewhere."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return ""
    return next((line.partition(":")[2].strip() for line in lines if line.startswith(key)), "")


def gpu_devices() -> tuple[Device, ...]:
    """Every NVIDIA GPU that NVML sees and ``CUDA_VISIBLE_DEVICES`` admits, in NVML's order; empty without a driver.

    Raises:
        InfraError: there is a driver and it does not answer.
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
    """Version of the NVIDIA driver, or ``None`` without one."""
    if FAKE_DEVICES in os.environ:
        return None
    import pynvml

    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return None
    try:
        return _text(pynvml.nvmlSystemGetDriverVersion())
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
        name=_text(pynvml.nvmlDeviceGetName(handle)),
        compute_capability=f"{major}.{minor}",
        uuid=_text(pynvml.nvmlDeviceGetUUID(handle)),
        memory_bytes=int(pynvml.nvmlDeviceGetMemoryInfo(handle).total),
    )


def _visible(devices: tuple[Device, ...], mask: str | None) -> tuple[Device, ...]:
    """``CUDA_VISIBLE_DEVICES`` by index or by (the beginning of a) UUID; CUDA stops at the first unknown entry."""
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


def _text(value: str | bytes) -> str:
    return value.decode() if isinstance(value, bytes) else value
