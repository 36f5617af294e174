"""Name temporary files after the process that made them, so that the next command recognises those of killed ones."""

from __future__ import annotations

import os
import re
import zlib
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

_MARK = re.compile(r"(?P<host>[0-9a-f]{8})-(?P<pid>[0-9]+)-[A-Za-z0-9_]+\.tmp")
_BESIDE = re.compile(rf"\..+\.{_MARK.pattern}", re.DOTALL)


def process_mark() -> str:
    """Return ``<host>-<pid>``, which names this process on this machine; the name of a temporary file holds it."""
    return f"{_host()}-{os.getpid()}"


def left_behind(name: str, prefix: str) -> bool:
    """Return whether a name is ``<prefix><mark>-<random>.tmp`` of a process of this machine that has ended."""
    match = _MARK.fullmatch(name.removeprefix(prefix)) if name.startswith(prefix) else None
    return match is not None and _ended(match)


def left_entries(folder: Path | int) -> Iterator[os.DirEntry[str]]:
    """Yield the entries ``.<target>.<mark>-<random>.tmp`` whose process has ended, whichever file they were to become.

    Args:
        folder: a path, or the descriptor of an open folder.

    Raises:
        OSError: the folder cannot be listed.
    """
    with os.scandir(folder) as entries:
        for entry in entries:
            match = _BESIDE.fullmatch(entry.name)
            if match is not None and _ended(match):
                yield entry


def _ended(match: re.Match[str]) -> bool:
    return match["host"] == _host() and not _alive(int(match["pid"]))


def _host() -> str:
    """Return eight hex digits of machine and pid namespace: a pid is unique only within both."""
    try:
        # psutil gives no namespaces.
        namespace = str(Path("/proc/self/ns/pid").readlink())
    except OSError:
        namespace = ""
    return f"{zlib.crc32(f'{os.uname().nodename} {namespace}'.encode()):08x}"


def _alive(pid: int) -> bool:
    with suppress(ProcessLookupError):
        try:
            os.kill(pid, 0)
        except (PermissionError, OverflowError):
            return True  # the process belongs to another user, or the number is none
        return True
    return False
