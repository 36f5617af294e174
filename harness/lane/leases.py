"""A GPU belongs to one process at a time: leased by UUID under a file lock, which the kernel drops with its holder.

Two pytest runs, or two workers of one run, of the same user on the same machine never share a GPU. What the lock cannot
see (other users, other containers) the doctor finds through NVML.
"""

from __future__ import annotations

import os
import socket
import stat
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from filelock import FileLock, Timeout

from harness.errors import InfraError
from harness.reading import UnreadableError
from harness.records.base import Record
from harness.records.fingerprint import Device

FOLDER_VARIABLE = "QUANTGATE_LEASES"
POLL_SECONDS = 0.2


class Holder(Record):
    """Who holds a lease. For messages only: the lock decides, never this file."""

    pid: int
    host: str
    since: str
    """UTC, ISO 8601."""
    run: str = ""


@dataclass
class Lease:
    """A device that is this process's own until ``release``, or until the process ends in whatever way."""

    device: Device
    env: Mapping[str, str]
    """What shows an engine exactly this device."""
    recovered: Holder | None = None
    """The holder that died without releasing it."""
    _lock: FileLock | None = field(default=None, repr=False)
    _record: Path | None = field(default=None, repr=False)

    def release(self) -> None:
        """Give the device back. Safe to call twice."""
        if self._record is not None:
            self._record.unlink(missing_ok=True)
            self._record = None
        if self._lock is not None:
            self._lock.release()
            self._lock = None

    def __enter__(self) -> Lease:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()


def device_environment(device: Device) -> dict[str, str]:
    """Environment that shows an engine exactly ``device``; a CPU engine sees no GPU at all."""
    return {"CUDA_VISIBLE_DEVICES": (device.uuid or "") if device.kind == "cuda" else ""}


def lease_folder() -> Path:
    """Folder of the locks: one a user and machine.

    ``/tmp/quantgate-<uid>`` and not ``XDG_RUNTIME_DIR`` or ``TMPDIR``: those differ between a login, a service and a
    CI job of one user, and two folders would lease one GPU twice. ``QUANTGATE_LEASES`` names another one, for
    containers that share a machine's GPUs.
    """
    named = os.environ.get(FOLDER_VARIABLE)
    return Path(named) if named else Path(f"/tmp/quantgate-{os.getuid()}/leases")  # noqa: S108 - owner checked below


def acquire(
    devices: Sequence[Device],
    timeout: float,
    *,
    folder: Path | None = None,
    avoid: Collection[str] = (),
    run: str = "",
    on_wait: Callable[[str], None] | None = None,
) -> Lease:
    """Lease one of ``devices``.

    Args:
        devices: candidates, such as every GPU of the runner in this machine; a CPU is shared and needs no lock.
        timeout: seconds to wait while all are held; 0 asks once.
        folder: of the locks; :func:`lease_folder` if not given.
        avoid: UUIDs that are taken last, such as the GPU on which an engine has just died.
        run: shown to whoever waits for this lease.
        on_wait: called once with who holds them, when the wait begins.

    Raises:
        InfraError: kind ``device``: all were held until the timeout, or the folder is not this user's own.
        ValueError: no device was given, or a GPU without a UUID.
    """
    if not devices:
        raise ValueError("no device to lease")
    if devices[0].kind == "cpu":
        return Lease(devices[0], device_environment(devices[0]))
    if any(device.uuid is None for device in devices):
        raise ValueError("a GPU is leased by its UUID")
    place = _own_folder(folder or lease_folder())
    ordered = sorted(devices, key=lambda device: device.uuid in avoid)
    deadline = time.monotonic() + timeout
    told = False
    while True:
        for device in ordered:
            lease = _try(device, place, run)
            if lease is not None:
                return lease
        if time.monotonic() >= deadline:
            raise InfraError(
                f"every GPU of this runner is in use: {_holders(ordered, place)}",
                kind="device",
                remedy="wait for it, run with fewer workers (-n), or name a longer wait with --gpu-wait SECONDS",
            )
        if on_wait is not None and not told:
            told = True
            on_wait(f"waiting for a GPU: {_holders(ordered, place)}")
        time.sleep(min(POLL_SECONDS, max(0.0, deadline - time.monotonic())))


def _try(device: Device, place: Path, run: str) -> Lease | None:
    # thread_local: a lease may be released by another thread than the one that took it.
    lock = FileLock(place / f"{device.uuid}.lock", thread_local=False)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        return None
    record = place / f"{device.uuid}.json"
    before = _holder(record)
    Holder(
        pid=os.getpid(), host=socket.gethostname(), since=datetime.now(UTC).isoformat(timespec="seconds"), run=run
    ).write(record)
    return Lease(device, device_environment(device), before, lock, record)


def _holder(record: Path) -> Holder | None:
    try:
        return Holder.read(record)
    except (OSError, UnreadableError):
        return None


def _holders(devices: Sequence[Device], place: Path) -> str:
    said = []
    for device in devices:
        holder = _holder(place / f"{device.uuid}.json")
        who = f"process {holder.pid} on {holder.host} since {holder.since}" if holder else "another process"
        said.append(f"{device.uuid} by {who}" + (f" (run {holder.run})" if holder and holder.run else ""))
    return "; ".join(said)


def _own_folder(folder: Path) -> Path:
    """Make the folder, and refuse one that another user made first in a shared place."""
    for part in (folder.parent, folder):
        part.mkdir(mode=0o700, parents=True, exist_ok=True)
    found = folder.lstat()
    if stat.S_ISLNK(found.st_mode) or found.st_uid != os.getuid():
        raise InfraError(
            f"{folder} is not a folder of this user, so its locks mean nothing",
            kind="device",
            remedy=f"remove it, or set {FOLDER_VARIABLE} to a folder of your own",
        )
    return folder
