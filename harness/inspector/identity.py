"""Compute digests of checkpoint files: from hub metadata for files on the hub, by hashing (cached) for local files.

Bytes and stamps decide, never a file name: the hub's cache names a large file by its sha256, and a torn download, a bad
disk or a program can leave other bytes under that name.

A file is hashed again only if its path, size, device, inode, time of last write (mtime) or time of last change (ctime)
differs. Programs cannot set ctime: a file copied over another with `cp -p` is detected.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shlex
import threading
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from harness.formats.errors import SourceError
from harness.inspector.index import Component
from harness.inspector.sources import LocalSource, Source
from harness.reading import read_json
from harness.records.base import write_text_atomic
from harness.records.inspection import FileDigest

CHUNK = 1 << 22
HASHERS = min(16, os.cpu_count() or 1)
"""Files that are hashed at once: each file occupies one core."""
_SHA256 = re.compile(r"^[0-9a-f]{64}$")


def cache_file() -> Path:
    """Return ``$QUANTGATE_CACHE/digests.json``, by default below ``~/.cache/quantgate``."""
    default = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "quantgate"
    return Path(os.environ.get("QUANTGATE_CACHE", default)) / "digests.json"


class HashMeter:
    """Count the bytes that this process has to hash and has hashed; safe between threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._hashed = self._total = 0

    def add(self, *, total: int = 0, hashed: int = 0) -> None:
        """Add bytes to hash (``total``) and bytes hashed (``hashed``)."""
        with self._lock:
            self._total += total
            self._hashed += hashed
            if self._hashed >= self._total:  # nothing is open: the next file begins a new count
                self._hashed = self._total = 0

    def state(self) -> tuple[int, int]:
        """Return bytes hashed and bytes to hash of the files in progress; ``(0, 0)`` if there are none."""
        with self._lock:
            return self._hashed, self._total


HASHING = HashMeter()
"""The meter of this process, read by progress displays."""


class DigestCache:
    """Cache of sha256 by path, size, times, device and inode. A damaged cache file counts as empty."""

    def __init__(self, file: Path | None = None) -> None:
        self.file = file or cache_file()
        self._lock = threading.Lock()
        self._dirty = False
        try:
            entries = read_json(self.file)
            self._digests: dict[str, str] = {str(key): str(value) for key, value in entries.items()}
        except (OSError, ValueError, AttributeError):
            self._digests = {}

    def digest(self, path: Path) -> tuple[str, bool]:
        """Return the sha256 of a file and whether it came from the cache.

        Raises:
            SourceError: the file changed while it was read, or lies in the hub's cache under the sha256 of other bytes.
            OSError: it cannot be read.
        """
        full = path.resolve()
        with full.open("rb") as file:
            stamp = _stamp(file.fileno())
            key = "|".join([str(full), *map(str, stamp)])
            with self._lock:
                remembered = self._digests.get(key)
            if remembered is not None:
                return _named_so(path, full, remembered), True
            digest, remaining = hashlib.sha256(), stamp[0]
            HASHING.add(total=remaining)
            try:
                while chunk := file.read(CHUNK):
                    digest.update(chunk)
                    HASHING.add(hashed=min(len(chunk), remaining))
                    remaining -= min(len(chunk), remaining)
            finally:
                HASHING.add(hashed=remaining)
            # bytes written during the read would give a digest of no version of the file
            if _stamp(file.fileno()) != stamp:
                raise SourceError(
                    "the file changed while it was read",
                    place=str(path),
                    remedy="let the program that writes it finish, and run again",
                    kind="disk",
                )
        with self._lock:
            self._digests[key] = digest.hexdigest()
            self._dirty = True
        return _named_so(path, full, digest.hexdigest()), False

    def remembered(self, path: Path) -> str | None:
        """Return the sha256 of a file if the cache has it for the present stamp; the file is not read."""
        try:
            full = path.resolve()
            with full.open("rb") as file:
                key = "|".join([str(full), *map(str, _stamp(file.fileno()))])
        except OSError:
            return None
        with self._lock:
            return self._digests.get(key)

    def save(self) -> None:
        """Write new digests. A cache that cannot be written is not an error."""
        with self._lock:
            if self._dirty:
                try:
                    write_text_atomic(self.file, json.dumps(self._digests, indent=0, sort_keys=True))
                    self._dirty = False
                except OSError:
                    return


def _stamp(handle: int) -> tuple[int, int, int, int, int]:
    """Return size, times, device and inode of an open file."""
    state = os.fstat(handle)
    return (state.st_size, state.st_mtime_ns, state.st_ctime_ns, state.st_dev, state.st_ino)


def _named_so(path: Path, full: Path, digest: str) -> str:
    """Return ``digest``. Raise if the file is a blob of the hub's cache whose name is another sha256.

    Raises:
        SourceError: name and digest differ. The cache is damaged, not the checkpoint: the hub has other bytes.
    """
    if path.is_symlink() and full.parent.name == "blobs" and _SHA256.match(full.name) and full.name != digest:
        raise SourceError(
            f"the hub's cache is damaged: this file was downloaded as sha256 {full.name[:16]}…, and its bytes are "
            f"{digest[:16]}…",
            place=str(path),
            remedy=f"delete it and fetch it again: rm {shlex.quote(str(full))}; hf download fetches the absent files",
            kind="disk",
        )
    return digest


def digest_files(source: Source, paths: Iterable[str], cache: DigestCache) -> list[FileDigest]:
    """Return the digest of each path: ``sha256``, but the git blob id for small hub files, which have no sha256.

    Local files are hashed several at a time, the largest first.
    """
    return _digested([(source, path) for path in sorted(set(paths)) if path in source.files], cache)


def _digested(files: Sequence[tuple[Source, str]], cache: DigestCache) -> list[FileDigest]:
    """Return the digest of each file. The largest start first, since a file occupies one core."""
    with ThreadPoolExecutor(HASHERS, thread_name_prefix="hash") as pool:
        largest_first = sorted(files, key=lambda file: -file[0].files[file[1]].size)
        results = {(source, path): pool.submit(_digest, source, path, cache) for source, path in largest_first}
        return [results[file].result() for file in files]


def _digest(source: Source, path: str, cache: DigestCache) -> FileDigest:
    info = source.files[path]
    if isinstance(source, LocalSource):
        value, remembered = cache.digest(source.folder / path)
        return FileDigest(path=path, size=info.size, sha256=value, origin="cache" if remembered else "computed")
    if info.sha256 is not None:
        return FileDigest(path=path, size=info.size, sha256=info.sha256, origin="hub")
    return FileDigest(path=path, size=info.size, sha256=f"git:{info.blob_id}", origin="etag")


def component_digests(
    components: Iterable[Component], cache: DigestCache | None = None, unread: int | None = None
) -> dict[str, str]:
    """Return ``expert/file`` to digest for shards, indexes and configurations of transformers.

    Args:
        components: the transformers.
        cache: cache of digests.
        unread: bytes that may be read for hashing. If the files without a cached digest are larger, they are left out;
            ``None``: every file is hashed.
    """
    digest_cache = cache or DigestCache()
    files = [(component, path) for component in components for path in sorted(_files(component))]
    if unread is not None:
        cached = [(component, path) for component, path in files if _is_known(component.source, path, digest_cache)]
        if _size(files) - _size(cached) > unread:
            files = cached
    # both experts in one pool: all cores stay busy
    digests = _digested([(component.source, path) for component, path in files], digest_cache)
    digest_cache.save()
    return {
        digest_name(component, path): digest.sha256
        for (component, path), digest in zip(files, digests, strict=True)
    }  # fmt: skip


def _files(component: Component) -> set[str]:
    present = component.source.files
    indexes = {path for path in present if path.startswith(component.prefix) and path.endswith(".index.json")}
    return indexes | ({*component.shards, *component.configs} & present.keys())


def _size(files: Iterable[tuple[Component, str]]) -> int:
    return sum(component.source.files[path].size for component, path in files)


def digest_name(component: Component, path: str) -> str:
    """Return the name of a file in the result of ``component_digests``: ``expert/file``."""
    return f"{component.expert}/{path.removeprefix(component.prefix)}"


def _is_known(source: Source, path: str, cache: DigestCache) -> bool:
    """Return whether the digest of a file needs no reading."""
    return not isinstance(source, LocalSource) or cache.remembered(source.folder / path) is not None
