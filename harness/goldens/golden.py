"""Read goldens: a manifest and its parts, which are checked every time before they are used."""

from __future__ import annotations

import hashlib
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from harness.errors import GoldenError, InfraError, disk_error
from harness.frames.clip import read_clip
from harness.frames.errors import ClipError
from harness.reading import UnreadableError, reason
from harness.records.frames import Shape
from harness.records.golden import CLIP, AcceptedIndex, GoldenManifest, Part
from harness.records.temporary import temporary_beside

# Bytes of goldens: hash, copy, compare with a manifest.


_CHUNK = 1 << 20
_FICLONE = 0x40049409
"""Request code of the ioctl that shares blocks, see ioctl_ficlone(2)."""


def sha256_file(path: Path) -> tuple[str, int]:
    """Return the sha256 (hex) and the size in bytes of a file, read once."""
    digest, size = hashlib.sha256(), 0
    with path.open("rb") as source:
        while block := source.read(_CHUNK):
            digest.update(block)
            size += len(block)
    return digest.hexdigest(), size


def describe(path: Path, media: str, name: str | None = None) -> Part:
    """Return the :class:`Part` of a file on disk; ``name`` is its file name in the golden (default: its own)."""
    sha256, size = sha256_file(path)
    return Part(path=name or path.name, sha256=sha256, bytes=size, media=media)


def check_part(name: str, part: Part, path: Path, *, remedy: str) -> Path:
    """Return ``path`` if its size and sha256 are those of ``part``.

    Raises:
        GoldenError: the part is missing, truncated, too long, or has other bytes. The message names the part.
    """
    if not path.is_file():
        raise GoldenError(f"part {name!r} is missing", place=str(path), remedy=remedy)
    # The size is compared first: it needs no read, and distinguishes truncation from a change.
    size = path.stat().st_size
    if size != part.bytes:
        how = "truncated" if size < part.bytes else "too long"
        raise GoldenError(f"part {name!r} is {how}: {size} of {part.bytes} bytes", place=str(path), remedy=remedy)
    digest, _ = sha256_file(path)
    if digest != part.sha256:
        raise GoldenError(
            f"part {name!r} was changed: sha256 {digest[:16]}…, the manifest says {part.sha256[:16]}…",
            place=str(path),
            remedy=remedy,
        )
    return path


def copy_parts(parts: Mapping[str, Part], files: Mapping[str, Path], folder: Path) -> None:
    """Copy every part into ``folder``, flush it, and check the bytes that were written.

    Raises:
        GoldenError: ``files`` and ``parts`` have other names, or a file differs from its part.
    """
    if files.keys() != parts.keys():
        odd = sorted(files.keys() ^ parts.keys())
        raise GoldenError(f"the manifest names parts {sorted(parts)}, the files are {sorted(files)}: see {odd}")
    folder.mkdir(parents=True, exist_ok=True)
    for name, part in parts.items():
        source = files[name]
        if not source.is_file():
            raise GoldenError(f"part {name!r} is missing", place=str(source), remedy="run the case again")
        target = folder / part.path
        if target.exists() and source.samefile(target):  # the file is in its place; copying would empty it
            check_part(name, part, target, remedy="run the case again")
            continue
        with source.open("rb") as reader, target.open("wb") as writer:
            shutil.copyfileobj(reader, writer, _CHUNK)
            writer.flush()
            os.fsync(writer.fileno())
        check_part(name, part, target, remedy=f"{source} is not the file that the manifest was made for")


def copy_private(source: Path, target: Path) -> Path:
    """Write the bytes of ``source`` to ``target`` as an independent file, replacing an older one; return ``target``.

    The blocks are shared (``FICLONE``) if the file system supports it, otherwise copied. Never a hard link: a program
    that writes to its copy would change the committed file too.

    Raises:
        OSError: ``source`` cannot be read, or ``target`` cannot be written.
    """
    part = temporary_beside(target)
    try:
        with part.open("wb") as writer, source.open("rb") as reader:
            if not _share_blocks(reader.fileno(), writer.fileno()):
                shutil.copyfileobj(reader, writer, _CHUNK)
        # a temporary file is private to this user; a committed file is readable by all.
        part.chmod(0o644)
        part.replace(target)
    except BaseException:
        part.unlink(missing_ok=True)
        raise
    return target


def _share_blocks(source: int, target: int) -> bool:
    """Clone a file (btrfs, XFS, bcachefs, overlay on them); return false if the kernel or file system cannot."""
    if sys.platform != "linux":
        return False
    import fcntl

    try:
        fcntl.ioctl(target, _FICLONE, source)
    except OSError:
        return False
    return True


def sync_folder(folder: Path) -> None:
    """Make renames inside ``folder`` durable, if the platform can."""
    if os.name != "posix":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


# Compare the frames of a golden with its manifest and with its own header, by decoding every frame.


def check_frames(path: Path, shape: Shape | None, *, remedy: str = "") -> None:
    """Decode every frame of the clip at ``path``; compare their digest with the header, their shape with ``shape``.

    A part with the right sha256 may still state wrong pixels, since its header was written with it.

    Args:
        path: the clip.
        shape: frames, height, width, channels from the manifest or the candidate.
        remedy: next step for the error.

    Raises:
        GoldenError: the file is no clip, its header has the digest of other pixels, or the shape differs.
    """
    try:
        clip = read_clip(path)
    except ClipError as error:
        raise frames_error(path, error, remedy) from error
    if clip.shape != shape:
        raise GoldenError(
            f"it holds frames of shape {list(clip.shape)}, and its manifest says {list(shape or ())}",
            place=str(path),
            remedy=remedy,
        )


def frames_error(path: Path, error: ClipError, remedy: str) -> GoldenError:
    """Return the error for a golden's clip at ``path`` that `harness.frames.clip.read_clip` refused."""
    return GoldenError(f"its frames cannot be used: {error.message}", place=str(path), remedy=remedy)


Fetch = Callable[[Part, bool], Path]
"""Returns the local path of a part; the flag is true if a cached copy must not be trusted."""


@dataclass(frozen=True)
class Golden:
    """A golden of a store.

    Attributes:
        manifest: origin of the golden, and its parts.
        digest: sha256 (hex) of the canonical manifest.
        reason: why it is accepted; if it is not accepted, why it was made.
        origin: the folder or the hub repository, for messages.
    """

    manifest: GoldenManifest
    digest: str
    reason: str
    origin: str
    fetch: Fetch = field(repr=False, compare=False)
    refetches: bool = field(default=False, repr=False, compare=False)
    """Whether a second fetch may return other bytes (a download), so that a damaged cache is repaired."""
    remedy: str = field(default="", repr=False, compare=False)

    def open_part(self, name: str) -> Path:
        """Return the path of part ``name`` after checking its size and sha256.

        Raises:
            GoldenError: the golden has no such part, or it is missing, truncated or changed.
        """
        part = self.manifest.parts.get(name)
        if part is None:
            raise GoldenError(
                f"golden {self.digest[:16]} has no part {name!r}, only {sorted(self.manifest.parts)}", place=self.origin
            )
        try:
            return check_part(name, part, self.fetch(part, False), remedy=self.remedy)
        except GoldenError:
            if not self.refetches:
                raise
            try:
                path = self.fetch(part, True)
            except InfraError:
                path = None
            if path is None:  # without a network, report the damage and not the failed download
                raise
        return check_part(name, part, path, remedy=self.remedy)

    def verify(self) -> tuple[GoldenError, ...]:
        """Check every part against the manifest, and decode the clip.

        Returns:
            The error of every part that differs from the manifest; nothing for a sound golden.
        """
        faults: list[GoldenError] = []
        for name in sorted(self.manifest.parts):
            try:
                path = self.open_part(name)
            except GoldenError as error:
                faults.append(error)
                continue
            if name == CLIP:
                try:
                    check_frames(path, self.manifest.shape, remedy=self.remedy)
                except GoldenError as error:
                    faults.append(error)
        return tuple(faults)


def read_manifest(path: Path, runner: str, case: str, digest: str, *, remedy: str) -> GoldenManifest:
    """Return the manifest at ``path`` if ``digest`` (full, or its first 16 digits) names it.

    Raises:
        GoldenError: the file is missing, is no manifest, belongs to another case, or its content was changed.
    """
    try:
        manifest = GoldenManifest.read(path)
    except OSError as error:
        raise GoldenError("the manifest is missing", place=str(path), remedy=remedy) from error
    except UnreadableError as error:
        raise GoldenError(
            f"this is not a golden's manifest: {error.message}", place=error.place, remedy=remedy
        ) from error
    if not manifest.digest().startswith(digest):
        raise GoldenError(
            f"the manifest was changed: its digest is {manifest.digest()[:16]}…, not {digest[:16]}…",
            place=str(path),
            remedy=remedy,
        )
    if (manifest.runner, manifest.case) != (runner, case):
        raise GoldenError(
            f"this golden belongs to {manifest.runner}/{manifest.case}, not to {runner}/{case}",
            place=str(path),
            remedy=remedy,
        )
    return manifest


def read_index(path: Path, runner: str, case: str, *, remedy: str) -> AcceptedIndex:
    """Return the list of accepted goldens at ``path``; an empty list if there is no file.

    Raises:
        GoldenError: the file is damaged or belongs to another case.
    """
    if not path.exists():
        return AcceptedIndex(case=case, runner=runner)
    try:
        index = AcceptedIndex.read(path)
    except (OSError, UnreadableError) as error:
        raise GoldenError(
            f"the list of accepted goldens cannot be read: {reason(error)}", place=str(path), remedy=remedy
        ) from (error)
    if (index.runner, index.case) != (runner, case):
        raise GoldenError(
            f"this list belongs to {index.runner}/{index.case}, not to {runner}/{case}", place=str(path), remedy=remedy
        )
    return index


# Check that every target is writable before writing the first, so that an update never stops half-way.


NOTHING_CHANGED = "nothing was changed"


def require_writable(target: Path) -> None:
    """Check that ``target`` can be written: create a nameless file in the nearest existing folder above it.

    Raises:
        InfraError: the file cannot be created.
    """
    folder = next(parent for parent in target.absolute().parents if parent.exists())
    try:
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise disk_error(error, NOTHING_CHANGED, place=str(target)) from error
