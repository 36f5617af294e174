"""One golden: its manifest, and its parts, checked every time before they are used."""

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

# Bytes of goldens: hashing, copying while hashing, checking against a manifest.


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


# Are the frames of a golden what its manifest and its own header say? Answered by decoding every frame.


def check_frames(path: Path, shape: Shape | None, *, remedy: str = "") -> None:
    """Decode the clip at ``path``: every frame, its digest against the header, its shape against ``shape``.

    A part whose bytes have the right sha256 may still lie about its pixels, since its header was written with it.

    Args:
        path: the clip.
        shape: frames, height, width, channels that the manifest or the candidate states.
        remedy: what to do where it is wrong.

    Raises:
        GoldenError: it is no clip, its header has the digest of other pixels, or it has another shape.
    """
    try:
        clip = read_clip(path)
    except ClipError as error:
        raise frames_error(path, error, remedy) from error
    if clip.shape != shape:
        raise GoldenError(
            f"it holds frames of shape {list(clip.shape)}, and its manifest says {list(shape or ())}",
            where=str(path),
            remedy=remedy,
        )


def frames_error(path: Path, error: ClipError, remedy: str) -> GoldenError:
    """Say of a golden's clip at ``path`` what `harness.frames.clip.read_clip` says of the file."""
    return GoldenError(f"its frames cannot be used: {error.what}", where=str(path), remedy=remedy)


Fetch = Callable[[Part, bool], Path]
"""Where a part lies on this machine; the flag says that a cached copy must not be trusted."""


@dataclass(frozen=True)
class Golden:
    """A golden of a store.

    Attributes:
        manifest: what made it, and its parts.
        digest: sha256 (hex) of the canonical manifest.
        reason: why it is accepted; for one that is not accepted, why it was made.
        origin: the folder or the hub repository, for messages.
    """

    manifest: GoldenManifest
    digest: str
    reason: str
    origin: str
    fetch: Fetch = field(repr=False, compare=False)
    refetches: bool = field(default=False, repr=False, compare=False)
    """Whether asking again may give other bytes (a download), so that a damaged cache mends itself."""
    remedy: str = field(default="", repr=False, compare=False)

    def open_part(self, name: str) -> Path:
        """Path of part ``name``, whose size and sha256 were just checked.

        Raises:
            GoldenError: the golden has no such part, or it is missing, truncated or changed.
        """
        part = self.manifest.parts.get(name)
        if part is None:
            raise GoldenError(
                f"golden {self.digest[:16]} has no part {name!r}, only {sorted(self.manifest.parts)}", where=self.origin
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
            if path is None:  # without a network the damage is the news
                raise
        return check_part(name, part, path, remedy=self.remedy)

    def verify(self) -> tuple[GoldenError, ...]:
        """Check every part against the manifest, and decode the clip.

        Returns:
            The error of every part that is not what the manifest says; nothing for a sound golden.
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
    """The manifest at ``path``, once it is the one that ``digest`` (full, or its first 16 digits) names.

    Raises:
        GoldenError: the file is missing, is no manifest, belongs to another case, or its content was changed.
    """
    try:
        manifest = GoldenManifest.read(path)
    except OSError as error:
        raise GoldenError("the manifest is missing", where=str(path), remedy=remedy) from error
    except UnreadableError as error:
        raise GoldenError(f"this is not a golden's manifest: {error.what}", where=error.where, remedy=remedy) from error
    if not manifest.digest().startswith(digest):
        raise GoldenError(
            f"the manifest was changed: its digest is {manifest.digest()[:16]}…, not {digest[:16]}…",
            where=str(path),
            remedy=remedy,
        )
    if (manifest.runner, manifest.case) != (runner, case):
        raise GoldenError(
            f"this golden belongs to {manifest.runner}/{manifest.case}, not to {runner}/{case}",
            where=str(path),
            remedy=remedy,
        )
    return manifest


def read_index(path: Path, runner: str, case: str, *, remedy: str) -> AcceptedIndex:
    """The list of accepted goldens at ``path``; an empty one where there is no file.

    Raises:
        GoldenError: the file is damaged or belongs to another case.
    """
    if not path.exists():
        return AcceptedIndex(case=case, runner=runner)
    try:
        index = AcceptedIndex.read(path)
    except (OSError, UnreadableError) as error:
        raise GoldenError(
            f"the list of accepted goldens cannot be read: {reason(error)}", where=str(path), remedy=remedy
        ) from (error)
    if (index.runner, index.case) != (runner, case):
        raise GoldenError(
            f"this list belongs to {index.runner}/{index.case}, not to {runner}/{case}", where=str(path), remedy=remedy
        )
    return index


# Can a file be written? Asked before the first of several is, since half of them must never be.


NOTHING_CHANGED = "nothing was changed"


def require_writable(target: Path) -> None:
    """Make a nameless file where ``target`` will be, or in the nearest folder above it that is there.

    Raises:
        InfraError: it cannot be made.
    """
    folder = next(one for one in target.absolute().parents if one.exists())
    try:
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise disk_error(error, NOTHING_CHANGED, where=str(target)) from error
