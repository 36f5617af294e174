"""Foreign text inside Markdown that GitHub renders: it must show as text, without links, mentions or markup."""

from __future__ import annotations

import re

from harness.text import clean, one_line

_GAP = "&#8203;"
_HARMLESS = re.compile(r"[^A-Za-z0-9 ,;/.%=()+\-\u0080-\U0010ffff]")
_ADDRESS = re.compile(
    r"(?i)(https?|ftp|mailto|xmpp)(?=:)|([a-z][a-z0-9+.-]{1,15})(?=://)"
    r"|(?<![A-Za-z0-9])(www)(?=\.)|(?<![A-Za-z0-9])(GH)(?=-\d)"
)
"""Text that GitHub turns into a link: addresses and ``GH-17``. After an underscore too, where ``\\b`` fails."""


def neutral(text: str, limit: int = 400) -> str:
    """Return foreign text as one line that is safe in running Markdown and in a table cell."""
    line = one_line(text, limit)
    marked = _ADDRESS.sub(lambda match: match.group(0) + "\0", line)
    return "".join(_escape(character) for character in marked)


def _escape(character: str) -> str:
    if character == "\0":
        return _GAP
    if not _HARMLESS.match(character):
        return character
    reference = f"&#{ord(character)};"
    # a zero-width space after the sign breaks mentions and links to issues
    return reference + _GAP if character in "@#" else reference


def code(text: str, limit: int = 400) -> str:
    """Return foreign text as one line of inline code.

    ``<code>`` instead of backticks: GitHub shows character references inside it as their characters.
    """
    return f"<code>{neutral(text, limit)}</code>"


def fenced(text: str, language: str = "") -> str:
    """Return text as a code block whose fence is longer than any run of backticks in it, so the text cannot end it."""
    body = clean(text).strip("\n")
    longest = max((len(run) for run in re.findall(r"`+", body)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}{language}\n{body}\n{fence}"
