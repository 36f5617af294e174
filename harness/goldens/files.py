"""Bytes of goldens: hashing, copying while hashing, checking against a manifest."""

from __future__ import annotations

import hashlib
import os
import shutil
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

from harness.errors import GoldenError
from harness.records.golden import Part

_CHUNK = 1 << 20
_FICLONE = 0x40049409
"""ioctl_ficlone(2)."""


def sha256_file(path: Path) -> tuple[str, int]:
    """sha256 (hex) and size in bytes of a file, read once."""
    digest, size = hashlib.sha256(), 0
    with path.open("rb") as source:
        while block := source.read(_CHUNK):
            digest.update(block)
            size += len(block)
    return digest.hexdigest(), size


def describe(path: Path, media: str, name: str | None = None) -> Part:
    """The :class:`Part` for a file as it lies on disk; ``name`` is the file name in the golden (default: its own)."""
    sha256, size = sha256_file(path)
    return Part(path=name or path.name, sha256=sha256, bytes=size, media=media)


def check_part(name: str, part: Part, path: Path, *, remedy: str) -> Path:
    """``path``, once its size and sha256 are what ``part`` says.

    Raises:
        GoldenError: the part is missing, truncated, too long, or has other bytes. The message names the part.
    """
    if not path.is_file():
        raise GoldenError(f"part {name!r} is missing", where=str(path), remedy=remedy)
    size = path.stat().st_size
    if size != part.bytes:
        how = "truncated" if size < part.bytes else "too long"
        raise GoldenError(f"part {name!r} is {how}: {size} of {part.bytes} bytes", where=str(path), remedy=remedy)
    found, _ = sha256_file(path)
    if found != part.sha256:
        raise GoldenError(
            f"part {name!r} was changed: sha256 {found[:16]}…, the manifest says {part.sha256[:16]}…",
            where=str(path),
            remedy=remedy,
        )
    return path


def copy_parts(parts: Mapping[str, Part], files: Mapping[str, Path], folder: Path) -> None:
    """Copy every part into ``folder`` and flush it, checking what was written, not what was meant.

    Raises:
        GoldenError: ``files`` and ``parts`` have other names, or a file is not what its part says.
    """
    if files.keys() != parts.keys():
        odd = sorted(files.keys() ^ parts.keys())
        raise GoldenError(f"the manifest names parts {sorted(parts)}, the files are {sorted(files)}: see {odd}")
    folder.mkdir(parents=True, exist_ok=True)
    for name, part in parts.items():
        source = files[name]
        if not source.is_file():
            raise GoldenError(f"part {name!r} is missing", where=str(source), remedy="run the case again")
        target = folder / part.path
        if target.exists() and source.samefile(target):  # it lies in its place already; copying would empty it
            check_part(name, part, target, remedy="run the case again")
            continue
        with source.open("rb") as reader, target.open("wb") as writer:
            shutil.copyfileobj(reader, writer, _CHUNK)
            writer.flush()
            os.fsync(writer.fileno())
        check_part(name, part, target, remedy=f"{source} is not the file that the manifest was made for")


def copy_private(source: Path, target: Path) -> Path:
    """Give ``target`` the bytes of ``source`` as a file of its own, in place of an older one; returns ``target``.

    The blocks are shared (``FICLONE``) where the file system can, and copied elsewhere. Never a hard link: a program
    that writes to its own copy would write to the committed file too.

    Raises:
        OSError: ``source`` cannot be read, or ``target`` cannot be written.
    """
    handle, name = tempfile.mkstemp(prefix=f".{target.name}.", dir=target.parent)
    part = Path(name)
    try:
        with os.fdopen(handle, "wb") as writer, source.open("rb") as reader:
            if not _share_blocks(reader.fileno(), writer.fileno()):
                shutil.copyfileobj(reader, writer, _CHUNK)
        part.chmod(0o644)
        part.replace(target)
    except BaseException:
        part.unlink(missing_ok=True)
        raise
    return target


def _share_blocks(source: int, target: int) -> bool:
    """Clone a file (btrfs, XFS, bcachefs, overlay on them); false where the kernel or the file system cannot."""
    if sys.platform != "linux":
        return False
    import fcntl

    try:
        fcntl.ioctl(target, _FICLONE, source)
    except OSError:
        return False
    return True


def sync_folder(folder: Path) -> None:
    """Make renames inside ``folder`` durable, where the platform can."""
    if os.name != "posix":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
