"""Read, write and delete files below a folder, never outside it: no absolute path, no ``..``, no symbolic link.

Between the check of a path and its use by name, somebody can replace it by a link. The functions here open every folder
on the way with ``O_NOFOLLOW``, relative to the descriptor of the folder above it, and then work relative to the last
descriptor. So the folder that was checked is the folder that is used.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import stat
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from harness.errors import GoldenError
from harness.left_files import left_entries, process_mark

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_LINK_CODES = (errno.ELOOP, errno.ENOTDIR, errno.EMLINK)
"""Errors of opening a link with ``O_NOFOLLOW``: ELOOP for a file, ENOTDIR with ``O_DIRECTORY``, EMLINK on BSD."""


def relative_parts(path: str | PurePosixPath, root: Path) -> tuple[str, ...]:
    """Split a relative path into its components.

    Args:
        path: relative to ``root``, with ``/``.
        root: shown in the error.

    Raises:
        GoldenError: ``path`` is empty, absolute, or has a component that leaves a folder.
    """
    text = str(path)
    parts = PurePosixPath(text).parts
    if not parts or text.startswith("/") or ".." in parts or "\0" in text:
        raise _outside(text, root)
    return parts


def require_inside(root: Path, path: Path) -> str:
    """Check that ``path`` lies below ``root`` and that nothing on the way is a symbolic link.

    Use it if the file is then opened by code that takes a path. A path that does not exist yet is accepted.

    Returns:
        ``path`` relative to ``root``, with ``/``.

    Raises:
        GoldenError: the path leaves ``root``.
    """
    # Not `resolve`, which would follow the links that are looked for. The root itself may be reached through a link.
    full = Path(os.path.abspath(path))  # noqa: PTH100
    tops = (Path(os.path.abspath(root)), root.resolve())  # noqa: PTH100
    top = next((top for top in tops if full.is_relative_to(top) and full != top), None)
    if top is None:
        raise _outside(str(path), root)
    place = top
    for part in full.relative_to(top).parts:
        place = place / part
        if place.is_symlink():
            raise _link(place, root)
    return full.relative_to(top).as_posix()


def read_inside(root: Path, path: str) -> bytes | None:
    """Return the bytes of the regular file ``root/path``; ``None`` if it does not exist.

    Raises:
        GoldenError: ``path`` leaves ``root``, or is no regular file.
        OSError: the file cannot be read.
    """
    *above, name = relative_parts(path, root)
    try:
        with _folder(root, above, make=False) as folder:
            # O_NONBLOCK: a FIFO in place of the file must not block the command for ever.
            handle = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=folder)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        if error.errno in _LINK_CODES:
            raise _link(root / path, root) from error
        raise
    with os.fdopen(handle, "rb") as file:
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            raise GoldenError("this is no regular file", place=str(root / path), remedy=f"remove it: rm -r {path}")
        return file.read()


def write_inside(root: Path, path: str, data: bytes) -> None:
    """Write ``data`` to ``root/path`` through a temporary file beside it and one rename; missing folders are created.

    Temporary files that killed commands left in that folder are removed.

    A link in place of the file itself is replaced, not followed.

    Raises:
        GoldenError: ``path`` leaves ``root``.
        OSError: it cannot be written; the file is unchanged.
    """
    *above, name = relative_parts(path, root)
    temporary = f".{name}.{process_mark()}-{secrets.token_hex(8)}.tmp"
    with _folder(root, above, make=True) as folder:
        _remove_left(folder)
        handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644, dir_fd=folder)
        try:
            with os.fdopen(handle, "wb") as out:
                out.write(data)
                out.flush()
                os.fsync(out.fileno())
            os.rename(temporary, name, src_dir_fd=folder, dst_dir_fd=folder)
        except BaseException:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(temporary, dir_fd=folder)
            raise
        # the rename itself survives a power cut only after a sync of the folder
        os.fsync(folder)


def remove_inside(root: Path, path: str) -> None:
    """Delete the file ``root/path``, or the link in its place; do nothing if neither exists.

    Raises:
        GoldenError: ``path`` leaves ``root``.
        OSError: it cannot be deleted.
    """
    *above, name = relative_parts(path, root)
    with contextlib.suppress(FileNotFoundError), _folder(root, above, make=False) as folder:
        os.unlink(name, dir_fd=folder)


def _remove_left(folder: int) -> None:
    """Remove the temporary files that killed commands left in an open folder."""
    with contextlib.suppress(OSError):
        for entry in left_entries(folder):
            with contextlib.suppress(OSError):
                os.unlink(entry.name, dir_fd=folder)


@contextlib.contextmanager
def _folder(root: Path, parts: list[str], *, make: bool) -> Iterator[int]:
    """Yield a descriptor of ``root/parts``, opened without following a link below ``root``."""
    handle = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        place = root
        for part in parts:
            place = place / part
            if make:
                with contextlib.suppress(FileExistsError):
                    os.mkdir(part, dir_fd=handle)
            try:
                deeper = os.open(part, _FOLDER, dir_fd=handle)
            except OSError as error:
                if error.errno in _LINK_CODES and stat.S_ISLNK(os.lstat(part, dir_fd=handle).st_mode):
                    raise _link(place, root) from error
                raise
            os.close(handle)
            handle = deeper
        yield handle
    finally:
        os.close(handle)


def _outside(path: str, root: Path) -> GoldenError:
    return GoldenError(
        f"{path!r} lies outside of this folder", place=str(root), remedy="name a path inside of the project"
    )


def _link(place: Path, root: Path) -> GoldenError:
    return GoldenError(
        f"{place.name} is a link, and what is written or read below {root} must lie in it",
        place=str(place),
        remedy=f"put the folder itself there (a bind mount for another disk): ls -l {place}",
    )
