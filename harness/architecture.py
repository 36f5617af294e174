"""Names of CPU architectures: one name per hardware class, however an operating system spells it."""

from __future__ import annotations

from typing import Final

CLASSES: Final = frozenset({"x86_64", "aarch64", "riscv64", "ppc64le", "s390x", "loongarch64", "i686", "armv7l"})
"""Architectures as Linux names them. A device of another name is no CPU."""
_SPELLINGS: Final = {"arm64": "aarch64", "amd64": "x86_64", "x64": "x86_64", "x86-64": "x86_64", "i386": "i686"}
"""macOS, FreeBSD and Windows spell the same instruction sets otherwise than Linux."""


def hardware_class(machine: str) -> str:
    """Return the hardware class of a CPU.

    Args:
        machine: what ``platform.machine()`` says, such as ``arm64`` on macOS and ``AMD64`` on Windows.

    Returns:
        The name that Linux gives the architecture: ``aarch64``, ``x86_64``. A name that is not listed stays as it is.
    """
    name = machine.strip().lower()
    name = _SPELLINGS.get(name, name)
    return name if name in CLASSES else machine
