"""A Hugging Face repository at one commit, read by ranges through ``huggingface_hub``.

The branch is resolved to a commit once. Each file's storage location is asked for once, so that a thousand ranged
reads cost one call of the hub's rate-limited resolver, and not a thousand.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any, TypeVar
from urllib.parse import urlsplit

from harness.checkpoint.errors import BadReferenceError, SourceError
from harness.checkpoint.sources import FileInfo, Meter, Range, merge_ranges

MERGE_GAP = 32 * 1024
READ_TIMEOUT = 30.0
RETRIES = 2
T = TypeVar("T")


class HubSource:
    """Reads ``owner/name`` at a commit. The hub client is imported when the first object is made."""

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
            if isinstance(entry, huggingface_hub.hf_api.RepoFile)
        }

    def _ask(self, call: Callable[[], T], revision: str | None) -> T:
        """One metadata call, with the hub's own errors turned into typed ones."""
        from huggingface_hub import errors

        self._meter.count(0)
        where = f"{self.repo}@{revision}" if revision else self.repo
        try:
            return call()
        except errors.GatedRepoError as error:
            raise SourceError("access is gated", where=where, remedy="hf auth login, and accept the terms") from error
        except errors.RepositoryNotFoundError as error:
            remedy = "check the name; a private repository needs `hf auth login`"
            raise BadReferenceError("there is no such repository", where=where, remedy=remedy) from error
        except errors.RevisionNotFoundError as error:
            raise BadReferenceError("there is no such revision", where=where, remedy="name a full commit") from error
        except Exception as error:
            raise _typed(error, where) from error

    def location(self, path: str, fresh: bool = False) -> str:
        """URL of the bytes of one file, resolved once (again with ``fresh``: signed URLs expire)."""
        from huggingface_hub import get_hf_file_metadata, hf_hub_url

        with self._lock:
            known = self._locations.get(path)
        if known is not None and not fresh:
            return known
        url = hf_hub_url(self.repo, path, revision=self.commit, endpoint=self._api.endpoint)
        found = self._ask(lambda: get_hf_file_metadata(url, timeout=READ_TIMEOUT).location, self.commit)
        with self._lock:
            self._locations[path] = found
        return found

    def read(self, path: str, start: int, length: int) -> bytes:
        """Exactly ``length`` bytes from ``start``."""
        return self.read_ranges(path, [(start, length)])[0]

    def read_ranges(self, path: str, ranges: Sequence[Range]) -> list[bytes]:
        """Several ranges of one file; gaps up to 32 KiB are read through rather than asked for apart."""
        found: list[bytes] = [b""] * len(ranges)
        for start, length, members in merge_ranges(ranges, MERGE_GAP):
            data = self._fetch(path, start, length) if length else b""
            for index in members:
                offset = ranges[index][0] - start
                found[index] = data[offset : offset + ranges[index][1]]
        return found

    def _fetch(self, path: str, start: int, length: int) -> bytes:
        where = f"{self.repo}/{path}@{self.commit}"
        for attempt in (0, 1):
            response = self._get(self.location(path, fresh=attempt > 0), start, length, where)
            if response.status_code in (401, 403) and attempt == 0:
                continue
            break
        self._meter.count(len(response.content))
        whole = response.status_code == 200 and start == 0 and len(response.content) >= length
        if response.status_code != 206 and not whole:
            raise SourceError(
                f"HTTP {response.status_code} for bytes {start}-{start + length - 1}",
                where=where,
                remedy="the server must answer range requests with 206; try again later",
            )
        data: bytes = response.content[:length]
        if len(data) != length:
            raise SourceError(f"{len(data)} of {length} bytes at {start} arrived", where=where, remedy="try again")
        return data

    def _get(self, url: str, start: int, length: int, where: str) -> Any:
        from huggingface_hub.utils import build_hf_headers, http_backoff  # type: ignore[attr-defined]

        # the token belongs to the hub and must not leave it with a redirect to a storage host
        own = urlsplit(url).netloc == urlsplit(self._api.endpoint).netloc
        headers = {**(build_hf_headers() if own else {}), "range": f"bytes={start}-{start + length - 1}"}
        try:
            return http_backoff(
                "GET", url, headers=headers, timeout=READ_TIMEOUT, max_retries=RETRIES, follow_redirects=True
            )
        except Exception as error:
            raise _typed(error, where) from error


def _typed(error: Exception, where: str) -> SourceError:
    """Any failure of the client as one sentence; ``huggingface_hub`` raises errors of several HTTP libraries."""
    text = " ".join(str(error).split())[:300] or type(error).__name__
    remedy = "check the network and the hub's status, then run again: nothing was said about the checkpoint"
    return SourceError(f"{type(error).__name__}: {text}", where=where, remedy=remedy)
