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
from harness.inspector.sources import FileInfo, LocalSource, Source
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
        self._done = self._total = 0

    def add(self, *, total: int = 0, done: int = 0) -> None:
        """Add bytes to hash (``total``) and bytes hashed (``done``)."""
        with self._lock:
            self._total += total
            self._done += done
            if self._done >= self._total:  # nothing is open: the next file begins a new count
                self._done = self._total = 0

    def state(self) -> tuple[int, int]:
        """Return bytes hashed and bytes to hash of the files in progress; ``(0, 0)`` if there are none."""
        with self._lock:
            return self._done, self._total


HASHING = HashMeter()
"""The meter of this process, read by progress displays."""


class DigestCache:
    """Cache of sha256 by path, size, times, device and inode. A damaged cache file counts as empty."""

    def __init__(self, file: Path | None = None) -> None:
        self.file = file or cache_file()
        self._lock = threading.Lock()
        self._dirty = False
        try:
            known = json.loads(self.file.read_text(encoding="utf-8"))
            self._known: dict[str, str] = {str(key): str(value) for key, value in known.items()}
        except (OSError, ValueError, AttributeError):
            self._known = {}

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
                remembered = self._known.get(key)
            if remembered is not None:
                return _named_so(path, full, remembered), True
            digest, left = hashlib.sha256(), stamp[0]
            HASHING.add(total=left)
            try:
                while chunk := file.read(CHUNK):
                    digest.update(chunk)
                    HASHING.add(done=min(len(chunk), left))
                    left -= min(len(chunk), left)
            finally:
                HASHING.add(done=left)
            # bytes written during the read would give a digest of no version of the file
            if _stamp(file.fileno()) != stamp:
                raise SourceError(
                    "the file changed while it was read",
                    where=str(path),
                    remedy="let whatever writes it finish, and run again",
                    kind="disk",
                )
        with self._lock:
            self._known[key] = digest.hexdigest()
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
            return self._known.get(key)

    def save(self) -> None:
        """Write new digests. A cache that cannot be written is not an error."""
        with self._lock:
            if self._dirty:
                try:
                    write_text_atomic(self.file, json.dumps(self._known, indent=0, sort_keys=True))
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
            where=str(path),
            remedy=f"delete it and fetch it again: rm {shlex.quote(str(full))}; hf download fetches what is absent",
            kind="disk",
        )
    return digest


def digest_files(source: Source, paths: Iterable[str], cache: DigestCache) -> list[FileDigest]:
    """Return the digest of each path: ``sha256``, but the git blob id for small hub files, which have no sha256.

    Local files are hashed several at a time, the largest first.
    """
    present = [path for path in sorted(set(paths)) if path in source.files]
    if not isinstance(source, LocalSource):
        return [_of_the_hub(source.files[path]) for path in present]
    values = _hashed([(source, path) for path in present], cache)
    return [
        FileDigest(
            path=path, size=source.files[path].size, sha256=value, origin="cache" if remembered else "computed",
        )
        for path, (value, remembered) in zip(present, values, strict=True)
    ]  # fmt: skip


def _hashed(files: Sequence[tuple[LocalSource, str]], cache: DigestCache) -> list[tuple[str, bool]]:
    """Return the result of ``DigestCache.digest`` per file. The largest start first, since a file occupies one core."""
    order = sorted(range(len(files)), key=lambda index: -files[index][0].files[files[index][1]].size)
    with ThreadPoolExecutor(HASHERS, thread_name_prefix="hash") as pool:
        rows = {index: pool.submit(cache.digest, files[index][0].folder / files[index][1]) for index in order}
        return [rows[index].result() for index in range(len(files))]


def _of_the_hub(info: FileInfo) -> FileDigest:
    if info.sha256 is not None:
        return FileDigest(path=info.path, size=info.size, sha256=info.sha256, origin="hub")
    return FileDigest(path=info.path, size=info.size, sha256=f"git:{info.blob_id}", origin="etag")


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
    known = cache or DigestCache()
    rows: list[tuple[Component, list[str], str]] = []
    for component in components:
        prefix = f"{component.folder}/" if component.folder else ""
        indexes = [path for path in component.source.files if path.startswith(prefix) and path.endswith(".index.json")]
        rows.append((component, [*component.shards, *component.configs, *indexes], prefix))
    if unread is not None and sum(_unknown_bytes(row[0].source, row[1], known) for row in rows) > unread:
        rows = [(one, _remembered(one.source, paths, known), prefix) for one, paths, prefix in rows]
    _hashed(
        [
            (component.source, path)
            for component, paths, _ in rows
            if isinstance(component.source, LocalSource)
            for path in {*paths} & {*component.source.files}
        ],
        known,
    )  # both experts in one pool: all cores stay busy; the calls below then find every digest in the cache
    digests: dict[str, str] = {}
    for component, paths, prefix in rows:
        for item in digest_files(component.source, paths, known):
            digests[f"{component.expert}/{item.path.removeprefix(prefix)}"] = item.sha256
    known.save()
    return digests


def _unknown_bytes(source: Source, paths: Iterable[str], cache: DigestCache) -> int:
    if not isinstance(source, LocalSource):
        return 0
    absent = {*paths} & {*source.files} - {*_remembered(source, paths, cache)}
    return sum(source.files[path].size for path in absent)


def _remembered(source: Source, paths: Iterable[str], cache: DigestCache) -> list[str]:
    """Return the files whose digest needs no reading."""
    if not isinstance(source, LocalSource):
        return [*paths]
    return [path for path in paths if path in source.files and cache.remembered(source.folder / path) is not None]
