"""Foreign text in the comment and the job summary is text: GitHub makes no link, mention or markup of it."""

from __future__ import annotations

import html
import re

import pytest

from harness.lane.coverage import Coverage
from harness.lane.summary import coverage_lines
from harness.markdown import neutral

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
