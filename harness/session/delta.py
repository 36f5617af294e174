"""Delta debugging: the smallest set of differences that turns a run red (Zeller and Hildebrandt, 2002, ``ddmin``)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal, TypeVar

T = TypeVar("T")
Answer = Literal["green", "red", "unresolved"]


def ddmin(items: Sequence[T], test: Callable[[tuple[T, ...]], Answer]) -> tuple[T, ...]:
    """A subset of ``items`` that is red and of which no single item can be left out.

    Args:
        items: all differences; together they must be red.
        test: runs with a subset applied. An ``unresolved`` answer (the run said nothing) counts as not red.

    Raises:
        ValueError: all differences together are not red: there is nothing to find.
    """
    current = tuple(items)
    if test(current) != "red":
        raise ValueError("all differences together are not red")
    parts = 2
    while len(current) >= 2:
        chunks = _split(current, parts)
        smaller = next((chunk for chunk in chunks if test(chunk) == "red"), None)
        if smaller is not None:
            current, parts = smaller, 2
            continue
        rests = [tuple(one for one in current if one not in chunk) for chunk in chunks] if parts > 2 else []
        rest = next((one for one in rests if test(one) == "red"), None)
        if rest is not None:
            current, parts = rest, max(parts - 1, 2)
        elif parts >= len(current):
            break
        else:
            parts = min(len(current), parts * 2)
    return current


def _split(items: tuple[T, ...], parts: int) -> list[tuple[T, ...]]:
    size, more = divmod(len(items), parts)
    chunks, start = [], 0
    for index in range(parts):
        end = start + size + (1 if index < more else 0)
        if end > start:
            chunks.append(items[start:end])
        start = end
    return chunks
