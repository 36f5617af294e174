"""A GPU is held by one process, waits are bounded and named, and a dead holder's lease comes back."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from harness.definitions.environment import LEASED
from harness.errors import InfraError
from harness.machine import leases
from harness.machine.devices import FAKE_DEVICES, cpu_device, gpu_devices
from harness.machine.leases import FOLDER_VARIABLE, Holder, acquire, device_environment, lease_folder
from harness.records.identity import Device

Gpus = Callable[[int], tuple[Device, ...]]

HOLD = """
import sys, time
from pathlib import Path
from harness.machine.leases import acquire
from harness.records.identity import Device
device = Device(kind="cuda", name="NVIDIA B200", uuid="FAKE-0")
lease = acquire([device], 0, folder=Path(sys.argv[1]), run="theirs")
print("held", flush=True)
time.sleep(600)
"""


def test_a_case_may_not_name_a_variable_by_which_a_lease_speaks(gpus: Gpus) -> None:
    assert device_environment(gpus(1)[0]).keys() <= LEASED
    assert device_environment(cpu_device()).keys() <= LEASED


def test_two_leases_are_two_gpus_and_a_third_is_refused_with_the_holders_named(tmp_path: Path, gpus: Gpus) -> None:
    folder = tmp_path / "leases"
    with (
        acquire(gpus(2), 0, folder=folder, run="one") as first,
        acquire(gpus(2), 0, folder=folder, run="two") as second,
    ):
        assert {first.device.uuid, second.device.uuid} == {"FAKE-0", "FAKE-1"}
        assert first.env == {"CUDA_VISIBLE_DEVICES": first.device.uuid}
        with pytest.raises(InfraError) as refused:
            acquire(gpus(2), 0.3, folder=folder)
        assert refused.value.kind == "device"
        assert f"process {os.getpid()}" in str(refused.value)
        assert "run one" in str(refused.value)
    with acquire(gpus(2), 0, folder=folder) as again:
        assert again.device.uuid == "FAKE-0"
        assert again.recovered is None


def test_a_lease_is_waited_for(tmp_path: Path, gpus: Gpus) -> None:
    import threading

    message: list[str] = []
    held = acquire(gpus(1), 0, folder=tmp_path)
    threading.Timer(0.3, held.release).start()
    with acquire(gpus(1), 30, folder=tmp_path, on_wait=message.append) as lease:
        assert lease.device.uuid == "FAKE-0"
    assert len(message) == 1
    assert message[0].startswith("waiting for a GPU: FAKE-0 by process")


def test_the_lease_of_a_killed_process_is_recovered(tmp_path: Path, gpus: Gpus) -> None:
    holder = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    with pytest.raises(InfraError, match=f"process {holder.pid}"):
        acquire(gpus(1), 0, folder=tmp_path)
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    holder.stdout.close()
    with acquire(gpus(1), 10, folder=tmp_path) as lease:
        assert lease.recovered is not None
        assert lease.recovered.pid == holder.pid
        assert lease.recovered.run == "theirs"


def test_the_gpu_to_avoid_is_taken_last(tmp_path: Path, gpus: Gpus) -> None:
    with acquire(gpus(2), 0, folder=tmp_path, avoid=["FAKE-0"]) as lease:
        assert lease.device.uuid == "FAKE-1"
        with acquire(gpus(2), 0, folder=tmp_path, avoid=["FAKE-0"]) as other:
            assert other.device.uuid == "FAKE-0"


def test_release_twice_gives_back_once(tmp_path: Path, gpus: Gpus) -> None:
    lease = acquire(gpus(1), 0, folder=tmp_path)
    lease.release()
    with acquire(gpus(1), 0, folder=tmp_path):
        lease.release()
        with pytest.raises(InfraError):
            acquire(gpus(1), 0, folder=tmp_path)


def test_a_torn_holder_record_only_costs_the_name(tmp_path: Path, gpus: Gpus) -> None:
    with acquire(gpus(1), 0, folder=tmp_path):
        (tmp_path / "FAKE-0.json").write_text("{")
        with pytest.raises(InfraError, match="FAKE-0 by another process"):
            acquire(gpus(1), 0, folder=tmp_path)


def test_the_holder_record_says_who(tmp_path: Path, gpus: Gpus) -> None:
    with acquire(gpus(1), 0, folder=tmp_path, run="r"):
        assert Holder.read(tmp_path / "FAKE-0.json").pid == os.getpid()
    assert not (tmp_path / "FAKE-0.json").exists()


def test_a_cpu_is_shared(tmp_path: Path) -> None:
    with acquire([cpu_device()], 0, folder=tmp_path) as one, acquire([cpu_device()], 0, folder=tmp_path) as two:
        assert one.env == two.env == {"CUDA_VISIBLE_DEVICES": ""}


def test_a_link_in_place_of_the_folder_is_refused(tmp_path: Path, gpus: Gpus) -> None:
    (tmp_path / "theirs").mkdir()
    (tmp_path / "leases").symlink_to(tmp_path / "theirs")
    with pytest.raises(InfraError, match="not a folder of this user"):
        acquire(gpus(1), 0, folder=tmp_path / "leases")


def test_the_folder_is_private_and_does_not_move_with_the_login(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv(FOLDER_VARIABLE, raising=False)
    plain = lease_folder()
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    assert lease_folder() == plain
    monkeypatch.setenv(FOLDER_VARIABLE, str(tmp_path / "mine"))
    device = Device(kind="cuda", name="NVIDIA B200", uuid="FAKE-0")
    with acquire([device], 0):
        assert stat.S_IMODE((tmp_path / "mine").stat().st_mode) == 0o700


def test_nothing_to_lease_is_a_mistake_of_the_caller(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no device"):
        acquire([], 0, folder=tmp_path)
    with pytest.raises(ValueError, match="UUID"):
        acquire([Device(kind="cuda", name="NVIDIA B200")], 0, folder=tmp_path)


def test_fake_devices_obey_the_mask_and_cannot_look_real(monkeypatch: pytest.MonkeyPatch, gpus: Gpus) -> None:
    monkeypatch.setenv(FAKE_DEVICES, json.dumps([device.model_dump() for device in gpus(2)]))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "FAKE-1")
    assert [device.uuid for device in gpu_devices()] == ["FAKE-1"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1,7,0")  # CUDA stops at the first that it does not know
    assert [device.uuid for device in gpu_devices()] == ["FAKE-1"]
    monkeypatch.setenv(FAKE_DEVICES, json.dumps([{"kind": "cuda", "name": "NVIDIA B200", "uuid": "GPU-1"}]))
    with pytest.raises(ValueError, match="FAKE-"):
        gpu_devices()


@pytest.mark.parametrize("how", ["unlink", "folder", "rename", "replace"])
def test_a_lease_survives_the_deletion_of_its_file(tmp_path: Path, gpus: Gpus, how: str) -> None:
    folder = tmp_path / "leases"
    with acquire(gpus(1), 0, folder=folder) as lease:
        lock = folder / "FAKE-0.lock"
        if how == "folder":
            shutil.rmtree(folder)
        elif how == "rename":
            lock.rename(folder / "x")
        elif how == "replace":
            (folder / "x").touch()
            (folder / "x").replace(lock)
        else:
            lock.unlink()
        with pytest.raises(InfraError, match="in use"):
            acquire(gpus(1), 0, folder=folder)
        lease.require_held()
        assert lock.exists()
    with acquire(gpus(1), 0, folder=folder):
        pass


def test_the_file_lock_alone_survives_too(tmp_path: Path, gpus: Gpus, monkeypatch: pytest.MonkeyPatch) -> None:
    """As between containers with network namespaces of their own, or on macOS: there the holder puts the file back."""
    monkeypatch.setattr(leases, "_bind", lambda _: socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM))
    monkeypatch.setattr(leases, "WATCH_SECONDS", 0.05)
    with acquire(gpus(1), 0, folder=tmp_path):
        (tmp_path / "FAKE-0.lock").unlink()
        deadline = time.monotonic() + 10
        while not (tmp_path / "FAKE-0.lock").exists() and time.monotonic() < deadline:
            time.sleep(0.02)
        with pytest.raises(InfraError, match="in use"):
            acquire(gpus(1), 0, folder=tmp_path)


def test_a_lease_that_another_process_has_by_now_is_not_used(
    tmp_path: Path, gpus: Gpus, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leases, "_bind", lambda _: socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM))
    monkeypatch.setattr(leases, "WATCH_SECONDS", 600)
    with acquire(gpus(1), 0, folder=tmp_path) as lease:
        lease.require_held()
        (tmp_path / "FAKE-0.lock").unlink()
        with acquire(gpus(1), 0, folder=tmp_path) as other:
            other.require_held()
            with pytest.raises(InfraError, match="another process leased this GPU") as refused:
                lease.require_held()
            assert refused.value.kind == "device"
        lease.require_held()


def test_whoever_waits_is_told_that_the_holder_is_stopped(tmp_path: Path, gpus: Gpus) -> None:
    holder = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    holder.send_signal(signal.SIGSTOP)
    os.waitpid(holder.pid, os.WUNTRACED)
    with pytest.raises(InfraError, match=rf"kill -CONT {holder.pid}"):
        acquire(gpus(1), 0, folder=tmp_path)
    holder.kill()
    holder.wait()
    holder.stdout.close()


def test_a_link_in_place_of_the_lock_is_not_followed(tmp_path: Path, gpus: Gpus) -> None:
    (tmp_path / "leases").mkdir()
    (tmp_path / "leases/FAKE-0.lock").symlink_to(tmp_path / "made")
    with pytest.raises(InfraError):
        acquire(gpus(1), 0, folder=tmp_path / "leases")
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize("named", ["leases", "./leases", "~/leases", "../leases"])
def test_a_folder_that_each_checkout_has_again_is_refused(
    monkeypatch: pytest.MonkeyPatch, gpus: Gpus, named: str
) -> None:
    monkeypatch.setenv(FOLDER_VARIABLE, named)
    with pytest.raises(InfraError, match="is no absolute path: runs in two folders would lease one GPU twice"):
        acquire(gpus(1), 0)


def test_a_folder_in_place_of_the_holders_record_costs_only_its_name(tmp_path: Path, gpus: Gpus) -> None:
    (tmp_path / "FAKE-0.json").mkdir()
    lease = acquire(gpus(1), 0, folder=tmp_path)
    with pytest.raises(InfraError, match="FAKE-0 by another process"):
        acquire(gpus(1), 0, folder=tmp_path)
    lease.release()
    acquire(gpus(1), 0, folder=tmp_path).release()


def test_a_lease_whose_record_was_replaced_is_released_all_the_same(tmp_path: Path, gpus: Gpus) -> None:
    lease = acquire(gpus(1), 0, folder=tmp_path)
    (tmp_path / "FAKE-0.json").unlink()
    (tmp_path / "FAKE-0.json").mkdir()
    lease.release()
    acquire(gpus(1), 0, folder=tmp_path).release()
