"""Compare one GPU with the runner's profile."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Set
from itertools import zip_longest
from pathlib import Path
from typing import NamedTuple

from harness.definitions.runner import RunnerProfile
from harness.machine.devices import GpuFacts
from harness.machine.preflight import Check

# Xid errors of the NVIDIA driver since boot, from the kernel log: NVML reports them only while they happen.


KMSG = Path("/dev/kmsg")
_XID = re.compile(r"NVRM: Xid \(PCI:(?P<pci>[0-9A-Fa-f:.]+)\): (?P<code>\d+)(?:, (?P<text>.*))?")

HARDWARE_XIDS = {
    48: "double-bit ECC error",
    62: "internal micro-controller halt",
    63: "row remapping recorded",
    64: "row remapping failed",
    74: "NVLink error",
    79: "GPU has fallen off the bus",
    92: "high single-bit ECC error rate",
    94: "contained memory error",
    95: "uncontained memory error",
    119: "GSP timeout",
    120: "GSP error",
    140: "unrecovered ECC error",
    143: "GPU initialization failure",
}
"""Codes that are caused by the hardware or the driver, not by a program (NVIDIA, "Xid Errors")."""


class Xid(NamedTuple):
    """One error report of the driver."""

    pci: str
    code: int
    text: str

    @property
    def hardware(self) -> bool:
        """Whether the GPU or the driver caused it, not the program that ran on it."""
        return self.code in HARDWARE_XIDS


def parse_xids(lines: Iterable[str]) -> tuple[Xid, ...]:
    """Return every Xid report in the lines of a kernel log."""
    matches = (_XID.search(line) for line in lines)
    return tuple(Xid(match["pci"], int(match["code"]), (match["text"] or "").strip()) for match in matches if match)


def same_bus(pci: str, nvml_pci: str) -> bool:
    """Return whether a bus id of the kernel log (``0000:3b:00``) is that of NVML (``00000000:3B:00.0``)."""
    domain, bus, device = nvml_pci.lower().rpartition(".")[0].split(":")
    return pci.lower().partition(".")[0] == f"{domain[-4:]}:{bus}:{device}"


def read_kernel_log(path: Path = KMSG) -> tuple[str, ...] | None:
    """Return the lines of the kernel's ring buffer; ``None`` if this user may not read it."""
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    except OSError:
        return None
    lines = []
    try:
        while True:
            try:
                chunk = os.read(handle, 1 << 13)
            except BlockingIOError:
                break
            except BrokenPipeError:
                continue  # the message was overwritten while it was read; the next read continues behind it
            except OSError:
                return None
            if not chunk:
                break
            lines += chunk.decode(errors="replace").splitlines()
    finally:
        os.close(handle)
    return tuple(lines)


GIB = 2**30
LEAST_FREE = 0.95
"""Share of the memory that must be free: the driver keeps less than 1 %, so a process holds the rest."""
SLOWING = frozenset({"hardware slowdown", "hardware thermal slowdown", "hardware power brake"})
"""Throttle reasons of a faulty or badly cooled GPU; other reasons only change times."""


def check_gpu(gpu: GpuFacts, profile: RunnerProfile, log: tuple[str, ...] | None, own_pids: Set[int]) -> list[Check]:
    """Return every check of one GPU.

    Args:
        gpu: NVML's facts.
        profile: the runner profile that the GPU must match.
        log: the kernel's log, or ``None`` if it may not be read.
        own_pids: process ids that belong to this run.
    """
    checks = [*_identity(gpu, profile), *_memory(gpu, profile, own_pids), *_errors(gpu), _xid(gpu, log), *_clocks(gpu)]
    return [check.model_copy(update={"device": gpu.uuid}) for check in checks]


def _identity(gpu: GpuFacts, profile: RunnerProfile) -> Iterator[Check]:
    present, wanted = f"{gpu.name} {gpu.compute_capability}", f"{gpu.name} {profile.compute_capability}"
    if gpu.compute_capability == profile.compute_capability:
        yield Check(name="device", state="fit", actual=present, wanted=wanted)
    else:
        message = (
            f"compute capability {gpu.compute_capability}, and runner {profile.name} is {profile.compute_capability}"
        )
        remedy = f"correct runners/{profile.name}.yaml if the GPU is right"
        yield Check(name="device", state="unfit", actual=present, wanted=wanted, message=message, remedy=remedy)
    if gpu.mig:
        message = "MIG is on: the GPU is cut into slices, and limits hold for a whole one"
        yield Check(name="mig", state="unfit", actual="on", wanted="off", message=message, remedy="nvidia-smi -mig 0")


def _memory(gpu: GpuFacts, profile: RunnerProfile, own_pids: Set[int]) -> Iterator[Check]:
    foreign = [process for process in gpu.processes or () if process.pid not in own_pids]
    named = ", ".join(
        f"{process.name} (pid {process.pid}"
        + (f", {process.memory_bytes / GIB:.1f} GiB)" if process.memory_bytes else ")")
        for process in foreign
    )
    if gpu.processes is None:
        yield Check(name="processes", state="unknown", message="NVML does not list the processes that use this GPU")
    elif foreign:
        message = f"in use by {named}"
        remedy = "wait for it or ask its owner: quantgate never ends a process that it did not start"
        yield Check(name="processes", state="unfit", actual=named, wanted="none", message=message, remedy=remedy)
    else:
        yield Check(name="processes", state="fit", actual="none but this run's", wanted="none")
    total, free = gpu.memory_total / GIB, gpu.memory_free / GIB
    space = f"{free:.1f} of {total:.1f} GiB free"
    if total < profile.memory_gib:
        message = f"{total:.1f} GiB, and runner {profile.name} has {profile.memory_gib:g} at least"
        yield Check(name="memory", state="unfit", actual=space, message=message, remedy="use a whole GPU, not a slice")
        # Memory that this run's own engines hold is no fault.
    elif (
        not (own_holds := any(process.pid in own_pids for process in gpu.processes or ())) and free < LEAST_FREE * total
    ):
        message = f"only {space}" + (f"; {named}" if named else ", and no process is seen that holds the rest")
        remedy = "find the holder with nvidia-smi; memory without a process needs a reset of the GPU"
        yield Check(name="memory", state="unfit", actual=space, message=message, remedy=remedy)
    else:
        yield Check(name="memory", state="fit", actual=space + (", some of it this run's" if own_holds else ""))


def _errors(gpu: GpuFacts) -> Iterator[Check]:
    if gpu.ecc_uncorrected is None:
        yield Check(name="ecc", state="unknown", message="this GPU does not count memory errors")
    elif gpu.ecc_uncorrected:
        message = f"{gpu.ecc_uncorrected} uncorrected memory errors since the driver was loaded"
        yield Check(
            name="ecc", state="unfit", actual=str(gpu.ecc_uncorrected), wanted="0", message=message, remedy=_RESET
        )
    elif gpu.ecc_enabled is False:
        yield Check(name="ecc", state="warning", actual="off", message="ECC is off: memory errors go unseen")
    else:
        yield Check(name="ecc", state="fit", actual="no uncorrected errors", wanted="0")
    if gpu.remap_failed or gpu.remap_pending:
        message = "row remapping failed" if gpu.remap_failed else "rows wait for a reset to be remapped"
        yield Check(name="remapping", state="unfit", message=message, remedy=_RESET)
    if gpu.recovery:
        message = f"the driver says: {gpu.recovery}"
        yield Check(name="recovery", state="unfit", actual=gpu.recovery, wanted="none", message=message, remedy=_RESET)


_RESET = "drain the node, then nvidia-smi --gpu-reset; if it comes back, replace the GPU"


def _xid(gpu: GpuFacts, log: tuple[str, ...] | None) -> Check:
    """Check for a hardware Xid since boot. A warning only: after a reset that cured it, ``recovery`` is empty."""
    if log is None or gpu.pci is None:
        return Check(name="xid", state="unknown", message="the kernel's log cannot be read by this user")
    bad = [xid for xid in parse_xids(log) if xid.hardware and same_bus(xid.pci, gpu.pci)]
    if not bad:
        return Check(name="xid", state="fit", actual="no hardware Xid since boot")
    codes = ", ".join(f"{code} ({HARDWARE_XIDS[code]})" for code in sorted({xid.code for xid in bad}))
    message = f"{len(bad)} hardware Xid since boot: {codes}"
    return Check(name="xid", state="warning", actual=codes, message=message, remedy="dmesg | grep Xid")


def _clocks(gpu: GpuFacts) -> Iterator[Check]:
    clocks = f"SM {gpu.sm_clock} of {gpu.sm_clock_max} MHz" if gpu.sm_clock and gpu.sm_clock_max else ""
    if gpu.throttle is None:
        yield Check(
            name="clocks", state="unknown", actual=clocks, message="this driver does not report why clocks are low"
        )
        return
    reasons = ", ".join(gpu.throttle)
    if SLOWING & set(gpu.throttle):
        message = f"the GPU slows itself down: {reasons}" + (
            f" at {gpu.temperature} degrees C" if gpu.temperature else ""
        )
        remedy = "look after cooling and power; nvidia-smi -q -d PERFORMANCE,TEMPERATURE"
        yield Check(name="clocks", state="unfit", actual=clocks, message=message, remedy=remedy)
    elif gpu.throttle:
        yield Check(name="clocks", state="warning", actual=clocks, message=f"times may be off: {reasons}")
    else:
        yield Check(name="clocks", state="fit", actual=clocks or "not held back")


# Driver versions: dotted numbers, compared number by number.


def at_least(present: str, least: str) -> bool:
    """Return whether the dotted version ``present`` is ``least`` or newer; false if it is not a dotted version."""
    try:
        pairs = list(zip_longest(_numbers(present), _numbers(least), fillvalue=0))
    except ValueError:
        return False
    return tuple(number for number, _ in pairs) >= tuple(other for _, other in pairs)


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split("."))
