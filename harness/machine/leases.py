"""Lease a GPU to one process at a time, by UUID, under locks that the kernel releases when their holder ends.

Two pytest runs, or two workers of one run, of the same user on the same machine never share a GPU. The locks do not
cover other users and other containers; the doctor finds their processes through NVML.

There are two locks. A file lock (``flock``) works wherever the folder is shared. It is a lock on an inode: if the file
is deleted or replaced, the next process locks another inode under the same name. So on Linux the holder also binds a
socket in the abstract namespace, which is no file and cannot be deleted. On every platform the holder checks once a
second whether the path still names the file that it locked; if not, it locks the file there (created if absent) again.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import socket
import stat
import sys
import threading
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from harness.errors import InfraError
from harness.machine.processes import end_leftovers, look
from harness.reading import UnreadableError
from harness.records.base import Record
from harness.records.identity import Device

FOLDER_VARIABLE = "QUANTGATE_LEASES"
POLL_SECONDS = 0.2
_NOBODY = "another process"
WATCH_SECONDS = 1.0
"""Seconds between two checks of a holder that its locked file is still in its place."""


class Holder(Record):
    """The holder of a lease, for messages only: the lock decides, never this file."""

    pid: int
    host: str
    since: str
    """UTC, ISO 8601."""
    run: str = ""


class _Lock:
    """The locks of one device: a file lock, and on Linux a name in the abstract socket namespace."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._mutex = threading.Lock()
        self._stop = threading.Event()
        self._file: int | None = None
        self._name: socket.socket | None = None

    def acquire(self) -> bool:
        """Take both locks; return false if another process (or another lease of this one) holds one of them."""
        self._name = _bind(self.path)
        if self._name is None:
            return False
        try:
            self._file = _lock_file(self.path)
        finally:
            if self._file is None:
                self._name.close()
        if self._file is None:
            return False
        threading.Thread(target=self._watch, daemon=True, name="quantgate-lease").start()
        return True

    def renew(self) -> bool:
        """Lock the file at the path again if it was replaced; return false if another process holds the new file."""
        with self._mutex:
            if self._stop.is_set() or self._file is None or _is_at(self._file, self.path):
                return True
            # The folder may have been deleted with it.
            with contextlib.suppress(OSError):
                self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            try:
                fresh = _lock_file(self.path)
            except OSError:  # if this process cannot create the file, no other process holds it either
                return True
            if fresh is None:
                return False
            os.close(self._file)
            self._file = fresh
            return True

    def release(self) -> None:
        """Release both locks. The file stays: deleting it would make the next process lock another inode."""
        with self._mutex:
            self._stop.set()
            if self._file is not None:
                os.close(self._file)
                self._file = None
            if self._name is not None:
                self._name.close()
                self._name = None

    def _watch(self) -> None:
        while not self._stop.wait(WATCH_SECONDS):
            self.renew()


def _lock_file(path: Path) -> int | None:
    """Return the descriptor of the locked file at ``path``, created if absent; ``None`` if another process holds it.

    Raises:
        OSError: the file cannot be created or opened, or a link is in its place.
    """
    while True:
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(handle)
            return None
        except OSError:
            os.close(handle)
            raise
        if _is_at(handle, path):
            return handle
        os.close(handle)  # deleted between opening and locking: this lock would exclude nobody


def _is_at(handle: int, path: Path) -> bool:
    """Return whether ``path`` still names the file that is open as ``handle``."""
    try:
        at_path, of_handle = path.lstat(), os.fstat(handle)
    except OSError:
        return False
    return (at_path.st_dev, at_path.st_ino) == (of_handle.st_dev, of_handle.st_ino)


def _bind(path: Path) -> socket.socket | None:
    """Return a socket bound to the abstract name of this lock; ``None`` if another process has bound it.

    The name contains the folder: two folders are two sets of leases, as ``QUANTGATE_LEASES`` promises. It is valid in
    one network namespace: containers that share GPUs share the folder, and the file lock keeps them apart.
    """
    holder = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    if sys.platform != "linux":
        # Only Linux has abstract names: elsewhere the socket stays unbound, and the file lock alone decides.
        return holder
    name = hashlib.sha256(os.fsencode(path.parent.resolve() / path.name)).hexdigest()
    try:
        holder.bind(f"\0quantgate-lease-{os.getuid()}-{name[:32]}")
    except OSError:
        holder.close()
        return None
    return holder


@dataclass
class Lease:
    """A device that belongs to this process until ``release``, or until the process ends in any way."""

    device: Device
    env: Mapping[str, str]
    """Environment variables that show an engine exactly this device."""
    recovered: Holder | None = None
    """The previous holder, if it died without releasing the lease."""
    _lock: _Lock | None = field(default=None, repr=False)
    _record: Path | None = field(default=None, repr=False)

    def require_held(self) -> None:
        """Check that the device still belongs to this process; a lock whose file was deleted is taken again first.

        Raises:
            InfraError: kind ``device``: the file was deleted, and another process has leased the device since.
        """
        if self._lock is not None and not self._lock.renew():
            raise InfraError(
                f"the lock of {self.device.uuid} was deleted, and another process leased this GPU since",
                place=str(self._lock.path),
                kind="device",
                remedy="find out who deletes it, and run again: two runs must not share a GPU",
            )

    def release(self) -> None:
        """Return the device. Safe to call twice."""
        if self._record is not None:
            # the record is for messages only: whatever lies in its place, the lock is released
            with contextlib.suppress(OSError):
                self._record.unlink()
            self._record = None
        if self._lock is not None:
            self._lock.release()
            self._lock = None

    def __enter__(self) -> Lease:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()


def device_environment(device: Device) -> dict[str, str]:
    """Return the environment that shows an engine exactly ``device``; a CPU engine sees no GPU at all."""
    return {"CUDA_VISIBLE_DEVICES": (device.uuid or "") if device.kind == "cuda" else ""}


def lease_folder() -> Path:
    """Return the folder of the locks: one per user and machine.

    ``/tmp/quantgate-<uid>`` and not ``XDG_RUNTIME_DIR`` or ``TMPDIR``: those differ between a login, a service and a
    CI job of one user, and two folders would lease one GPU twice. ``QUANTGATE_LEASES`` names another folder, for
    containers that share a machine's GPUs.

    Raises:
        InfraError: kind ``device``: the variable holds no absolute path. A relative one would name another folder in
            each checkout.
    """
    named = os.environ.get(FOLDER_VARIABLE)
    if named and not Path(named).is_absolute():
        raise InfraError(
            f"{FOLDER_VARIABLE}={named} is no absolute path: runs in two folders would lease one GPU twice",
            kind="device",
            remedy=f"export {FOLDER_VARIABLE}={Path(named).expanduser().absolute()}",
        )
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
        timeout: seconds to wait while all are held; 0: try once.
        folder: folder of the locks; :func:`lease_folder` if not given.
        avoid: UUIDs that are tried last, such as the GPU on which an engine has just died.
        run: name of the run, shown to processes that wait for this lease.
        on_wait: called once with a sentence that names the holders, when the wait begins.

    Raises:
        InfraError: kind ``device``: all were held until the timeout, or the folder does not belong to this user.
        ValueError: no device was given, or a GPU without a UUID.
    """
    if not devices:
        raise ValueError("no device to lease")
    if devices[0].kind == "cpu":
        return Lease(devices[0], device_environment(devices[0]))
    if any(device.uuid is None for device in devices):
        raise ValueError("a GPU is leased by its UUID")
    place = _own_folder(folder or lease_folder())
    end_leftovers()  # else the doctor reports a GPU in use by an engine whose run was killed
    # A stable sort: GPUs to avoid come last and are still used if no other is free.
    ordered = sorted(devices, key=lambda device: device.uuid in avoid)
    deadline = time.monotonic() + timeout
    announced = False
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
        if on_wait is not None and not announced:
            announced = True
            on_wait(f"waiting for a GPU: {_holders(ordered, place)}")
        time.sleep(min(POLL_SECONDS, max(0.0, deadline - time.monotonic())))


def _try(device: Device, place: Path, run: str) -> Lease | None:
    lock = _Lock(place / f"{device.uuid}.lock")
    try:
        acquired = lock.acquire()
    except OSError as error:
        raise InfraError(
            f"the lock of {device.uuid} cannot be made: {error.strerror}",
            place=str(lock.path),
            kind="device",
            remedy=f"remove the file in its place, or set {FOLDER_VARIABLE} to a folder of your own",
        ) from error
    if not acquired:
        return None
    record = place / f"{device.uuid}.json"
    # A holder deletes its record when it releases the device, so a record under a free lock is of a holder that died.
    before = _holder(record)
    since = datetime.now(UTC).isoformat(timespec="seconds")
    # a full disk or a folder in the record's place costs only the name in a message; the lock decides
    with contextlib.suppress(OSError):
        Holder(pid=os.getpid(), host=socket.gethostname(), since=since, run=run).write(record)
    return Lease(device, device_environment(device), before, lock, record)


def _holder(record: Path) -> Holder | None:
    try:
        return Holder.read(record)
    except (OSError, UnreadableError):
        return None


def _holders(devices: Sequence[Device], place: Path) -> str:
    holders = []
    for device in devices:
        holder = _holder(place / f"{device.uuid}.json")
        holder_text = (
            f"process {holder.pid}{_stopped(holder)} on {holder.host} since {holder.since}" if holder else _NOBODY
        )
        holders.append(f"{device.uuid} by {holder_text}" + (f" (run {holder.run})" if holder and holder.run else ""))
    return "; ".join(holders)


def _stopped(holder: Holder) -> str:
    """Return a note if the holder is stopped (it waits for its terminal and keeps the GPU); empty otherwise."""
    # A process id only identifies a process on this host.
    process = look(holder.pid) if holder.host == socket.gethostname() else None
    return f" (stopped: kill -CONT {holder.pid} lets it go on)" if process and process.state == "T" else ""


def _own_folder(folder: Path) -> Path:
    """Create the folder, and refuse one that another user created first in a shared place."""
    for part in (folder.parent, folder):
        part.mkdir(mode=0o700, parents=True, exist_ok=True)
    status = folder.lstat()
    if stat.S_ISLNK(status.st_mode) or status.st_uid != os.getuid():
        raise InfraError(
            f"{folder} is not a folder of this user, so its locks mean nothing",
            kind="device",
            remedy=f"remove it, or set {FOLDER_VARIABLE} to a folder of your own",
        )
    return folder
