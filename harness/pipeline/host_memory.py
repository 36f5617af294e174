"""Whether the kernel killed for memory: told from the counter of this control group, not guessed from a signal."""

from __future__ import annotations

from pathlib import Path

_COUNTERS = (Path("/sys/fs/cgroup/memory.events"), Path("/sys/fs/cgroup/memory/memory.oom_control"))


def kernel_kills(counters: tuple[Path, ...] = _COUNTERS) -> int:
    """How many processes of this control group the kernel has killed for memory; 0 where that cannot be read."""
    for path in counters:
        try:
            text = path.read_text(encoding="ascii")
        except OSError:
            continue
        for line in text.splitlines():
            name, _, value = line.partition(" ")
            if name == "oom_kill" and value.strip().isdigit():
                return int(value)
    return 0
