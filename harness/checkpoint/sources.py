"""Where bytes come from: a folder or a hub repository at a commit, behind one small protocol."""

from __future__ import annotations

import re
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from harness.checkpoint.errors import BadReferenceError, SourceError
from harness.definitions.case import UNRESOLVED, CheckpointRef
from harness.definitions.checks import HUB_NAME
from harness.definitions.suggest import near_folder

_SHARD = re.compile(r"-\d+-of-\d+\.")
Range = tuple[int, int]
"""``(start, length)`` in bytes."""


@dataclass(frozen=True, slots=True)
class FileInfo:
    """One file of a source. ``sha256`` is known without reading only from hub metadata."""

    path: str
    size: int
    sha256: str | None = None
    blob_id: str | None = None


class Meter:
    """Counts what was read; shared by all sources of an inspection and safe between threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.bytes = 0
        self.requests = 0

    def count(self, size: int) -> None:
        """Add one request of ``size`` bytes."""
        with self._lock:
            self.bytes += size
            self.requests += 1


class SharedReads:
    """Reads each range of the base once, though both experts are compared with both of its transformers."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._known: dict[tuple[int, str, int, int], Future[bytes]] = {}

    def read(self, source: Source, path: str, start: int, length: int) -> bytes:
        """Bytes of one range; a second caller waits for the first one's and then they are forgotten."""
        key = (id(source), path, start, length)
        with self._lock:
            known = self._known.pop(key, None)
            if known is None:
                mine: Future[bytes] = Future()
                self._known[key] = mine
        if known is not None:
            return known.result()
        try:
            data = source.read(path, start, length)
        except BaseException as error:
            mine.set_exception(error)
            raise
        mine.set_result(data)
        return data


class Source(Protocol):
    """A readable checkpoint. Implementations are safe to call from several threads."""

    @property
    def label(self) -> str:
        """Path, or ``owner/name@commit``."""

    @property
    def commit(self) -> str | None:
        """The commit that is read; ``None`` for a folder."""

    @property
    def is_local(self) -> bool:
        """Whether reads are cheap."""

    @property
    def files(self) -> Mapping[str, FileInfo]:
        """All files by path."""

    def read(self, path: str, start: int, length: int) -> bytes:
        """Exactly ``length`` bytes from ``start`` of one file. Raises ``SourceError``."""

    def read_ranges(self, path: str, ranges: Sequence[Range]) -> list[bytes]:
        """Several ranges of one file; near ones may be fetched together. Raises ``SourceError``."""


def merge_ranges(ranges: Sequence[Range], gap: int) -> list[tuple[int, int, list[int]]]:
    """Join ranges that lie at most ``gap`` bytes apart.

    Returns:
        ``(start, length, members)`` sorted by start; ``members`` index into ``ranges``.
    """
    merged: list[tuple[int, int, list[int]]] = []
    for index in sorted(range(len(ranges)), key=lambda item: ranges[item]):
        start, length = ranges[index]
        if merged and start - (merged[-1][0] + merged[-1][1]) <= gap:
            first, size, members = merged[-1]
            merged[-1] = (first, max(size, start + length - first), [*members, index])
        else:
            merged.append((start, length, [index]))
    return merged


def open_source(ref: CheckpointRef | str | Path, meter: Meter, root: Path | None = None) -> Source:
    """Open a checkpoint.

    Args:
        ref: a folder or a file (``./x``, ``/x``, or any path that is one here), or ``owner/name`` or
            ``owner/name@revision``.
        meter: counts what is read.
        root: folder that ``./`` is relative to; default the current one.

    Raises:
        BadReferenceError: nothing is there.
        SourceError: the hub does not answer.
    """
    if isinstance(ref, CheckpointRef):
        path, revision, made_by = ref.path, ref.revision, ref.made_by
    else:
        path, _, name = str(ref).partition("@")
        revision, made_by = name or None, None
    if revision == UNRESOLVED:
        raise BadReferenceError(
            f"the revision of {path} is not resolved to a commit yet",
            remedy="quantgate resolve CASE, which writes the commit into the case",
        )
    folder = (root or Path.cwd()) / path
    if folder.expanduser().is_file():
        from harness.checkpoint.local import LocalSource

        file = folder.expanduser()
        return LocalSource(file.parent, meter, label=path, only=_with_shards(file))
    if folder.is_dir() or path.startswith(("./", "/", "~")):
        folder = folder.expanduser()
        if not folder.is_dir():
            near = near_folder(folder)
            remedy = "check the path; ./ is relative to the repository root"
            remedy = f"make it: {made_by}" if made_by else f"did you mean {near}?" if near else remedy
            raise BadReferenceError("there is no such folder", where=str(folder), remedy=remedy)
        from harness.checkpoint.local import LocalSource

        return LocalSource(folder, meter, label=path)
    hint = _folder_hint(path, root or Path.cwd())
    if not HUB_NAME.fullmatch(path) or ".." in path:
        raise BadReferenceError(
            f"{path!r} is neither a folder nor owner/name",
            remedy=hint or "write ./folder, /folder or owner/name@commit",
        )
    from harness.checkpoint.hub import HubSource

    try:
        return HubSource(path, revision, meter)
    except (BadReferenceError, SourceError) as error:
        if hint and revision is None:
            error = type(error)(error.what, where=error.where, remedy=f"{hint}; if it is on the hub: {error.remedy}")
            raise error from None
        raise


def _with_shards(file: Path) -> frozenset[str]:
    """A weight file that is named by its path, and the other parts where it is one of several."""
    match = _SHARD.search(file.name)
    if match is None:
        return frozenset({file.name})
    stem = file.name[: match.start()]
    return frozenset(item.name for item in file.parent.iterdir() if item.name.startswith(stem))


def _folder_hint(path: str, root: Path) -> str:
    """What to type where a folder of this machine was probably meant; empty where it was not."""
    first = path.partition("/")[0]
    if "/" not in path or not first or not (root / first).is_dir():
        return ""
    near = near_folder(root / path)
    meant = f"./{near.relative_to(root).as_posix()}" if near is not None else f"./{path.rstrip('/')}"
    return f"{first}/ is a folder here, and {path} is none; if a folder is meant, write {meant}"
