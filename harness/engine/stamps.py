"""Which files lie in a folder, without reading them: enough to see that one was replaced, written or renamed."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from harness.engine.pictures import split
from harness.errors import InfraError

_SHOWN = 3


class Stamp(NamedTuple):
    """One file. The change time is the kernel's: nobody can set it back, as they can the modification time."""

    path: str
    size: int
    mtime_ns: int
    ctime_ns: int
    inode: int
    device: int


Stamps = dict[str, tuple[Stamp, ...]]
"""Stamps by the folder that they are of."""


def stamps_of(paths: Mapping[str, Path]) -> Stamps:
    """The stamps of every folder, by role and path: another folder in the same role is another answer.

    Pictures of a request are left out: an engine reads a copy of them, under their sha256.
    """
    folders, _ = split(paths)
    return {f"{role}={path}": stamps(path) for role, path in sorted(folders.items())}


def stamps(folder: Path) -> tuple[Stamp, ...]:
    """Every file below ``folder``, sorted. As the checkpoint's reader lists them: links are followed, also to folders,
    and folders whose name begins with a dot are passed over. A link back to a folder above itself ends there.
    """
    found: list[Stamp] = []
    _walk(folder, frozenset(), found)
    return tuple(sorted(found))


def _walk(folder: Path, above: frozenset[tuple[int, int]], found: list[Stamp]) -> None:
    try:
        here = folder.stat()
        entries = list(os.scandir(folder))
    except OSError:
        return
    key = (here.st_dev, here.st_ino)
    if key in above:
        return
    for entry in entries:
        try:
            if entry.is_dir():
                if not entry.name.startswith("."):
                    _walk(Path(entry.path), above | {key}, found)
                continue
            state = Path(entry.path).stat()
        except OSError:  # a dangling link, or a file that went away: not there
            continue
        found.append(Stamp(entry.path, state.st_size, state.st_mtime_ns, state.st_ctime_ns, state.st_ino, state.st_dev))


def changed_files(before: Stamps, after: Stamps) -> tuple[str, ...]:
    """Paths of files that are not what they were, came, or went; folders where another folder is named."""
    if before.keys() != after.keys():
        return tuple(sorted(before.keys() ^ after.keys()))
    different = [set(before[name]) ^ set(after[name]) for name in before]
    return tuple(sorted({stamp.path for rows in different for stamp in rows}))


def require_unchanged(before: Stamps, after: Stamps, where: str) -> None:
    """Refuse evidence about files that changed while it was gathered.

    Raises:
        InfraError: kind ``disk``: files of the checkpoint are not what they were.
    """
    changed = changed_files(before, after)
    if changed:
        more = f" and {len(changed) - _SHOWN} more" if len(changed) > _SHOWN else ""
        raise InfraError(
            f"files of the checkpoint changed during the run: {', '.join(changed[:_SHOWN])}{more}",
            where=where,
            remedy="let whatever writes there finish, and run again",
            kind="disk",
        )
