"""One trial of the storm: its random numbers, its folder, its time, and the record of its result."""

from __future__ import annotations

import random
import shutil
import signal
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import NamedTuple

SECONDS = 30.0
"""Longest trial. A trial takes milliseconds; linear time on the largest input takes a few seconds."""
NEEDLE = "n33dle-of-the-storm-8f1c"
"""A text that only a damaged file holds, so an error that quotes the file's content is recognized."""


class Result(NamedTuple):
    """Result of one trial."""

    kind: str
    number: int
    message: str
    """The attack, such as ``limits: truncated``."""
    failure: str
    """Empty if the promise held."""


Attack = Callable[[random.Random, Path], tuple[str, str]]
"""Carry out one attack with these random numbers in this empty folder; return the attack and its failure."""


class TimeIsUpError(BaseException):
    """A trial took longer than ``SECONDS``. Not an ``Exception``, so that no code under test catches it."""


@contextmanager
def bounded(seconds: float) -> Iterator[None]:
    """Raise ``TimeIsUpError`` in the block after ``seconds``."""

    def ring(_number: int, _frame: FrameType | None) -> None:
        raise TimeIsUpError

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def unexpected(error: BaseException) -> str:
    """Return in one line an error that no attack may cause: its class, its text, and the line that raised it."""
    if isinstance(error, TimeIsUpError):
        return "no end: the time of a trial is up"
    last = traceback.extract_tb(error.__traceback__)[-1]
    text = " ".join(str(error).split())[:200]
    return f"{type(error).__name__}: {text} ({Path(last.filename).name}:{last.lineno})"


def run_trial(kind: str, attack: Attack, seed: int, number: int, seconds: float = SECONDS) -> Result:
    """Run one trial. An exception that the attack does not expect is a failure, and so is a trial without end."""
    folder = Path(tempfile.mkdtemp(prefix="storm-"))
    started = time.monotonic()
    message = "?"
    try:
        with bounded(seconds):
            message, failure = attack(random.Random(f"{seed}:{kind}:{number}"), folder)
    except TimeIsUpError:
        failure = f"no end after {time.monotonic() - started:.0f} s"
    except Exception as error:
        failure = unexpected(error)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return Result(kind, number, message, failure)
