"""Read bytes of a checkpoint: from a folder or from a hub repository at a commit, behind one small protocol."""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar
from urllib.parse import urlsplit

from harness.definitions.case import UNRESOLVED, CheckpointRef
from harness.definitions.checks import HUB_NAME
from harness.definitions.validation import near_folder
from harness.formats.errors import BadReferenceError, SourceError
from harness.project import local_folder

# A Hugging Face repository at one commit, read by ranges through ``huggingface_hub``.


# a round trip takes longer than the transfer of such a gap
HUB_MERGE_GAP = 32 * 1024
READ_TIMEOUT = 30.0
RETRIES = 2
T = TypeVar("T")


class HubSource:
    """Read ``owner/name`` at a commit. The hub client is imported when the first object is made."""

    is_local = False

    def __init__(self, repo: str, revision: str | None, meter: Meter) -> None:
        import huggingface_hub

        self.repo = repo
        self._meter = meter
        self._lock = threading.Lock()
        self._locations: dict[str, str] = {}
        self._api = huggingface_hub.HfApi()
        info = self._ask(lambda: self._api.repo_info(repo, revision=revision, timeout=READ_TIMEOUT), revision)
        self.commit: str | None = info.sha
        self.label = f"{repo}@{info.sha}"
        tree = self._ask(lambda: list(self._api.list_repo_tree(repo, recursive=True, revision=info.sha)), info.sha)
        self.files = {
            entry.path: FileInfo(entry.path, entry.size, entry.lfs.sha256 if entry.lfs else None, entry.blob_id)
            for entry in tree
            if isinstance(entry, huggingface_hub.hf_api.RepoFile) and not is_hidden(entry.path)
        }

    def _ask(self, call: Callable[[], T], revision: str | None) -> T:
        """Run one metadata call. Errors of the hub client become ``SourceError`` or ``BadReferenceError``."""
        from huggingface_hub import errors

        self._meter.count(0)
        place = f"{self.repo}@{revision}" if revision else self.repo
        try:
            return call()
        except errors.GatedRepoError as error:
            raise SourceError("access is gated", place=place, remedy="hf auth login, and accept the terms") from error
        except errors.RepositoryNotFoundError as error:
            remedy = "check the name; a private repository needs `hf auth login`"
            raise BadReferenceError("there is no such repository", place=place, remedy=remedy) from error
        except errors.RevisionNotFoundError as error:
            raise BadReferenceError("there is no such revision", place=place, remedy="name a full commit") from error
        except Exception as error:
            raise _typed(error, place) from error

    def location(self, path: str, fresh: bool = False) -> str:
        """Return the URL of a file's bytes, resolved once (again with ``fresh``: signed URLs expire)."""
        from huggingface_hub import get_hf_file_metadata, hf_hub_url

        with self._lock:
            location = self._locations.get(path)
        if location is not None and not fresh:
            return location
        url = hf_hub_url(self.repo, path, revision=self.commit, endpoint=self._api.endpoint)
        location_found = self._ask(lambda: get_hf_file_metadata(url, timeout=READ_TIMEOUT).location, self.commit)
        with self._lock:
            self._locations[path] = location_found
        return location_found

    def read(self, path: str, start: int, length: int) -> bytes:
        """Return exactly ``length`` bytes from ``start``."""
        return self.read_ranges(path, [(start, length)])[0]

    def read_ranges(self, path: str, ranges: Sequence[Range]) -> list[bytes]:
        """Return several ranges of one file. Ranges up to 32 KiB apart are fetched in one request, gap included."""
        blocks: list[bytes] = [b""] * len(ranges)
        for start, length, members in merge_ranges(ranges, HUB_MERGE_GAP):
            data = self._fetch(path, start, length) if length else b""
            for index in members:
                offset = ranges[index][0] - start
                blocks[index] = data[offset : offset + ranges[index][1]]
        return blocks

    def _fetch(self, path: str, start: int, length: int) -> bytes:
        place = f"{self.repo}/{path}@{self.commit}"
        for attempt in (0, 1):
            response = self._get(self.location(path, fresh=attempt > 0), start, length, place)
            # the signed URL may have expired: resolve it again once before the refusal counts
            if response.status_code in (401, 403) and attempt == 0:
                continue
            break
        self._meter.count(len(response.content))
        # a server without range support sends the whole file (200): usable only if the range starts at byte 0
        whole = response.status_code == 200 and start == 0 and len(response.content) >= length
        if response.status_code != 206 and not whole:
            raise SourceError(
                f"HTTP {response.status_code} for bytes {start}-{start + length - 1}",
                place=place,
                remedy="the server must answer range requests with 206; try again later",
            )
        data: bytes = response.content[:length]
        if len(data) != length:
            raise SourceError(f"{len(data)} of {length} bytes at {start} arrived", place=place, remedy="try again")
        return data

    def _get(self, url: str, start: int, length: int, place: str) -> Any:
        from huggingface_hub.utils import build_hf_headers, http_backoff  # type: ignore[attr-defined]

        # the token belongs to the hub and must not leave it with a redirect to a storage host
        # (nor in the clear: the scheme is part of the origin)
        same_host = urlsplit(url)[:2] == urlsplit(self._api.endpoint)[:2]
        headers = {**(build_hf_headers() if same_host else {}), "range": f"bytes={start}-{start + length - 1}"}
        try:
            return http_backoff(
                "GET", url, headers=headers, timeout=READ_TIMEOUT, max_retries=RETRIES, follow_redirects=True
            )
        except Exception as error:
            raise _typed(error, place) from error


def _typed(error: Exception, place: str) -> SourceError:
    """Return a client's failure as one sentence; ``huggingface_hub`` raises errors of several HTTP libraries."""
    text = " ".join(str(error).split())[:300] or type(error).__name__
    remedy = "check the network and the hub's status, then run again: nothing was proven about the checkpoint"
    return SourceError(f"{type(error).__name__}: {text}", place=place, remedy=remedy)


# A checkpoint folder on this machine.


LOCAL_MERGE_GAP = 4096
# a folder such as / that was typed by mistake is not walked to its end
MAX_FILES = 100_000


class LocalSource:
    """Read ranges of files below ``folder``; symbolic links (the hub's cache) are followed.

    Args:
        only: file names of ``folder`` that make up the source; ``None``: all files below ``folder``.
    """

    is_local = True
    commit: str | None = None

    def __init__(self, folder: Path, meter: Meter, label: str = "", only: frozenset[str] | None = None) -> None:
        self.folder = folder
        self.label = label or str(folder)
        self._meter = meter
        self.files: dict[str, FileInfo] = {}
        if only is not None:
            self.files = {name: FileInfo(name, (folder / name).stat().st_size) for name in sorted(only)}
            return
        for parent, folders, names in os.walk(folder, followlinks=True):
            folders[:] = sorted(name for name in folders if not name.startswith("."))
            for name in sorted(name for name in names if not is_hidden(name)):
                full = Path(parent) / name
                relative = full.relative_to(folder).as_posix()
                if full.exists():
                    self.files[relative] = FileInfo(relative, full.stat().st_size)
                if len(self.files) > MAX_FILES:
                    raise BadReferenceError(f"more than {MAX_FILES} files", place=str(folder))

    def read(self, path: str, start: int, length: int) -> bytes:
        """Return exactly ``length`` bytes from ``start``."""
        return self.read_ranges(path, [(start, length)])[0]

    def read_ranges(self, path: str, ranges: Sequence[Range]) -> list[bytes]:
        """Return several ranges of one file, which is opened once."""
        blocks: list[bytes] = [b""] * len(ranges)
        try:
            # unbuffered: a buffer would read beyond the wanted rows
            with (self.folder / path).open("rb", buffering=0) as file:
                for start, length, members in merge_ranges(ranges, LOCAL_MERGE_GAP):
                    # pread may return less than asked for; only an empty read means that the file ends
                    data = os.pread(file.fileno(), length, start)
                    while len(data) < length:
                        more = os.pread(file.fileno(), length - len(data), start + len(data))
                        if not more:
                            raise SourceError(
                                f"the file ends at byte {start + len(data)} and {start + length} were asked for",
                                place=str(self.folder / path),
                                remedy="is another process still writing it?",
                                kind="disk",
                            )
                        data += more
                    self._meter.count(length)
                    for index in members:
                        offset = ranges[index][0] - start
                        blocks[index] = data[offset : offset + ranges[index][1]]
        except OSError as error:
            raise SourceError(f"cannot read ({error})", place=str(self.folder / path), kind="disk") from error
        return blocks


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
    """Count bytes and requests; shared by all sources of an inspection and safe between threads."""

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
    """Read each range of the base once, though both experts are compared with both of its transformers."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._reads: dict[tuple[int, str, int, int], Future[bytes]] = {}

    def read(self, source: Source, path: str, start: int, length: int) -> bytes:
        """Return the bytes of one range. A second caller gets the bytes of the first; then they are dropped."""
        key = (id(source), path, start, length)
        with self._lock:
            # two experts ask for each range, so the second request is the last: dropping it bounds the memory
            shared = self._reads.pop(key, None)
            if shared is None:
                future: Future[bytes] = Future()
                self._reads[key] = future
        if shared is not None:
            return shared.result()
        try:
            data = source.read(path, start, length)
        except BaseException as error:
            future.set_exception(error)
            raise
        future.set_result(data)
        return data


class Source(Protocol):
    """A readable checkpoint. Implementations are safe to call from several threads."""

    @property
    def label(self) -> str:
        """Path, or ``owner/name@commit``."""

    @property
    def commit(self) -> str | None:
        """Return the commit that is read; ``None`` for a folder."""

    @property
    def is_local(self) -> bool:
        """Return whether the bytes lie on this machine, so that reads are cheap."""

    @property
    def files(self) -> Mapping[str, FileInfo]:
        """Return all files by path."""

    def read(self, path: str, start: int, length: int) -> bytes:
        """Return exactly ``length`` bytes from ``start`` of one file. Raises ``SourceError``."""

    def read_ranges(self, path: str, ranges: Sequence[Range]) -> list[bytes]:
        """Return several ranges of one file; near ranges may be fetched together. Raises ``SourceError``."""


def is_hidden(path: str) -> bool:
    """Return whether a file or one of its folders is hidden, as notes of git and of file systems are."""
    return any(part.startswith(".") for part in path.split("/"))


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
        ref: a folder or a file (``./x``, ``/x``, ``~/x``, or any path that is one here), or ``owner/name`` or
            ``owner/name@revision``.
        meter: counts the bytes that are read.
        root: folder that ``./`` is relative to; default the current one.

    Raises:
        BadReferenceError: no such folder, repository or revision, or the revision is not resolved to a commit.
        SourceError: the hub cannot be read.
    """
    if isinstance(ref, CheckpointRef):
        path, revision, made_by = ref.path, ref.revision, ref.made_by
    else:
        path, _, name = str(ref).partition("@")
        # a folder has no revision, so an @ belongs to its name
        if path.startswith(("./", "/", "~")) or ((root or Path.cwd()) / str(ref)).exists():
            path, name = str(ref), ""
        revision, made_by = name or None, None
    if revision == UNRESOLVED:
        raise BadReferenceError(
            f"the revision of {path} is not resolved to a commit yet",
            remedy="quantgate resolve CASE, which writes the commit into the case",
        )
    folder = local_folder(path, root or Path.cwd()) if path.startswith("~/") else (root or Path.cwd()) / path
    if folder.is_file():
        return LocalSource(folder.parent, meter, label=path, only=_with_shards(folder))
    if folder.is_dir() or path.startswith(("./", "/", "~")):
        if not folder.is_dir():
            near = near_folder(folder)
            remedy = "check the path; ./ is relative to the repository root"
            hints = [f"did you mean {near}?"] if near else []
            hints += [f"make it: {made_by}"] if made_by else []
            remedy = " If not, ".join(hints) or remedy
            raise BadReferenceError("there is no such folder", place=str(folder), remedy=remedy)

        return LocalSource(folder, meter, label=path)
    hint = _folder_hint(path, root or Path.cwd())
    if not HUB_NAME.fullmatch(path) or ".." in path:
        raise BadReferenceError(
            f"{path!r} is neither a folder nor owner/name",
            remedy=hint or "write ./folder, /folder or owner/name@commit",
        )

    try:
        return HubSource(path, revision, meter)
    except (BadReferenceError, SourceError) as error:
        if hint and revision is None:
            error = type(error)(error.message, place=error.place, remedy=f"{hint}; if it is on the hub: {error.remedy}")
            raise error from None
        raise


def _with_shards(file: Path) -> frozenset[str]:
    """Return a weight file's name and, if it is one shard (``-00001-of-00002.``), those of the other shards."""
    match = _SHARD.search(file.name)
    if match is None:
        return frozenset({file.name})
    stem = file.name[: match.start()]
    return frozenset(item.name for item in file.parent.iterdir() if item.name.startswith(stem))


def _folder_hint(path: str, root: Path) -> str:
    """Return the path to type if a local folder was probably meant; empty if not."""
    first = path.partition("/")[0]
    if "/" not in path or not first or not (root / first).is_dir():
        return ""
    near = near_folder(root / path)
    suggestion = f"./{near.relative_to(root).as_posix()}" if near is not None else f"./{path.rstrip('/')}"
    return f"{first}/ is a folder here, and {path} is none; if a folder is meant, write {suggestion}"
