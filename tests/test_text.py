"""Lists in messages: the first names, and how many others there are."""

from __future__ import annotations

import pytest

from harness.text import listed


@pytest.mark.parametrize(
    ("names", "text"),
    [([], ""), (["a"], "a"), (["a", "b", "c"], "a, b, c"), (["a", "b", "c", "d", "e"], "a, b, c and 2 more")],
)
def test_names_beyond_the_limit_are_counted(names: list[str], text: str) -> None:
    assert listed(names) == text


def test_limit_and_separator_are_those_of_the_message() -> None:
    assert listed(("a: 1", "b: 2", "c: 3"), 2, "; ") == "a: 1; b: 2 and 1 more"
