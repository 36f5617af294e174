"""The devices of a runner that are in this machine."""

from __future__ import annotations

from harness.definitions.runner import RunnerProfile
from harness.errors import NoRunnerError
from harness.lane.devices import cpu_device, gpu_devices
from harness.records.fingerprint import Device


def devices_for(profile: RunnerProfile) -> tuple[Device, ...]:
    """Every device in this machine that is of ``profile``, by exact name and compute capability.

    Raises:
        NoRunnerError: none is.
    """
    present = (cpu_device(),) if profile.device_kind == "cpu" else gpu_devices()
    mine = tuple(device for device in present if is_of(device, profile))
    if not mine:
        found = ", ".join(f"{device.name} ({device.compute_capability})" for device in present) or "no GPU"
        raise NoRunnerError(
            f"runner {profile.name} is {' or '.join(profile.identifiers)}, and this machine has {found}",
            remedy="run on a machine that has one, or name another runner with --runner",
        )
    return mine


def is_of(device: Device, profile: RunnerProfile) -> bool:
    """Whether ``device`` is of ``profile``: exact name, never a part of it, and the same compute capability."""
    if device.kind != profile.device_kind or device.name not in profile.identifiers:
        return False
    return device.kind == "cpu" or device.compute_capability == profile.compute_capability
