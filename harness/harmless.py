"""Print foreign text safely in CI: services run commands that any program prints to a job's log.

https://docs.github.com/actions/reference/workflow-commands-for-github-actions: ``::name::`` at the beginning of a line
(after blanks), and the older ``##[name]`` anywhere in a line. Azure Pipelines obeys ``##vso[name]`` and ``##[name]``,
TeamCity ``##teamcity[name]``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any, TextIO

_COMMAND = re.compile(r"(?:(?<=[\r\n])|\A)(\s*)::|##(?=[A-Za-z]*\[)")
_KEPT = 64
"""Characters of the present line that a stream remembers: longer than the beginning of any command."""


def harmless(text: str) -> str:
    """Return ``text`` without workflow commands, still legible: ``::error::x`` becomes ``: :error::x``."""
    return _COMMAND.sub(lambda match: "## " if match[1] is None else f"{match[1]}: :", text)


class HarmlessStream:
    """A text stream that passes every text through :func:`harmless`."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._line = ""
        """End of the unfinished line: a command may arrive in two pieces."""

    def write(self, text: str) -> int:
        """Write ``text`` without workflow commands, also those that it completes."""
        safe = harmless(text)
        if self._line and _COMMAND.search(self._line + safe):
            safe = f" {safe}"
        line = re.split(r"[\r\n]", f"{self._line}{safe}")[-1]
        # of a long line the end is kept, after a letter: what it begins with is not at the beginning of the line
        self._line = line if len(line) <= _KEPT else f"x{line[-_KEPT:]}"
        return self._stream.write(safe)

    def writelines(self, lines: Iterable[str]) -> None:
        """Write several texts without workflow commands."""
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)
