"""Driver versions: dotted numbers, compared number by number."""

from __future__ import annotations

from itertools import zip_longest


def at_least(found: str, wanted: str) -> bool:
    """Whether the dotted version ``found`` is ``wanted`` or newer; false where it is no such version."""
    try:
        pairs = list(zip_longest(_numbers(found), _numbers(wanted), fillvalue=0))
    except ValueError:
        return False
    return tuple(one for one, _ in pairs) >= tuple(other for _, other in pairs)


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split("."))
