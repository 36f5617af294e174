"""Keeps values of passed-through environment variables out of everything that is shown or kept."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from pathlib import Path

from harness.records.base import write_bytes_atomic


def redact(text: str, secrets: Mapping[str, str]) -> str:
    """``text`` with every secret's value replaced by ``<NAME>``; longer values first, as one may hold another."""
    for name, value in sorted(secrets.items(), key=lambda item: -len(item[1])):
        text = text.replace(value, f"<{name}>")
    return text


def redact_file(path: Path, secrets: Mapping[str, str]) -> None:
    """Rewrite ``path`` without the secrets' values; nothing is written where none occurs or the file is absent."""
    if not secrets or not path.is_file():
        return
    before = path.read_bytes()
    after = redact(before.decode("utf-8", errors="surrogateescape"), secrets).encode("utf-8", errors="surrogateescape")
    if after != before:
        write_bytes_atomic(path, after)


def tail(path: Path, lines: int, secrets: Mapping[str, str]) -> tuple[str, ...]:
    """The last ``lines`` lines of a log, redacted; empty where there is no log."""
    if not path.is_file():
        return ()
    with path.open(encoding="utf-8", errors="replace") as handle:
        last = deque(handle, maxlen=lines)
    return tuple(redact("".join(last), secrets).splitlines())
