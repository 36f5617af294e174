"""Make foreign text safe to print: remove terminal colours, control characters and signs of reading direction."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

_ANSI = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)?|[@-Z\\-_])")


_CONTROL = re.compile(
    r"[\x00-\x08\x0b-\x1f\x7f-\x9f\xad\u0600-\u0605\u061c\u06dd\u070f\u0890\u0891\u08e2\u180e\u200b-\u200f"
    r"\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb\ufffe\uffff\ud800-\udfff\U000110bd\U000110cd"
    r"\U00013430-\U0001343f\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0001\U000e0020-\U000e007f]"
)


def clean(text: str) -> str:
    """Return ``text`` without terminal colours, control characters and signs that turn the reading direction.

    The result is legal in XML 1.0, and reads in the order in which it is stored.
    """
    return _CONTROL.sub("", _ANSI.sub("", text).replace("\r\n", "\n"))


MOST_PROBLEMS = 50
"""Most problems of one error; a file that is damaged all over has thousands."""
_PROBLEM_CHARACTERS = 1000


def has_words(text: str) -> bool:
    """Return whether ``text`` holds a letter or a digit of any script: blanks, ``...`` and ``?`` are no reason."""
    return any(character.isalnum() for character in clean(text))


def problem_list(problems: Iterable[str]) -> str:
    """Return problems as text, a line each; after ``MOST_PROBLEMS`` lines only their number."""
    lines = list(problems)
    shown = [one_line(line, _PROBLEM_CHARACTERS) for line in lines[:MOST_PROBLEMS]]
    if len(lines) > MOST_PROBLEMS:
        shown.append(f"... and {len(lines) - MOST_PROBLEMS} more")
    return "\n".join(shown)


def listed(items: Sequence[str], limit: int = 3, separator: str = ", ") -> str:
    """Return the first ``limit`` items and the number of the others: ``a, b, c and 7 more``."""
    more = f" and {len(items) - limit} more" if len(items) > limit else ""
    return separator.join(items[:limit]) + more


def one_line(text: str, limit: int = 400) -> str:
    """Return ``text`` cleaned, on one line, with at most ``limit`` characters; an ellipsis marks a cut."""
    line = " ".join(clean(text).split())
    return line if len(line) <= limit else line[: limit - 1] + "…"
