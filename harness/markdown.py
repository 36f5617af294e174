"""The one writer of Markdown that GitHub renders: tables, code, sizes; and foreign text that must show as text.

`harness.report.markdown` and `harness.lane.summary` choose the sentences and rows; how they become Markdown is here.
Foreign text shows without links, mentions or markup.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from harness.text import clean, one_line

SUMMARY_BYTES = 1024 * 1024
"""Largest step summary in bytes; GitHub refuses a longer summary."""
COMMENT_CHARACTERS = 65536
"""Longest comment in characters; GitHub refuses a longer comment."""
RESERVED = 400
"""Bytes that are kept free below a limit, for the line that states the cut."""
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


def table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """Return the lines of a table. Cells are Markdown: foreign text must have gone through `neutral` or `code`."""
    return [f"| {' | '.join(cells)} |" for cells in (columns, ["---"] * len(columns), *rows)]


def bounded(text: str, limit: int, note: str) -> str:
    """Return ``text`` if it fits into ``limit`` bytes of UTF-8, less `RESERVED`; else what fits of it, and ``note``.

    It is cut at the end of a line, so that no row, tag or character reference is cut in two; a text without a line that
    fits is cut inside one.
    """
    data = text.encode()
    if len(data) <= limit - RESERVED:
        return text
    start = data[: limit - RESERVED].decode("utf-8", errors="ignore")
    # a short first line, such as the marker of a comment, is not all that may be left of the text
    end = start.rfind("\n", len(start) // 2)
    return f"{start[:end] if end > 0 else start}\n\n{note}\n"
