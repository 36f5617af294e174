"""Cache inspection reports, so that a checkpoint is not read again while its files are unchanged on disk.

An inspection depends on the bytes of the checkpoint and of its base, on its arguments, and on the rules. Its report is
kept in the cache folder under the content of the checkpoint's files (sha256) and the stamps of its base, and found
again by the stamps of both: size, times, inode and device of every file (see ``harness.inspector.identity``). A second
case, another worker and the next run read the report; a file that was written anew with the same bytes is hashed and
then needs no proof.

Only reports of local checkpoints are kept, and none of a source that failed. A damaged entry counts as absent.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache as remember
from importlib.metadata import entry_points
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Unpack

from filelock import FileLock, Timeout

import harness
from harness.definitions.case import CheckpointRef
from harness.definitions.causes import CHECKS_GROUP
from harness.formats.errors import SourceError
from harness.formats.registry import GROUP as FORMATS_GROUP
from harness.inspector.assemble import Ref
from harness.inspector.contracts import load_contract
from harness.inspector.identity import HASHERS, DigestCache, cache_file
from harness.inspector.inspect import Asked, inspect_checkpoint
from harness.reading import UnreadableError, read_text
from harness.records.base import write_text_atomic
from harness.records.inspection import InspectionReport

RULE_FOLDERS = ("inspector", "formats", "runtimes", "records", "definitions")
"""Rooms whose source decides what an inspection finds."""
PLUGIN_GROUPS = (FORMATS_GROUP, CHECKS_GROUP)
"""Entry point groups of third-party formats and checks: their modules decide findings as well."""
_POINTER_BYTES = 4096
_POINTED = re.compile(r"(content|stamps)-[0-9a-f]{1,128}\.json")
WAIT_SECONDS = 600.0
"""Longest wait for another process that inspects the same checkpoint; after that this process inspects it too."""


@dataclass(frozen=True)
class Key:
    """Key of a cached report (a proof).

    Attributes:
        question: digest of all inputs but the bytes: folders, arguments, and the rules.
        stamps: digest of the stamps of every file.
        files: every file of the checkpoint itself.
        base: digest of the stamps of the base's files.
    """

    question: str
    stamps: str
    files: tuple[Path, ...]
    base: str

    @property
    def folder(self) -> Path:
        """Return the folder of all proofs of this question."""
        return cache_file().parent / "proofs" / self.question

    @property
    def pointer(self) -> Path:
        """Return the file that names the proof for files with these stamps."""
        return self.folder / f"at-{self.stamps}"

    def content(self, digests: DigestCache) -> str | None:
        """Return the proof's name by content; ``None`` if the digest of a file is not cached."""
        rows = [(str(path), digests.remembered(path)) for path in self.files]
        if any(value is None for _, value in rows):
            return None
        return _sha256(json.dumps([rows, self.base]))


def inspect_once(
    ref: Ref, *, unread: int | None = None, cache: DigestCache | None = None, **arguments: Unpack[Asked]
) -> InspectionReport:
    """Return the cached report of the same bytes (with 0 bytes read and 0 requests), or run ``inspect_checkpoint``.

    Args:
        ref, unread, cache, arguments: as for ``inspect_checkpoint``.

    Raises:
        QuantgateError: as ``inspect_checkpoint``.
    """
    started = time.perf_counter()
    key = key_of(ref, arguments, hashed=unread is None)
    if key is None:
        return inspect_checkpoint(ref, unread=unread, cache=cache, **arguments)
    known_report = _by_stamps(key)
    if known_report is None:
        with _alone(key):
            digests = cache or DigestCache()
            known_report = _by_stamps(key) or _by_content(key, digests)
            if known_report is None:
                report = inspect_checkpoint(ref, unread=unread, cache=digests, **arguments)
                # `_keep` names the proof by content only if every digest is cached; the check below covers this too
                if unread is None:
                    _hash(key, digests)
                if key_of(ref, arguments, hashed=unread is None) == key:  # nothing was written meanwhile
                    _keep(key, report, digests)
                return report
    return known_report.model_copy(update={"bytes_read": 0, "requests": 0, "seconds": time.perf_counter() - started})


def key_of(ref: Ref, arguments: Asked, *, hashed: bool = True) -> Key | None:
    """Return the key of one inspection; ``None`` if a checkpoint of it is not on this machine.

    Args:
        ref, arguments: as for ``inspect_checkpoint``.
        hashed: whether the report must contain a digest of every file.

    Raises:
        ContractError: no such contract.
    """
    root = arguments.get("root")
    roles: dict[str, Ref | None] = {
        "model": ref,
        "transformer": arguments.get("transformer"),
        "transformer_2": arguments.get("transformer_2"),
        "base": arguments.get("base"),
    }
    places = {role: _place(reference, root) for role, reference in roles.items() if reference is not None}
    if None in places.values():
        return None
    stamps = {role: _stamps(place) for role, place in places.items() if place is not None}
    loader = arguments.get("loader")
    rest: dict[str, Any] = {
        "places": {role: [str(roles[role]), str(place)] for role, place in places.items()},
        "root": str(root),
        "contracts": [
            repr(load_contract(item, root) if isinstance(item, str) else item)
            for item in arguments.get("contracts", ())
        ],
        "loader": loader.model_dump(mode="json") if loader is not None else None,
        "env": dict(arguments.get("env") or {}),
        "expected": dict(arguments.get("expected") or {}),
        "full": arguments.get("full", False),
        "hashed": hashed,
        "rules": rules_digest(),
    }
    # the base counts by its stamps only, so its files need no digest
    folders = tuple(Path(row[0]) for role, rows in stamps.items() if role != "base" for row in rows)
    return Key(
        _sha256(json.dumps(rest, sort_keys=True)),
        _sha256(json.dumps(stamps, sort_keys=True)),
        folders,
        _sha256(json.dumps(stamps.get("base", []))),
    )


@remember
def rules_digest() -> str:
    """Return a sha256 over the sources and tables that decide findings, so that new rules make old proofs invalid."""
    package = Path(harness.__file__).resolve().parent
    digest = hashlib.sha256()
    for room in RULE_FOLDERS:
        for path in sorted((package / room).rglob("*")):
            if path.suffix in (".py", ".yaml", ".json") and path.is_file():
                digest.update(f"{path.relative_to(package)}\0".encode() + path.read_bytes())
    for group in PLUGIN_GROUPS:  # rules of other distributions: another version, or another text while one is written
        for point in sorted(entry_points(group=group), key=lambda point: point.name):
            spec = find_spec(point.module)
            text = Path(spec.origin).read_bytes() if spec is not None and spec.origin else b""
            digest.update(f"{group}\0{point.name}\0{point.value}\0".encode() + text)
    return digest.hexdigest()


def _place(ref: Ref, root: Path | None) -> Path | None:
    """Return the folder or file of a reference, as ``harness.inspector.sources.open_source`` finds it.

    ``None`` if it is not on this machine or is pinned to a revision.
    """
    if isinstance(ref, CheckpointRef):
        text, pinned = ref.path, ref.revision
    else:
        text, _, pinned = str(ref).partition("@")
    try:
        place = ((root or Path.cwd()) / Path(text).expanduser()).resolve()
    except RuntimeError:  # `~name` of a user that this machine does not have, or a loop of links
        return None
    return place if not pinned and place.exists() else None


def _stamps(place: Path) -> list[tuple[str, int, int, int, int, int]]:
    """Return path, size, times, inode and device of every file, as a local source lists them; links are followed.

    If ``place`` is a file, its folder is listed: the file may be a shard, and its configuration is beside it.
    """
    rows = []
    visited: set[tuple[int, int]] = set()
    for parent, folders, names in os.walk(place if place.is_dir() else place.parent, followlinks=True):
        state = Path(parent).stat()
        if (state.st_dev, state.st_ino) in visited:  # a link back
            folders.clear()
            continue
        visited.add((state.st_dev, state.st_ino))
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names):
            path = f"{parent}/{name}"
            with contextlib.suppress(OSError):
                state = Path(path).stat()
                row = (state.st_size, state.st_mtime_ns, state.st_ctime_ns, state.st_ino, state.st_dev)
                rows.append((path, *row))
    return rows


def _by_stamps(key: Key) -> InspectionReport | None:
    try:
        name = read_text(key.pointer, limit=_POINTER_BYTES).strip()
    except (OSError, UnreadableError):
        return None
    # the pointer names a file of its folder: a damaged one must not lead elsewhere
    return _read(key.folder / name) if _POINTED.fullmatch(name) else None


def _by_content(key: Key, digests: DigestCache) -> InspectionReport | None:
    """Return the proof of the same bytes with other stamps, if there is one for this question."""
    # hashing reads every byte: it pays only if a proof by content exists to be found
    if not key.folder.is_dir() or not any(key.folder.glob("content-*")):
        return None
    _hash(key, digests)
    name = key.content(digests)
    stored_report = _read(key.folder / f"content-{name}.json") if name else None
    if stored_report is not None:
        _write(key.pointer, f"content-{name}.json")
    return stored_report


def _hash(key: Key, digests: DigestCache) -> None:
    """Compute the digest of every file, since an engine's identity needs all. A file that cannot be read gets none."""

    def digest(path: Path) -> None:
        with contextlib.suppress(OSError, SourceError):
            digests.digest(path)

    with ThreadPoolExecutor(HASHERS, thread_name_prefix="hash") as pool:
        list(pool.map(digest, key.files))
    digests.save()


def _keep(key: Key, report: InspectionReport, digests: DigestCache) -> None:
    if report.outcome == "infra":  # the next run must try the source again
        return
    name = key.content(digests)
    file = f"content-{name}.json" if name else f"stamps-{key.stamps}.json"
    if _write(key.folder / file, report.to_json()):
        _write(key.pointer, file)


def _read(path: Path) -> InspectionReport | None:
    try:
        return InspectionReport.read(path)
    except (OSError, UnreadableError):
        return None


def _write(path: Path, text: str) -> bool:
    try:
        write_text_atomic(path, text)
    except OSError:  # a cache that cannot be written costs time and nothing else
        return False
    return True


@contextlib.contextmanager
def _alone(key: Key) -> Iterator[None]:
    """Hold the question's lock: one worker inspects and the others read its report.

    If the lock file cannot be made or the wait is over, go on without the lock.
    """
    lock = FileLock(key.folder / "lock")
    try:
        key.folder.mkdir(parents=True, exist_ok=True)
        lock.acquire(timeout=WAIT_SECONDS)
    except (OSError, Timeout):
        yield
        return
    try:
        yield
    finally:
        lock.release()


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
