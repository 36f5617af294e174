"""Stamps of the files in a folder: enough to notice a replaced, written or renamed file without reading it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from harness.engine.pictures import split
from harness.errors import InfraError

_SHOWN = 3


class Stamp(NamedTuple):
    """One file. The kernel sets the change time (ctime), so that it cannot be set back like the modification time."""

    path: str
    size: int
    mtime_ns: int
    ctime_ns: int
    inode: int
    device: int


Stamps = dict[str, tuple[Stamp, ...]]
"""Stamps by role and folder."""


def stamps_of(paths: Mapping[str, Path]) -> Stamps:
    """Return the stamps of every folder, by role and path, so that another folder in the same role counts as a change.

    Pictures are left out: an engine reads a copy of them, under their sha256.
    """
    folders, _ = split(paths)
    return {f"{role}={path}": stamps(path) for role, path in sorted(folders.items())}


def stamps(folder: Path) -> tuple[Stamp, ...]:
    """Return the stamps of every file below ``folder``, sorted. Lists files as the checkpoint's reader does: links are
    followed, also to folders, and folders whose name begins with a dot are skipped. A link to a folder above itself is
    not followed.
    """
    entries: list[Stamp] = []
    _walk(folder, frozenset(), entries)
    return tuple(sorted(entries))


def _walk(folder: Path, above: frozenset[tuple[int, int]], stamps_so_far: list[Stamp]) -> None:
    try:
        folder_stat = folder.stat()
        entries = list(os.scandir(folder))
    except OSError:
        return
    key = (folder_stat.st_dev, folder_stat.st_ino)
    if key in above:
        return
    for entry in entries:
        try:
            if entry.is_dir():
                if not entry.name.startswith("."):
                    _walk(Path(entry.path), above | {key}, stamps_so_far)
                continue
            state = Path(entry.path).stat()
        except OSError:  # a dangling link, or a file that was just deleted, counts as absent
            continue
        stamps_so_far.append(
            Stamp(entry.path, state.st_size, state.st_mtime_ns, state.st_ctime_ns, state.st_ino, state.st_dev)
        )


def changed_files(before: Stamps, after: Stamps) -> tuple[str, ...]:
    """Return the paths of changed, added and removed files; of folders if the roles name different folders."""
    if before.keys() != after.keys():
        return tuple(sorted(before.keys() ^ after.keys()))
    different = [set(before[name]) ^ set(after[name]) for name in before]
    return tuple(sorted({stamp.path for rows in different for stamp in rows}))


def require_unchanged(before: Stamps, after: Stamps, place: str) -> None:
    """Refuse evidence about files that changed while it was collected.

    Raises:
        InfraError: kind ``disk``: files of the checkpoint changed.
    """
    changed = changed_files(before, after)
    if changed:
        more = f" and {len(changed) - _SHOWN} more" if len(changed) > _SHOWN else ""
        raise InfraError(
            f"files of the checkpoint changed during the run: {', '.join(changed[:_SHOWN])}{more}",
            place=place,
            remedy="let the program that writes there finish, and run again",
            kind="disk",
        )
