"""What a run ran on."""

from __future__ import annotations

from typing import Literal

from harness.records.base import Record


class Device(Record):
    """One accelerator, or the CPU."""

    kind: Literal["cpu", "cuda"]
    name: str
    """Exact name as the driver gives it; on a CPU the architecture (``x86_64``)."""
    compute_capability: str | None = None
    """``major.minor`` of a GPU, such as ``10.0``."""
    uuid: str | None = None
    memory_bytes: int | None = None
    model: str = ""
    """On a CPU the marketing name. Shown, never compared."""


class Fingerprint(Record):
    """Runner fingerprint of one engine."""

    runner: str
    device: Device
    driver: str | None = None
    cuda: str | None = None
    cpu_capability: str = ""
    """Instruction set that torch dispatches to: DEFAULT, AVX2, AVX512."""
    threads: int = 1
    python: str = ""
    packages: dict[str, str] = {}
    """Version by distribution: torch, diffusers, transformers, numpy, quantgate."""
    code: str = ""
    """Commit of the harness or of the code under test, with ``+dirty`` where the tree had changes."""
