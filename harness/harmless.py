"""Print foreign text safely in CI: GitHub Actions runs commands in a job's log, whatever program printed them.

https://docs.github.com/actions/reference/workflow-commands-for-github-actions: ``::name::`` at the beginning of a line
(after blanks), and the older ``##[name]`` anywhere in a line.
"""

from __future__ import annotations

import re
from typing import Any, TextIO

_COMMAND = re.compile(r"(?:(?<=[\r\n])|\A)(\s*)::|##\[")


def harmless(text: str) -> str:
    """Return ``text`` without workflow commands, still legible: ``::error::x`` becomes ``: :error::x``."""
    return _COMMAND.sub(lambda match: "## [" if match[1] is None else f"{match[1]}: :", text)


class HarmlessStream:
    """A text stream that passes every text through :func:`harmless`."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        """Write ``text`` without workflow commands."""
        return self._stream.write(harmless(text))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)
