"""How many CPU threads a comparison may use."""

from __future__ import annotations

import os


def usable_threads() -> int:
    """Cores this process may run on, shared among pytest-xdist's workers, at least 1.

    ``QUANTGATE_THREADS`` sets the number outright. More threads than that are slower than one: workers would fight
    over the cores.
    """
    stated = os.environ.get("QUANTGATE_THREADS", "")
    if stated:
        return max(1, int(stated))
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    workers = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    return max(1, cores // max(1, workers))
