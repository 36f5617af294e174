"""What was proven of a checkpoint is kept, so that nothing is read again while nothing changed on disk.

An inspection depends on the bytes of the checkpoint and of its base, on what was asked, and on the rules. Its report is
kept in the cache folder under the content of the checkpoint's files (sha256) and the stamps of its base, and found
again by the stamps of both: size, times, inode and device of every file (see ``harness.inspector.identity``). A second
case, another worker and the next run read the report; a file that was written anew with the same bytes is hashed and
then needs no proof.

Only checkpoints on this machine are kept. A report of a source that failed is not, and a damaged entry is none.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
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
from pydantic import ValidationError

import harness
from harness.definitions.case import CheckpointRef
from harness.definitions.causes import CHECKS_GROUP
from harness.formats.errors import SourceError
from harness.formats.spec import GROUP as FORMATS_GROUP
from harness.inspector.assemble import Ref
from harness.inspector.contracts import load_contract
from harness.inspector.identity import HASHERS, DigestCache, cache_file
from harness.inspector.inspect import Asked, inspect_checkpoint
from harness.records.base import write_text_atomic
from harness.records.inspection import InspectionReport

RULE_FOLDERS = ("inspector", "formats", "runtimes", "records", "definitions")
"""Rooms whose source decides what an inspection finds."""
PLUGIN_GROUPS = (FORMATS_GROUP, CHECKS_GROUP)
"""Entry point groups whose modules decide it as well."""
WAIT_SECONDS = 600.0
"""How long an inspection waits for another process that inspects the same checkpoint; after that it does so itself."""


@dataclass(frozen=True)
class Key:
    """Where a proof is kept.

    Attributes:
        question: digest of everything but the bytes: folders, what is asked, and the rules.
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
        """Folder of all proofs of one question."""
        return cache_file().parent / "proofs" / self.question

    @property
    def pointer(self) -> Path:
        """The file that names the proof of files with these stamps."""
        return self.folder / f"at-{self.stamps}"

    def content(self, digests: DigestCache) -> str | None:
        """Name of the proof by content; ``None`` where a file was never hashed."""
        rows = [(str(path), digests.remembered(path)) for path in self.files]
        if any(value is None for _, value in rows):
            return None
        return _sha256(json.dumps([rows, self.base]))


def inspect_once(
    ref: Ref, *, unread: int | None = None, cache: DigestCache | None = None, **asked: Unpack[Asked]
) -> InspectionReport:
    """``inspect_checkpoint``, or what it said of the same bytes before: then nothing is read and nothing is counted.

    Args:
        ref, unread, cache, asked: as of ``inspect_checkpoint``.

    Raises:
        QuantgateError: as ``inspect_checkpoint``.
    """
    started = time.perf_counter()
    key = key_of(ref, asked, hashed=unread is None)
    if key is None:
        return inspect_checkpoint(ref, unread=unread, cache=cache, **asked)
    kept = _by_stamps(key)
    if kept is None:
        with _alone(key):
            digests = cache or DigestCache()
            kept = _by_stamps(key) or _by_content(key, digests)
            if kept is None:
                report = inspect_checkpoint(ref, unread=unread, cache=digests, **asked)
                if unread is None:
                    _hash(key, digests)
                if key_of(ref, asked, hashed=unread is None) == key:  # nothing was written meanwhile
                    _keep(key, report, digests)
                return report
    return kept.model_copy(update={"bytes_read": 0, "requests": 0, "seconds": time.perf_counter() - started})


def key_of(ref: Ref, asked: Asked, *, hashed: bool = True) -> Key | None:
    """The key of one inspection; ``None`` where a part of it is not on this machine.

    Args:
        ref, asked: as of ``inspect_checkpoint``.
        hashed: whether every file is to have a digest in the report.

    Raises:
        ContractError: no such contract.
    """
    root = asked.get("root")
    roles: dict[str, Ref | None] = {
        "model": ref,
        "transformer": asked.get("transformer"),
        "transformer_2": asked.get("transformer_2"),
        "base": asked.get("base"),
    }
    places = {role: _place(one, root) for role, one in roles.items() if one is not None}
    if None in places.values():
        return None
    stamps = {role: _stamps(place) for role, place in places.items() if place is not None}
    loader = asked.get("loader")
    rest: dict[str, Any] = {
        "places": {role: [str(roles[role]), str(place)] for role, place in places.items()},
        "root": str(root),
        "contracts": [
            repr(load_contract(item, root) if isinstance(item, str) else item) for item in asked.get("contracts", ())
        ],
        "loader": loader.model_dump(mode="json") if loader is not None else None,
        "env": dict(asked.get("env") or {}),
        "expected": dict(asked.get("expected") or {}),
        "full": asked.get("full", False),
        "hashed": hashed,
        "rules": rules_digest(),
    }
    own = tuple(Path(row[0]) for role, rows in stamps.items() if role != "base" for row in rows)
    return Key(
        _sha256(json.dumps(rest, sort_keys=True)),
        _sha256(json.dumps(stamps, sort_keys=True)),
        own,
        _sha256(json.dumps(stamps.get("base", []))),
    )


@remember
def rules_digest() -> str:
    """sha256 over the sources and tables that decide what is found: a proof of other rules is none."""
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
    """The folder or file of a reference, as ``harness.inspector.sources.open_source`` finds it."""
    if isinstance(ref, CheckpointRef):
        text, pinned = ref.path, ref.revision
    else:
        text, _, pinned = str(ref).partition("@")
    place = ((root or Path.cwd()) / Path(text).expanduser()).resolve()
    return place if not pinned and place.exists() else None


def _stamps(place: Path) -> list[tuple[str, int, int, int, int, int]]:
    """Path, size, times, inode and device of every file, as a local source lists them; links are followed.

    Of a file that is named itself, its folder's files: it may be one of several shards, and its settings lie beside it.
    """
    found = []
    seen: set[tuple[int, int]] = set()
    for parent, folders, names in os.walk(place if place.is_dir() else place.parent, followlinks=True):
        state = Path(parent).stat()
        if (state.st_dev, state.st_ino) in seen:  # a link back
            folders.clear()
            continue
        seen.add((state.st_dev, state.st_ino))
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names):
            path = f"{parent}/{name}"
            with contextlib.suppress(OSError):
                state = Path(path).stat()
                row = (state.st_size, state.st_mtime_ns, state.st_ctime_ns, state.st_ino, state.st_dev)
                found.append((path, *row))
    return found


def _by_stamps(key: Key) -> InspectionReport | None:
    try:
        return _read(key.folder / key.pointer.read_text(encoding="utf-8").strip())
    except OSError:
        return None


def _by_content(key: Key, digests: DigestCache) -> InspectionReport | None:
    """The proof of the same bytes with other stamps, if this question was ever answered."""
    if not key.folder.is_dir() or not any(key.folder.glob("content-*")):
        return None
    _hash(key, digests)
    name = key.content(digests)
    kept = _read(key.folder / f"content-{name}.json") if name else None
    if kept is not None:
        _write(key.pointer, f"content-{name}.json")
    return kept


def _hash(key: Key, digests: DigestCache) -> None:
    """Have the digest of every file; an engine's identity asks for them all, and one that cannot be read has none."""

    def digest(path: Path) -> None:
        with contextlib.suppress(OSError, SourceError):
            digests.digest(path)

    with ThreadPoolExecutor(HASHERS, thread_name_prefix="hash") as pool:
        list(pool.map(digest, key.files))
    digests.save()


def _keep(key: Key, report: InspectionReport, digests: DigestCache) -> None:
    if report.outcome == "infra":
        return
    name = key.content(digests)
    file = f"content-{name}.json" if name else f"stamps-{key.stamps}.json"
    if _write(key.folder / file, report.to_json()):
        _write(key.pointer, file)


def _read(path: Path) -> InspectionReport | None:
    try:
        return InspectionReport.model_validate_json(path.read_bytes())
    except (OSError, ValidationError):
        return None


def _write(path: Path, text: str) -> bool:
    try:
        write_text_atomic(path, text)
    except OSError:  # a cache that cannot be written costs time and nothing else
        return False
    return True


@contextlib.contextmanager
def _alone(key: Key) -> Iterator[None]:
    """Hold the question's lock: of several workers one proves and the others read. Without a lock file nobody waits."""
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
