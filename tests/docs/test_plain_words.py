"""The pages keep to the plain words of CONTRIBUTING: no idiom that a stranger has to decode."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGES = (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))
IDIOMS = {
    r"\bh(e|o)ld(s|ing)? [^.|]{0,40}\bagainst\b": "compare with",
    r"\bwhoever\b": "a person who",
    r"\b(is|are|was|were) (told|said)\b": "reported, printed, written",
    r"\b(file|page|report|plan|command|record) (says|tells|knows)\b": "states, prints, lists",
    r"\bnobody (knows|is known)\b": "unknown",
}
"""Idiom, as a regular expression, to the words that replace it."""


def idioms(text: str) -> list[str]:
    """Return the idioms of a text without its code."""
    prose = re.sub(r"```.*?```|`[^`]*`", "", text, flags=re.DOTALL)
    flat = " ".join(prose.split())
    return [f"{match[0]!r}: {words}" for idiom, words in IDIOMS.items() for match in re.finditer(idiom, flat, re.I)]


def test_the_pages_use_plain_words() -> None:
    assert {page.name: found for page in PAGES if (found := idioms(page.read_text(encoding="utf-8")))} == {}


def test_an_idiom_is_found_across_lines_and_not_in_code() -> None:
    assert len(idioms("A run is held\nagainst its golden, and that is said. The file says so.")) == 3
    assert idioms("`is held against`, and a run is compared with its golden") == []
