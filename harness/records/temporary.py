"""Temporary files beside their target. The next command removes files that a killed command left."""

from __future__ import annotations

import os
import re
import shutil
import tempfile
import zlib
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

_REST = re.compile(r"(?P<host>[0-9a-f]{8})-(?P<pid>[0-9]+)-[A-Za-z0-9_]+\.tmp")


def temporary_beside(target: Path) -> Path:
    """Create an empty temporary file in the folder of ``target``, to be renamed to it.

    Its name holds the machine and the process that made it. Files of ended processes of this machine are removed on
    the way. Files of another machine, in a shared folder, are left to that machine.

    Raises:
        OSError: the folder cannot be written to.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    remove_leftovers(target)
    prefix = f".{target.name}.{_host()}-{os.getpid()}-"
    handle, name = tempfile.mkstemp(prefix=prefix, suffix=".tmp", dir=target.parent)
    os.close(handle)
    return Path(name)


def remove_leftovers(target: Path) -> None:
    """Remove temporary files of ``target`` whose process on this machine has ended."""
    for entry in _leftovers(target.parent, f".{target.name}."):
        with suppress(OSError):
            Path(entry.path).unlink()


def temporary_folder(parent: Path, name: str = "") -> Path:
    """Create a folder in ``parent`` for files that are moved to their place when they are complete.

    Folders that ended processes of this machine made under the same name are removed on the way.

    Args:
        parent: it is created if it is absent.
        name: beginning of the folder's name, such as ``.report.``.

    Raises:
        OSError: ``parent`` cannot be written to.
    """
    parent.mkdir(parents=True, exist_ok=True)
    for entry in _leftovers(parent, name):
        if entry.is_dir(follow_symlinks=False):
            shutil.rmtree(entry.path, ignore_errors=True)
    return Path(tempfile.mkdtemp(prefix=f"{name}{_host()}-{os.getpid()}-", suffix=".tmp", dir=parent))


def _leftovers(folder: Path, prefix: str) -> Iterator[os.DirEntry[str]]:
    """Yield the entries whose name is ``prefix`` and the mark of a process of this machine that has ended."""
    with suppress(OSError):
        for entry in os.scandir(folder):
            match = _REST.fullmatch(entry.name.removeprefix(prefix)) if entry.name.startswith(prefix) else None
            if match is not None and match["host"] == _host() and not _alive(int(match["pid"])):
                yield entry


def _host() -> str:
    """Return eight hex digits of machine and pid namespace: a pid is unique only within both."""
    try:
        # psutil gives no namespaces.
        namespace = str(Path("/proc/self/ns/pid").readlink())
    except OSError:
        namespace = ""
    return f"{zlib.crc32(f'{os.uname().nodename} {namespace}'.encode()):08x}"


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):
        return True  # the process belongs to another user
    return True
