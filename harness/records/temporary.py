"""Temporary files beside their target. The next command removes files that a killed command left."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from harness.left_files import left_behind, left_entries, process_mark


def temporary_beside(target: Path) -> Path:
    """Create an empty temporary file in the folder of ``target``, to be renamed to it.

    Its name holds the machine and the process that made it. Such files of ended processes of this machine are removed
    from the folder on the way, whichever file they were to become: the killed command may have written for another
    case. Files of another machine, in a shared folder, are left to that machine.

    Raises:
        OSError: the folder cannot be written to.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    remove_leftovers(target.parent)
    prefix = f".{target.name}.{process_mark()}-"
    handle, name = tempfile.mkstemp(prefix=prefix, suffix=".tmp", dir=target.parent)
    os.close(handle)
    return Path(name)


def remove_leftovers(folder: Path) -> None:
    """Remove the temporary files in ``folder`` whose process on this machine has ended."""
    with suppress(OSError):
        for entry in left_entries(folder):
            with suppress(OSError):
                Path(entry.path).unlink()


@contextmanager
def scratch_folder(name: str) -> Iterator[Path]:
    """Context manager: a folder in the system's folder for temporary files, removed at the end.

    A killed command cannot remove its own, which may hold copies of a checkpoint: the next one removes it.

    Args:
        name: beginning of the folder's name, such as ``quantgate-base-``.

    Raises:
        OSError: the folder cannot be made.
    """
    folder = temporary_folder(Path(tempfile.gettempdir()), name)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


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
    with suppress(OSError), os.scandir(parent) as entries:
        for entry in entries:
            # a link of this name is left alone; in a shared /tmp, folders of other users refuse to be removed
            if left_behind(entry.name, name) and entry.is_dir(follow_symlinks=False):
                shutil.rmtree(entry.path, ignore_errors=True)
    return Path(tempfile.mkdtemp(prefix=f"{name}{process_mark()}-", suffix=".tmp", dir=parent))
