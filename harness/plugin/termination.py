"""SIGTERM as an interrupt: pytest then ends as after Ctrl-C, instead of on the spot."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

_PR_SET_PDEATHSIG = 1


@contextmanager
def as_interrupt() -> Iterator[None]:
    """Raise ``KeyboardInterrupt`` at the first SIGTERM; a second one ends the process at once.

    Nothing is changed where somebody else handles SIGTERM, and outside the main thread, which alone may.
    """
    ours = threading.current_thread() is threading.main_thread()
    if not ours or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        yield
        return
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _interrupt(_number: int, _frame: object) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    raise KeyboardInterrupt("SIGTERM")


def end_with_parent() -> None:
    """Have the kernel send SIGTERM to this process if its parent dies in whatever way: for workers of xdist.

    A worker whose controller was killed would finish its case first, for nobody. Linux only; elsewhere the worker
    notices at its next message. Call it in the main thread of a process that was started by the main thread of another.
    """
    if sys.platform != "linux":
        return
    parent = os.getppid()
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
    if os.getppid() != parent:  # it died before it was asked for
        os.kill(os.getpid(), signal.SIGTERM)
