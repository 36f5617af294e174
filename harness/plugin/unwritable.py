"""Report a file that cannot be written in one line; a failed write never replaces a verdict."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from harness.plugin.printing import printable


class Unwritten(Protocol):
    """State that collects the sentences about files that could not be written."""

    unwritten: list[str]


@contextmanager
def warn_if_unwritable(state: Unwritten, item: str) -> Iterator[None]:
    """Context manager: if the write fails, queue "<item> could not be written" for the end of the table; no raise."""
    try:
        yield
    except Exception as error:
        note(state, item, error)


def note(state: Unwritten, item: str, error: Exception) -> None:
    """Queue the sentence that ``item`` could not be written; the same sentence only once."""
    sentence = " ".join(f"{item} could not be written: {error or type(error).__name__}".split())
    if sentence not in state.unwritten:
        state.unwritten.append(printable(sentence))
