"""Cases by an expression, as in ``pytest -k``: words that the id holds, ``and``, ``or``, ``not``, parentheses."""

from __future__ import annotations

import re
from collections.abc import Callable

from harness.errors import InvalidCaseError

Matcher = Callable[[str], bool]
_PART = re.compile(r"\s*(\(|\)|[^\s()]+)")


def matcher(expression: str) -> Matcher:
    """A test of case ids. Case of letters does not count; an empty expression matches everything.

    Raises:
        InvalidCaseError: it cannot be read.
    """
    parts = _PART.findall(expression)
    if not parts:
        return lambda _: True
    reader = _Reader(expression, parts)
    found = reader.either()
    if reader.next is not None:
        raise reader.error(f"{reader.next!r} is one too many")
    return found


class _Reader:
    def __init__(self, expression: str, parts: list[str]) -> None:
        self._expression, self._parts = expression, parts

    @property
    def next(self) -> str | None:
        return self._parts[0] if self._parts else None

    def error(self, what: str) -> InvalidCaseError:
        return InvalidCaseError(
            f"{self._expression!r}: {what}", where="-k", remedy="write words of ids with and, or, not and parentheses"
        )

    def either(self) -> Matcher:
        return self._chain("or", any, self.both)

    def both(self) -> Matcher:
        return self._chain("and", all, self.one)

    def _chain(self, word: str, how: Callable[[list[bool]], bool], part: Callable[[], Matcher]) -> Matcher:
        found = [part()]
        while self.next == word:
            self._parts.pop(0)
            found.append(part())
        return lambda name: how([one(name) for one in found])

    def one(self) -> Matcher:
        first = self._parts.pop(0) if self._parts else None
        if first == "not":
            inner = self.one()
            return lambda name: not inner(name)
        if first == "(":
            inner = self.either()
            if not self._parts or self._parts.pop(0) != ")":
                raise self.error("a parenthesis stays open")
            return inner
        if first is None or first in ("and", "or", ")"):
            raise self.error("a word is missing" + (f" before {first!r}" if first else " at the end"))
        word = first.lower()
        return lambda name: word in name.lower()
