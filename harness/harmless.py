"""Text that others wrote, on a terminal: GitHub Actions obeys lines of a job's log, whoever wrote them.

https://docs.github.com/actions/reference/workflow-commands-for-github-actions: ``::name::`` at the beginning of a line
(after blanks), and the older ``##[name]`` anywhere in one.
"""

from __future__ import annotations

import re
from typing import Any, TextIO

_COMMAND = re.compile(r"(?:(?<=[\r\n])|\A)(\s*)::|##\[")


def harmless(text: str) -> str:
    """``text`` without anything that GitHub Actions would take as a command; it stays legible."""
    return _COMMAND.sub(lambda found: "## [" if found[1] is None else f"{found[1]}: :", text)


class HarmlessStream:
    """A text stream that commands nothing."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        """Write ``text``, made harmless."""
        return self._stream.write(harmless(text))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)
