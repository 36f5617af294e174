"""Digests of checkpoint files: from hub metadata for files on the hub, hashed and remembered for files on this disk.

Bytes and stamps decide, never a name: the cache of the hub names a large file by its sha256, and a torn download, a bad
disk or a program can leave other bytes under that name.

A file that was hashed is not hashed again while its path, size, inode, and the times of its last write and of its last
change stay the same. The second cannot be set: a file copied over another with `cp -p` is seen.
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
"""Files that are hashed at once: one file is hashed by one core."""
_SHA256 = re.compile(r"^[0-9a-f]{64}$")


def cache_file() -> Path:
    """``$QUANTGATE_CACHE/digests.json``, by default below ``~/.cache/quantgate``."""
    default = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "quantgate"
    return Path(os.environ.get("QUANTGATE_CACHE", default)) / "digests.json"


class HashMeter:
    """How many bytes are to be hashed in this process, and how many are; safe between threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._done = self._total = 0

    def add(self, *, total: int = 0, done: int = 0) -> None:
        """Count bytes that are to be read, or were."""
        with self._lock:
            self._total += total
            self._done += done
            if self._done >= self._total:  # nothing is open: the next file begins a new count
                self._done = self._total = 0

    def state(self) -> tuple[int, int]:
        """Bytes that were hashed and bytes that are to be, of what is open now; ``(0, 0)`` where nothing is."""
        with self._lock:
            return self._done, self._total


HASHING = HashMeter()
"""Of this process, for whoever shows progress."""


class DigestCache:
    """Remembers sha256 by path, size, times, device and inode. A damaged cache file is an empty one."""

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
        """sha256 of a file, and whether it was remembered.

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
        """sha256 of a file as it lies there, if it is known without reading the file."""
        try:
            full = path.resolve()
            with full.open("rb") as file:
                key = "|".join([str(full), *map(str, _stamp(file.fileno()))])
        except OSError:
            return None
        with self._lock:
            return self._known.get(key)

    def save(self) -> None:
        """Write what was learned; a cache that cannot be written is not an error."""
        with self._lock:
            if self._dirty:
                try:
                    write_text_atomic(self.file, json.dumps(self._known, indent=0, sort_keys=True))
                    self._dirty = False
                except OSError:
                    return


def _stamp(handle: int) -> tuple[int, int, int, int, int]:
    """Size, times, device and inode of an open file."""
    state = os.fstat(handle)
    return (state.st_size, state.st_mtime_ns, state.st_ctime_ns, state.st_dev, state.st_ino)


def _named_so(path: Path, full: Path, digest: str) -> str:
    """``digest``, unless the file is a blob of the hub's cache whose name says another one.

    Raises:
        SourceError: it does. That is the cache's fault, not the checkpoint's: the hub has other bytes.
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
    """Digest of each path: ``sha256`` everywhere but for small hub files, where the git blob id identifies it.

    Files of this machine are hashed several at a time, the largest first.
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
    """What ``DigestCache.digest`` says of each file; the largest are begun first, since one file is one core's work."""
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
    """``expert/file`` to digest for shards, indexes and configurations of transformers.

    Args:
        components: the transformers.
        cache: where digests are remembered.
        unread: bytes that may be read to hash them. Where more is not remembered yet, files that are not are left out;
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
    )  # of both experts at once
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
    """The files whose digest needs no reading."""
    if not isinstance(source, LocalSource):
        return [*paths]
    return [path for path in paths if path in source.files and cache.remembered(source.folder / path) is not None]
