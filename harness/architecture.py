"""Map the CPU architecture names of all operating systems to one name per hardware class."""

from __future__ import annotations

from typing import Final

CLASSES: Final = frozenset({"x86_64", "aarch64", "riscv64", "ppc64le", "s390x", "loongarch64", "i686", "armv7l"})
"""Architectures as Linux names them. A device with another name is no CPU."""
_SPELLINGS: Final = {"arm64": "aarch64", "amd64": "x86_64", "x64": "x86_64", "x86-64": "x86_64", "i386": "i686"}
"""Names of macOS, FreeBSD and Windows for the same instruction sets, to Linux's names."""


def hardware_class(machine: str) -> str:
    """Return the hardware class of a CPU.

    Args:
        machine: result of ``platform.machine()``, such as ``arm64`` on macOS and ``AMD64`` on Windows.

    Returns:
        Linux's name of the architecture: ``aarch64``, ``x86_64``. A name that is not listed is returned unchanged.
    """
    name = machine.strip().lower()
    name = _SPELLINGS.get(name, name)
    return name if name in CLASSES else machine
