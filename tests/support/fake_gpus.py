"""GPUs of runner b200 that are not there."""

from __future__ import annotations

from harness.records.identity import Device


def fake_gpus(count: int) -> tuple[Device, ...]:
    """GPUs of runner b200 that are not there."""
    return tuple(
        Device(kind="cuda", name="NVIDIA B200", compute_capability="10.0", uuid=f"FAKE-{index}", memory_bytes=180 << 30)
        for index in range(count)
    )
