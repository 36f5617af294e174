"""Foreign text inside Markdown that GitHub will render: it is shown, and does nothing.

Every character that Markdown or HTML could read as a mark becomes a numeric character reference, which by CommonMark is
never a mark. GitHub links mentions and issue numbers in the finished text, after references are resolved: a zero-width
space after ``@`` and ``#`` keeps a prompt from calling people, one after ``https`` or ``www`` keeps addresses from
becoming links.
"""

from __future__ import annotations

import re

from harness.report.text import clean, one_line

_GAP = "&#8203;"
_HARMLESS = re.compile(r"[^A-Za-z0-9 ,;/.%=()+\-\u0080-\U0010ffff]")
_ADDRESS = re.compile(r"(?i)(https?|ftp|mailto|xmpp)(?=:)|([a-z][a-z0-9+.-]{1,15})(?=://)|\b(www)(?=\.)|\b(GH)(?=-\d)")


def neutral(text: str, limit: int = 400) -> str:
    """One line of foreign text, safe in running Markdown and in a table's cell."""
    line = one_line(text, limit)
    marked = _ADDRESS.sub(lambda match: match.group(0) + "\0", line)
    return "".join(_escape(character) for character in marked)


def _escape(character: str) -> str:
    if character == "\0":
        return _GAP
    if not _HARMLESS.match(character):
        return character
    reference = f"&#{ord(character)};"
    return reference + _GAP if character in "@#" else reference


def code(text: str, limit: int = 400) -> str:
    """One line of foreign text as inline code; references inside ``<code>`` are shown as what they stand for."""
    return f"<code>{neutral(text, limit)}</code>"


def fenced(text: str, language: str = "") -> str:
    """Text as a code block whose fence is longer than any run of backticks in it, so that nothing in it can end it."""
    body = clean(text).strip("\n")
    longest = max((len(run) for run in re.findall(r"`+", body)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}{language}\n{body}\n{fence}"
