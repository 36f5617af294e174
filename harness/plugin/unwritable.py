"""What cannot be written is said in one line, and never replaces a verdict."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from harness.harmless import harmless
from harness.redaction import redact


class Unwritten(Protocol):
    """Keeps the sentences about files that could not be written: the state of the run."""

    unwritten: list[str]


@contextmanager
def or_said(state: Unwritten, what: str) -> Iterator[None]:
    """Note that ``what`` could not be written, where that fails; the end of the table says it."""
    try:
        yield
    except Exception as error:
        note(state, what, error)


def note(state: Unwritten, what: str, error: Exception) -> None:
    """Note that ``what`` could not be written, once."""
    said = " ".join(f"{what} could not be written: {error or type(error).__name__}".split())
    if said not in state.unwritten:
        state.unwritten.append(harmless(redact(said)))
