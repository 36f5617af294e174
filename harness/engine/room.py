"""Find out whether this process can still get memory. Standard library only: it also runs inside other runtimes.

A library that gets no memory does not always say so: oneDNN reports "could not create a primitive", which is also its
report of a shape that it does not support. So the message does not decide; an attempt to get memory does.
"""

from __future__ import annotations

import mmap
import resource
from pathlib import Path

PROBE_BYTES = 64 << 20
"""Far less than one step of any model needs, and more than unwinding the stack of a failed call has freed."""


def has_room(size: int = PROBE_BYTES) -> bool:
    """Return whether the process gets ``size`` bytes of memory now. They are returned at once and never written."""
    try:
        mmap.mmap(-1, size).close()
    except (OSError, MemoryError):
        return False
    return True


def has_room_in(pid: int, size: int = PROBE_BYTES) -> bool:
    """Return whether another process may still get ``size`` bytes under its own limit of address space.

    True if the process has no such limit or cannot be read: only a limit that is reached is known to be one.
    """
    try:
        pages = int(Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()[0])
        limit, _ = resource.prlimit(pid, resource.RLIMIT_AS)
    except (OSError, ValueError):
        return True
    return limit == resource.RLIM_INFINITY or limit - pages * resource.getpagesize() >= size
