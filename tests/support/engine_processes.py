"""Processes of an engine: which are alive, and who is whose parent."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence

import psutil


def alive(pid: int) -> bool:
    """Whether a process runs; a zombie does not."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def left(pids: Sequence[int], seconds: float = 15.0) -> list[int]:
    """Processes that are alive after at most ``seconds``."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and any(map(alive, pids)):
        time.sleep(0.02)
    return [pid for pid in pids if alive(pid)]


def chain_of(guard: int) -> tuple[int, int, int]:
    """Guard, supervisor and worker."""
    (supervisor,) = psutil.Process(guard).children()
    worker = next(child for child in supervisor.children() if os.getpgid(child.pid) == child.pid)
    return guard, supervisor.pid, worker.pid
