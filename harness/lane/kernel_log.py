"""Xid errors of the NVIDIA driver since boot. NVML only reports them to whoever listens while they happen."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

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
"""Codes that speak of the hardware or the driver and not of a program (NVIDIA, "Xid Errors")."""


class Xid(NamedTuple):
    """One error report of the driver."""

    pci: str
    code: int
    text: str

    @property
    def hardware(self) -> bool:
        """Whether it speaks of the GPU and not of the program that ran on it."""
        return self.code in HARDWARE_XIDS


def parse_xids(lines: Iterable[str]) -> tuple[Xid, ...]:
    """Every Xid report in the lines of a kernel log."""
    found = (_XID.search(line) for line in lines)
    return tuple(Xid(one["pci"], int(one["code"]), (one["text"] or "").strip()) for one in found if one)


def same_bus(pci: str, nvml_pci: str) -> bool:
    """Whether a bus id of the kernel log (``0000:3b:00``) is that of NVML (``00000000:3B:00.0``)."""
    domain, bus, device = nvml_pci.lower().rpartition(".")[0].split(":")
    return pci.lower().partition(".")[0] == f"{domain[-4:]}:{bus}:{device}"


def read_kernel_log(path: Path = KMSG) -> tuple[str, ...] | None:
    """Lines of the kernel's ring buffer; ``None`` where this user may not read it."""
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
                continue  # overwritten while it was read; the next read goes on behind it
            except OSError:
                return None
            if not chunk:
                break
            lines += chunk.decode(errors="replace").splitlines()
    finally:
        os.close(handle)
    return tuple(lines)
