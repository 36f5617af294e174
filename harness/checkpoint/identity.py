"""Digests of checkpoint files: from hub metadata, from the hub cache's blob names, or hashed once and remembered.

A file that was hashed is not hashed again while its path, size, inode, and the times of its last write and of its last
change stay the same. The second cannot be set: a file copied over another with `cp -p` is seen.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import threading
from collections.abc import Iterable
from pathlib import Path

from harness.checkpoint.index import Component
from harness.checkpoint.local import LocalSource
from harness.checkpoint.sources import Source
from harness.records.base import write_text_atomic
from harness.records.inspection import FileDigest

CHUNK = 1 << 20
_SHA256 = re.compile(r"^[0-9a-f]{64}$")


def cache_file() -> Path:
    """``$QUANTGATE_CACHE/digests.json``, by default below ``~/.cache/quantgate``."""
    default = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "quantgate"
    return Path(os.environ.get("QUANTGATE_CACHE", default)) / "digests.json"


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
        """sha256 of a file, and whether it was remembered. Raises ``OSError``."""
        state = path.stat()
        stamp = (state.st_size, state.st_mtime_ns, state.st_ctime_ns, state.st_dev, state.st_ino)
        key = "|".join([str(path.resolve()), *map(str, stamp)])
        with self._lock:
            known = self._known.get(key)
        if known is not None:
            return known, True
        digest = hashlib.sha256()
        with path.open("rb") as file:
            while chunk := file.read(CHUNK):
                digest.update(chunk)
        with self._lock:
            self._known[key] = digest.hexdigest()
            self._dirty = True
        return digest.hexdigest(), False

    def save(self) -> None:
        """Write what was learned; a cache that cannot be written is not an error."""
        with self._lock:
            if self._dirty:
                try:
                    write_text_atomic(self.file, json.dumps(self._known, indent=0, sort_keys=True))
                    self._dirty = False
                except OSError:
                    return


def digest_files(source: Source, paths: Iterable[str], cache: DigestCache) -> list[FileDigest]:
    """Digest of each path: ``sha256`` everywhere but for small hub files, where the git blob id identifies it."""
    found: list[FileDigest] = []
    for path in sorted(set(paths)):
        info = source.files.get(path)
        if info is None:
            continue
        if isinstance(source, LocalSource):
            full = source.folder / path
            blob = full.resolve().name
            if full.is_symlink() and _SHA256.match(blob):  # the hub cache names large blobs by their sha256
                found.append(FileDigest(path=path, size=info.size, sha256=blob, origin="hub"))
                continue
            value, remembered = cache.digest(full)
            found.append(
                FileDigest(path=path, size=info.size, sha256=value, origin="cache" if remembered else "computed")
            )
        elif info.sha256 is not None:
            found.append(FileDigest(path=path, size=info.size, sha256=info.sha256, origin="hub"))
        else:
            found.append(FileDigest(path=path, size=info.size, sha256=f"git:{info.blob_id}", origin="etag"))
    return found


def component_digests(components: Iterable[Component], cache: DigestCache | None = None) -> dict[str, str]:
    """``expert/file`` to digest for shards, indexes and configurations of transformers."""
    known = cache or DigestCache()
    digests: dict[str, str] = {}
    for component in components:
        prefix = f"{component.folder}/" if component.folder else ""
        indexes = [path for path in component.source.files if path.startswith(prefix) and path.endswith(".index.json")]
        paths = [*component.shards, *component.configs, *indexes]
        for item in digest_files(component.source, paths, known):
            digests[f"{component.expert}/{item.path.removeprefix(prefix)}"] = item.sha256
    known.save()
    return digests
