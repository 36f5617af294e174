"""Driver versions: dotted numbers, compared number by number."""

from __future__ import annotations


def at_least(found: str, wanted: str) -> bool:
    """Whether the dotted version ``found`` is ``wanted`` or newer; false where it is no such version."""
    try:
        return _numbers(found) >= _numbers(wanted)
    except ValueError:
        return False


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split("."))
