"""Choose cases by an expression as in ``pytest -k``: words of the id, ``and``, ``or``, ``not``, parentheses."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

from harness.definitions.case import Located
from harness.definitions.validation import did_you_mean
from harness.errors import InvalidCaseError

Matcher = Callable[[str], bool]
_PART = re.compile(r"\s*(\(|\)|[^\s()]+)")


def matcher(expression: str) -> Matcher:
    """Parse an expression into a test of case ids.

    Upper and lower case are equal; an empty expression matches every id. For example, ``fp8 and not (tiny or big)``
    matches ``ti2v_fp8_text``.

    Raises:
        InvalidCaseError: the expression cannot be parsed.
    """
    parts = _PART.findall(expression)
    if not parts:
        return lambda _: True
    reader = _Reader(expression, parts)
    matches = reader.either()
    if reader.next is not None:
        raise reader.error(f"{reader.next!r} is one too many")
    return matches


def no_such_case(unknown: Collection[str], present: Collection[str]) -> InvalidCaseError:
    """Return the error for ids that no case has. It suggests the most similar id for the first of them.

    Args:
        unknown: one or more ids that were asked for.
        present: the ids of all cases.
    """
    advice = did_you_mean(next(iter(unknown)), present)
    if len(present) > _LISTED and not advice.startswith("did you mean"):
        advice = ""  # a list would fill the screen
    message = f"there is no case {', '.join(unknown)}"
    return InvalidCaseError(f"{message}; {advice}" if advice else message, place="cases", remedy="quantgate cases")


_LISTED = 12
"""Most ids that an error lists."""


class _Reader:
    """Recursive descent over ``or`` (binds weakest), ``and``, ``not`` and parentheses."""

    def __init__(self, expression: str, parts: list[str]) -> None:
        self._expression, self._parts = expression, parts

    @property
    def next(self) -> str | None:
        return self._parts[0] if self._parts else None

    def error(self, message: str) -> InvalidCaseError:
        return InvalidCaseError(
            f"{self._expression!r}: {message}",
            place="-k",
            remedy="write words of ids with and, or, not and parentheses",
        )

    def either(self) -> Matcher:
        return self._chain("or", any, self.both)

    def both(self) -> Matcher:
        return self._chain("and", all, self.single)

    def _chain(self, word: str, how: Callable[[list[bool]], bool], part: Callable[[], Matcher]) -> Matcher:
        matchers = [part()]
        while self.next == word:
            self._parts.pop(0)
            matchers.append(part())
        return lambda name: how([matches(name) for matches in matchers])

    def single(self) -> Matcher:
        first = self._parts.pop(0) if self._parts else None
        if first == "not":
            inner = self.single()
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


# The pairs of runner and case that ``regenerate --check`` examines, by the same filters as ``regenerate``.


Pair = tuple[str, str]
"""Name of a runner, id of a case."""


@dataclass(frozen=True)
class Filters:
    """Filters of pairs. A pair must pass all of them; an empty filter passes every pair."""

    runner: str = ""
    ids: tuple[str, ...] = ()
    keyword: str = ""
    files: tuple[Path, ...] = ()
    """Absolute paths."""

    def choose(self, root: Path, cases: Mapping[str, Located], pairs: Collection[Pair]) -> frozenset[Pair]:
        """Return the pairs that pass all filters. A golden or limits without a case lie in no file.

        Args:
            root: the repository's root, absolute.
            cases: by id.
            pairs: pairs of cases, goldens and limits.

        Raises:
            InvalidCaseError: no case with its own golden passes: an empty check must not be green.
        """
        present = cases.keys() | {case for _, case in pairs}
        if unknown := sorted(set(self.ids) - present):
            raise no_such_case(unknown, present)
        matches = matcher(self.keyword)
        chosen = frozenset(
            (runner, case)
            for runner, case in pairs
            if self.runner in ("", runner)
            and (not self.ids or case in self.ids)
            and matches(case)
            and (not self.files or (case in cases and root / cases[case].path in self.files))
        )
        # `all` of nothing is true: an empty choice is refused here too
        if all(case in cases and cases[case].case.golden_of is not None for _, case in chosen):
            raise InvalidCaseError(
                f"no case with a golden of its own{self._description()}", place=str(root), remedy="quantgate cases"
            )
        return chosen

    def _description(self) -> str:
        parts = {
            "--runner": self.runner,
            "--case": ", ".join(self.ids),
            "-k": self.keyword,
            "--file": ", ".join(map(str, self.files)),
        }
        options = " and ".join(f"{option} {value}" for option, value in parts.items() if value)
        return f" matches {options}" if options else " in cases/"
