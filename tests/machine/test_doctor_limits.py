"""The doctor's numbers, from both sides of each; and one GPU of several."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from harness.definitions.runner import load_runners
from harness.machine.devices import GpuFacts
from harness.machine.doctor import Host, check_disk, examine
from harness.machine.gpu_checks import check_gpu

ROOT = Path(__file__).parents[2]
B200 = load_runners(ROOT / "runners")["b200"]
GIB = 1 << 30


def gpu(uuid: str = "GPU-1", free: float = 1.0, name: str = "NVIDIA B200") -> GpuFacts:
    """A healthy GPU of 200 GiB, of which this share is free."""
    return GpuFacts(
        uuid=uuid,
        name=name,
        compute_capability="10.0",
        pci="00000000:3B:00.0",
        memory_total=200 * GIB,
        memory_free=int(200 * GIB * free),
        ecc_enabled=True,
        ecc_uncorrected=0,
        processes=(),
        throttle=(),
    )


@pytest.mark.parametrize(("free", "state"), [(1.0, "fit"), (0.951, "fit"), (0.949, "unfit"), (0.5, "unfit")])
def test_memory_that_somebody_holds(free: float, state: str) -> None:
    (check,) = [one for one in check_gpu(gpu(free=free), B200, (), frozenset()) if one.name == "memory"]
    assert check.state == state


@pytest.mark.parametrize(
    ("free", "state"),
    [(0.0, "unfit"), (1.99, "unfit"), (2.0, "warning"), (19.9, "warning"), (20.0, "fit"), (21.0, "fit")],
)
def test_disk(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, free: float, state: str) -> None:
    usage = SimpleNamespace(total=GIB, used=0, free=int(free * GIB))
    monkeypatch.setattr("harness.machine.doctor.shutil.disk_usage", lambda _path: usage)
    checks = list(check_disk(tmp_path, {}))
    assert [check.state for check in checks] == [state, state]
    assert all(f"{int(free * GIB) / GIB:.1f} GiB free" in check.actual for check in checks)


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Host:
    """Two B200s, the second of which is in a bad way, and an H200."""
    gpus = (gpu("GPU-1"), gpu("GPU-2", free=0.5), gpu("GPU-3", name="NVIDIA H200"))
    monkeypatch.setattr("harness.machine.doctor.read_gpus", lambda *_: gpus)
    nvml: Any = SimpleNamespace(
        NVMLError=RuntimeError,
        NVMLError_LibraryNotFound=RuntimeError,
        NVMLError_DriverNotLoaded=RuntimeError,
        nvmlInit=lambda: None,
        nvmlShutdown=lambda: None,
        nvmlSystemGetDriverVersion=lambda: "580.95.05",
    )
    return Host(nvml=nvml, kernel_log=lambda: (), environ={})


@pytest.mark.parametrize(
    ("uuid", "seen", "fit"),
    [(None, {"GPU-1", "GPU-2"}, False), ("GPU-1", {"GPU-1"}, True), ("GPU-2", {"GPU-2"}, False)],
)
def test_of_several_gpus_only_the_named_one_counts(machine: Host, uuid: str | None, seen: set[str], fit: bool) -> None:
    found = examine(B200, ROOT, uuid=uuid, host=machine)
    assert {check.device for check in found.checks if check.device} == seen
    assert any(check.device for check in found.unfit()) is not fit


@pytest.mark.parametrize("uuid", ["GPU-3", "GPU-9"])
def test_a_named_gpu_that_is_not_there_or_another_model_is_no_runner(machine: Host, uuid: str) -> None:
    found = examine(B200, ROOT, uuid=uuid, host=machine)
    assert found.exit_code == 19
    assert f"NVIDIA B200 {uuid}, and this machine has" in found.unfit()[0].message
