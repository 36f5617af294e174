"""The doctor on a made-up NVML: every check in the state in which it must speak."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from harness.definitions.case import CheckpointRef
from harness.definitions.runner import load_runners
from harness.errors import InfraError
from harness.machine.doctor import Host, examine, require_fit
from harness.machine.gpu_checks import at_least, parse_xids, read_kernel_log, same_bus
from harness.machine.preflight import Preflight

ROOT = Path(__file__).parents[2]
RUNNERS = load_runners(ROOT / "runners")
GIB = 1 << 30


class NVMLError(Exception):
    """As pynvml's."""


class LibraryNotFoundError(NVMLError):
    """As pynvml's."""


class DriverNotLoadedError(NVMLError):
    """As pynvml's."""


class FakeNvml:
    """One healthy B200; a test changes what it needs."""

    NVMLError = NVMLError
    NVMLError_LibraryNotFound = LibraryNotFoundError
    NVMLError_DriverNotLoaded = DriverNotLoadedError
    NVML_MEMORY_ERROR_TYPE_UNCORRECTED = 1
    NVML_VOLATILE_ECC = 0
    NVML_CLOCK_SM = 1
    NVML_TEMPERATURE_GPU = 0
    NVML_SUCCESS = 0
    NVML_FI_DEV_GET_GPU_RECOVERY_ACTION = 230

    def __init__(self, **changes: Any) -> None:
        self.open = 0
        self.values: dict[str, Any] = {
            "nvmlDeviceGetName": "NVIDIA B200",
            "nvmlDeviceGetUUID": "GPU-1",
            "nvmlDeviceGetCudaComputeCapability": (10, 0),
            "nvmlDeviceGetMemoryInfo": SimpleNamespace(total=179 * GIB, free=178 * GIB),
            "nvmlDeviceGetPciInfo": SimpleNamespace(busId=b"00000000:3B:00.0"),
            "nvmlDeviceGetEccMode": [1, 1],
            "nvmlDeviceGetTotalEccErrors": 0,
            "nvmlDeviceGetRemappedRows": (0, 0, 0, 0),
            "nvmlDeviceGetClockInfo": 1965,
            "nvmlDeviceGetMaxClockInfo": 1965,
            "nvmlDeviceGetTemperature": 41,
            "nvmlDeviceGetCurrentClocksEventReasons": 1,
            "nvmlDeviceGetMigMode": [0, 0],
            "nvmlDeviceGetComputeRunningProcesses": [],
            "nvmlDeviceGetFieldValues": 0,
            "nvmlSystemGetDriverVersion": "580.95.05",
        } | changes

    def nvmlInit(self) -> None:
        if "init" in self.values:
            raise self.values["init"]
        self.open += 1

    def nvmlShutdown(self) -> None:
        self.open -= 1

    def nvmlDeviceGetCount(self) -> int:
        return int(self.values.get("count", 1))

    def nvmlDeviceGetHandleByIndex(self, index: int) -> int:
        return index

    def nvmlDeviceGetFieldValues(self, _handle: int, fields: list[int]) -> list[Any]:
        assert fields == [230]
        value = SimpleNamespace(uiVal=self.values["nvmlDeviceGetFieldValues"])
        return [SimpleNamespace(nvmlReturn=0, value=value)]

    def __getattr__(self, name: str) -> Any:
        if name not in self.values:
            raise AttributeError(name)

        def answer(*_: object) -> Any:
            value = self.values[name]
            if isinstance(value, Exception):
                raise value
            return value

        return answer


def look(nvml: FakeNvml, log: tuple[str, ...] | None = (), **more: Any) -> Preflight:
    """Examine a made-up B200 machine."""
    host = Host(nvml=nvml, kernel_log=lambda: log, comm=lambda pid: f"program{pid}", environ={}, **more)
    found = examine(RUNNERS["b200"], ROOT, host=host)
    assert nvml.open == 0
    return found


def the(found: Preflight, name: str) -> Any:
    """The one check of a name."""
    (check,) = [check for check in found.checks if check.name == name]
    return check


def test_a_healthy_machine_is_fit() -> None:
    found = look(FakeNvml())
    assert found.unfit() == ()
    assert found.exit_code == 0
    require_fit(found)
    assert {check.state for check in found.checks if check.name not in ("disk",)} == {"fit"}


@pytest.mark.parametrize(
    ("changes", "name", "message"),
    [
        ({"nvmlDeviceGetCudaComputeCapability": (10, 3)}, "device", "compute capability 10.3"),
        ({"nvmlSystemGetDriverVersion": "565.57.01"}, "driver", "565.57.01"),
        ({"nvmlDeviceGetMigMode": [1, 1]}, "mig", "MIG is on"),
        ({"nvmlDeviceGetTotalEccErrors": 3}, "ecc", "3 uncorrected"),
        ({"nvmlDeviceGetRemappedRows": (0, 1, 1, 0)}, "remapping", "wait for a reset"),
        ({"nvmlDeviceGetRemappedRows": (0, 1, 0, 1)}, "remapping", "failed"),
        ({"nvmlDeviceGetFieldValues": 2}, "recovery", "reboot the node"),
        ({"nvmlDeviceGetCurrentClocksEventReasons": 0x40 | 0x8}, "clocks", "hardware thermal slowdown"),
        ({"nvmlDeviceGetMemoryInfo": SimpleNamespace(total=179 * GIB, free=23 * GIB)}, "memory", "no process is seen"),
        ({"nvmlDeviceGetMemoryInfo": SimpleNamespace(total=44 * GIB, free=44 * GIB)}, "memory", "at least"),
        (
            {"nvmlDeviceGetComputeRunningProcesses": [SimpleNamespace(pid=77, usedGpuMemory=156 * GIB)]},
            "processes",
            "program77 (pid 77, 156.0 GiB)",
        ),
        (
            {"nvmlDeviceGetComputeRunningProcesses": [SimpleNamespace(pid=77, usedGpuMemory=None)]},
            "processes",
            "program77 (pid 77)",
        ),
    ],
)
def test_what_is_unfit(changes: dict[str, Any], name: str, message: str) -> None:
    found = look(FakeNvml(**changes))
    check = the(found, name)
    assert check.state == "unfit"
    assert message in check.message
    assert check.remedy
    assert check.device == ("" if name == "driver" else "GPU-1")
    assert found.exit_code == 18
    with pytest.raises(InfraError) as refused:
        require_fit(found)
    assert refused.value.kind == "device"
    assert message in refused.value.message


@pytest.mark.parametrize(
    ("changes", "name", "state"),
    [
        ({"nvmlDeviceGetEccMode": [0, 0]}, "ecc", "warning"),
        ({"nvmlDeviceGetTotalEccErrors": NVMLError()}, "ecc", "unknown"),
        ({"nvmlDeviceGetCurrentClocksEventReasons": 0x4}, "clocks", "warning"),
        ({"nvmlDeviceGetCurrentClocksEventReasons": NVMLError()}, "clocks", "unknown"),
        ({"nvmlDeviceGetComputeRunningProcesses": NVMLError()}, "processes", "unknown"),
        ({"nvmlDeviceGetPciInfo": NVMLError()}, "xid", "unknown"),
    ],
)
def test_what_is_only_said(changes: dict[str, Any], name: str, state: str) -> None:
    found = look(FakeNvml(**changes))
    assert the(found, name).state == state
    assert the(found, name).message
    assert found.fit


def test_another_gpu_is_no_runner_however_alike_its_name() -> None:
    found = look(FakeNvml(nvmlDeviceGetName="NVIDIA GB200"))
    assert the(found, "device").state == "unfit"
    assert "NVIDIA GB200 GPU-1" in the(found, "device").message
    assert found.exit_code == 19


@pytest.mark.parametrize("error", [LibraryNotFoundError(), DriverNotLoadedError()])
def test_no_driver_is_no_runner(error: Exception) -> None:
    found = look(FakeNvml(init=error))
    assert found.exit_code == 19


def test_a_driver_that_does_not_answer_is_infra() -> None:
    found = look(FakeNvml(init=NVMLError("Unknown Error")))
    assert the(found, "driver").state == "unfit"
    assert found.exit_code == 18


def test_this_runs_own_processes_are_not_foreign() -> None:
    busy = [SimpleNamespace(pid=os.getpid(), usedGpuMemory=GIB), SimpleNamespace(pid=78, usedGpuMemory=90 * GIB)]
    nvml = FakeNvml(
        nvmlDeviceGetComputeRunningProcesses=busy,
        nvmlDeviceGetMemoryInfo=SimpleNamespace(total=179 * GIB, free=80 * GIB),
    )
    assert look(nvml, own_pids=frozenset({78})).fit
    assert not look(nvml).fit


def test_xids_of_this_gpu_since_boot() -> None:
    log = (
        "6,1,2,-;NVRM: Xid (PCI:0000:3b:00): 79, pid=1234, name=python, GPU has fallen off the bus.",
        "6,1,2,-;NVRM: Xid (PCI:0000:3b:00): 31, pid=1234, name=python, MMU fault",
        "6,1,2,-;NVRM: Xid (PCI:0000:5c:00): 95, pid=1, uncontained",
        "6,1,2,-;something else",
    )
    found = the(look(FakeNvml(), log), "xid")
    assert found.state == "warning"
    assert found.actual == "79 (GPU has fallen off the bus)"
    assert the(look(FakeNvml(), log[1:]), "xid").state == "fit"
    assert the(look(FakeNvml(), None), "xid").state == "unknown"
    assert [xid.code for xid in parse_xids(log)] == [79, 31, 95]
    assert same_bus("0000:3b:00", "00000000:3B:00.0")
    assert not same_bus("0000:3b:00", "00000001:3B:00.0")


def test_a_kernel_log_that_may_not_be_read(tmp_path: Path) -> None:
    assert read_kernel_log(tmp_path / "absent") is None
    (tmp_path / "log").write_text("one\ntwo\n")
    assert read_kernel_log(tmp_path / "log") == ("one", "two")


def test_driver_versions_are_numbers() -> None:
    assert at_least("580.95.05", "570")
    assert at_least("570", "570.0")
    assert not at_least("570", "570.1")
    assert not at_least("99.1", "570")
    assert not at_least("", "570")


def test_a_cpu_runner_is_examined_too() -> None:
    cpu = RUNNERS["cpu"]
    assert examine(cpu, ROOT, host=Host(machine=lambda: "x86_64", environ={})).exit_code == 0
    other = examine(cpu, ROOT, host=Host(machine=lambda: "riscv64", environ={}))
    assert other.exit_code == 19
    assert "riscv64" in the(other, "device").message


def test_packages_are_held_against_the_profile() -> None:
    wanted = {"pydantic": ">=2", "typer": ">=999", "no-such-distribution": ">=1"}
    profile = RUNNERS["cpu"].model_copy(update={"packages": wanted})
    checks = examine(profile, ROOT, host=Host(machine=lambda: "x86_64", environ={})).checks
    states = [(check.state, check.message.partition(",")[0]) for check in checks if check.name == "package"]
    assert states[0] == ("unfit", "no-such-distribution is not installed")
    assert states[1] == ("fit", "")
    assert states[2][0] == "unfit"


def test_offline_every_pinned_revision_must_be_in_the_cache(tmp_path: Path) -> None:
    revision = "a" * 40
    there = CheckpointRef(path="owner/there", revision=revision)
    absent = CheckpointRef(path="owner/absent", revision=revision)
    open_ = CheckpointRef(path="owner/open", revision="unresolved")
    local = CheckpointRef(path="./here")
    (tmp_path / "hub/models--owner--there/snapshots" / revision).mkdir(parents=True)
    environ = {"HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "1"}
    host = Host(machine=lambda: "x86_64", environ=environ)
    found = examine(RUNNERS["cpu"], ROOT, checkpoints=(there, absent, open_, local), host=host)
    cache = [(check.state, check.wanted or check.actual) for check in found.checks if check.name == "model_cache"]
    assert cache == [("unfit", f"owner/absent@{revision[:12]}"), ("fit", f"owner/there@{revision[:12]}")]
    assert f"hf download owner/absent --revision {revision}" in "\n".join(found.lines())
    online = Host(machine=lambda: "x86_64", environ={"HF_HOME": str(tmp_path)})
    assert examine(RUNNERS["cpu"], ROOT, checkpoints=(absent,), host=online).fit


def test_a_model_folder_that_is_not_mounted() -> None:
    host = Host(machine=lambda: "x86_64", environ={"HF_HOME": "/no/such/folder"})
    found = examine(RUNNERS["cpu"], ROOT, host=host)
    assert the(found, "hf_home").state == "unfit"


def test_a_full_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    usage = SimpleNamespace(total=GIB, used=0, free=GIB)
    monkeypatch.setattr("harness.machine.doctor.shutil.disk_usage", lambda _path: usage)
    found = examine(RUNNERS["cpu"], ROOT, host=Host(machine=lambda: "x86_64", environ={}))
    assert [check.state for check in found.checks if check.name == "disk"] == ["unfit", "unfit"]
    usage.free = 10 * GIB
    found = examine(RUNNERS["cpu"], ROOT, host=Host(machine=lambda: "x86_64", environ={}))
    assert [check.state for check in found.checks if check.name == "disk"] == ["warning", "warning"]


def test_what_this_project_calls_is_in_the_real_pynvml() -> None:
    import pynvml

    for name in dir(FakeNvml):
        if name.upper().startswith("NVML"):
            assert hasattr(pynvml, name), name
    for name in FakeNvml().values:
        assert callable(getattr(pynvml, name)), name
