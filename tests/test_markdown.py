"""Foreign text in the comment and the job summary is text: GitHub makes no link, mention or markup of it."""

from __future__ import annotations

import html
import re

import pytest

from harness.lane.coverage import Coverage
from harness.lane.summary import coverage_lines
from harness.markdown import COMMENT_CHARACTERS, bounded, neutral, table

LINKED = re.compile(r"(?i)#[0-9]|(?<![A-Za-z0-9])(?:www\.|(?:https?|ftp|mailto|xmpp):|@[a-z]|gh-[0-9])")
"""What GitHub links or notifies in the text of a rendered page: github.github.com/gfm, "Autolinks (extension)", and
docs.github.com, "Autolinked references and URLs"."""
HOSTILE = [
    "@octocat", "_@octocat", "octo/repo#17", "closes #17", "_#17", "GH-17", "_gh-17", "https://evil.example",
    "_www.evil.example", "(www.evil.example", "*www.evil.example", "~www.evil.example", "-WWW.evil.example",
    "mailto:a@evil.example", "ftp://evil.example",
]  # fmt: skip


@pytest.mark.parametrize("text", HOSTILE)
def test_nothing_is_linked(text: str) -> None:
    assert LINKED.search(text)
    shown = html.unescape(neutral(text))
    assert not LINKED.search(shown)
    assert shown.replace("\u200b", "") == text, "it is shown as it is"


@pytest.mark.parametrize("text", [*HOSTILE, "<b>", "a|b", "[a](b)", "$x$", "`x`", "a\nb", "x\u202ey"])
def test_the_summary_of_a_lane_uses_the_same_escapes(text: str) -> None:
    (line, _) = coverage_lines(Coverage(against=text, changes=()))
    before, after = "Coverage against ", ": no case, checkpoint, environment or limit changed."
    shown = line.removeprefix(before).removesuffix(after)
    assert not LINKED.search(html.unescape(shown))
    assert not set(shown) & set("<>|[]$`\n\u202e")


def test_a_table_has_one_cell_per_column() -> None:
    lines = table(("case", "verdict"), [("a", "pass"), ("b", neutral("x|y"))])
    assert lines == ["| case | verdict |", "| --- | --- |", "| a | pass |", "| b | x&#124;y |"]


def test_a_text_below_the_limit_is_not_cut() -> None:
    assert bounded("a\nb\n", COMMENT_CHARACTERS, "the rest is elsewhere") == "a\nb\n"


@pytest.mark.parametrize("line", ["| é &#64;team |", "x" * 500])
def test_a_text_above_the_limit_ends_with_whole_lines_and_the_note(line: str) -> None:
    text = bounded(f"{line}\n" * 9_000, COMMENT_CHARACTERS, "the rest is elsewhere")
    *rows, _, note = text.splitlines()
    assert COMMENT_CHARACTERS // 2 < len(text.encode()) <= COMMENT_CHARACTERS
    assert set(rows) == {line}
    assert note == "the rest is elsewhere"


def test_a_line_above_the_limit_is_cut_inside() -> None:
    assert 60_000 < len(bounded("mark\n" + "é" * 90_000, COMMENT_CHARACTERS, "more").encode()) <= COMMENT_CHARACTERS
