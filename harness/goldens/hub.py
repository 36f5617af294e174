"""Store goldens in a Hugging Face dataset at a pinned commit, in the same layout as the folder store.

Reading downloads only the requested files: the case's list, its manifests, and a part when it is opened. Everything
goes through huggingface_hub's cache, so that a second run needs no network, and an interrupted upload or download
continues with the missing files. Writing makes one commit; the pin in the project moves only when the caller moves it,
so that a commit without a pin changes no result.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from huggingface_hub.errors import (
    HfHubHTTPError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RemoteEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from harness.errors import GoldenError, InfraError
from harness.goldens.folder import SHORT
from harness.goldens.golden import Golden, check_part, read_index, read_manifest
from harness.records.golden import INDEX_FILE, MANIFEST_FILE, AcceptedIndex, GoldenManifest, Part

if TYPE_CHECKING:
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi


# Map hub errors: a missing dataset or revision, or a concurrent commit, is a `GoldenError`; a network failure is an
# `InfraError`.


ENTRY_MISSING = RemoteEntryNotFoundError
"""The hub answered that the commit has no such file (as opposed to: the hub could not be reached)."""

_CONFLICT = (409, 412)
_TRANSPORT: type[Exception] = HfHubHTTPError.__bases__[0]
"""HTTPError of the installed HTTP library: httpx or httpx2, depending on the version of huggingface_hub."""


@contextmanager
def hub_errors(origin: str, doing: str) -> Iterator[None]:
    """Convert an error of huggingface_hub while ``doing`` into a :class:`GoldenError` or an :class:`InfraError`."""
    try:
        yield
    except RemoteEntryNotFoundError:
        # A missing file is an answer, which the caller handles.
        raise
    except RepositoryNotFoundError as error:
        remedy = "check goldens/store.json and your token: a private dataset looks missing without one"
        raise GoldenError(f"cannot {doing}: no such dataset", place=origin, remedy=remedy) from error
    except RevisionNotFoundError as error:
        remedy = "check the pin in goldens/store.json"
        raise GoldenError(f"cannot {doing}: no such revision", place=origin, remedy=remedy) from error
    except (LocalEntryNotFoundError, OfflineModeIsEnabled) as error:
        remedy = "go online once (unset HF_HUB_OFFLINE), or `quantgate goldens pull` where there is a network"
        reason = f" ({_first_line(error.__cause__)})" if error.__cause__ is not None else ""
        message = f"cannot {doing}: not in the cache, and the hub could not be asked{reason}"
        raise InfraError(message, place=origin, remedy=remedy, kind="download") from error
    except HfHubHTTPError as error:
        status = error.response.status_code if error.response is not None else None
        if status in _CONFLICT:
            message = f"cannot {doing}: somebody else committed to the dataset at the same moment"
            raise GoldenError(message, place=origin, remedy="type the same command again") from error
        raise InfraError(f"cannot {doing}: {_first_line(error)}", place=origin, kind="download") from error
    except (_TRANSPORT, OSError, RuntimeError, ValueError) as error:
        # huggingface_hub raises a RuntimeError around the reason of a failed LFS upload, a ValueError if it is refused
        remedy = "type the same command again: what arrived is kept"
        reason = _first_line(error.__cause__ or error)
        raise InfraError(f"cannot {doing}: {reason}", place=origin, remedy=remedy, kind="download") from error


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0] if lines else ''}"


@dataclass(frozen=True)
class Addition:
    """One golden to upload: its manifest, and the path of every part."""

    manifest: GoldenManifest
    files: Mapping[str, Path]


class HubStore:
    """A golden store in a Hugging Face dataset.

    Args:
        repo_id: ``owner/name`` of the dataset.
        revision: the pinned commit (40 hex digits) from which the store reads.
        branch: the branch that receives uploads.
        cache: huggingface_hub's cache folder; ``None``: its own setting (``HF_HUB_CACHE``).
        offline: ``True``: never use the network. ``False``: ``HF_HUB_OFFLINE`` decides.
        endpoint: base URL of the hub; ``None``: huggingface_hub's own setting (``HF_ENDPOINT``).
    """

    def __init__(
        self,
        repo_id: str,
        revision: str,
        *,
        branch: str = "main",
        cache: Path | None = None,
        offline: bool = False,
        endpoint: str | None = None,
    ) -> None:
        self.repo_id, self.revision, self.branch = repo_id, revision, branch
        self._cache, self._offline, self._endpoint = cache, offline, endpoint
        self._remedy = "download it again, or accept a new golden; the pin is in goldens/store.json"

    @property
    def origin(self) -> str:
        """Address of this store, for messages."""
        return f"hf://datasets/{self.repo_id}@{self.revision[:12]}"

    @cached_property
    def _api(self) -> HfApi:
        from huggingface_hub import HfApi

        return HfApi(endpoint=self._endpoint)

    def at(self, revision: str) -> HubStore:
        """Return a store of the same dataset at another commit."""
        return HubStore(
            self.repo_id,
            revision,
            branch=self.branch,
            cache=self._cache,
            offline=self._offline,
            endpoint=self._endpoint,
        )

    def index(self, runner: str, case: str) -> AcceptedIndex:
        """Return the accepted goldens of a case at the pinned commit; empty if it has none.

        Raises:
            GoldenError: the list is damaged.
            InfraError: the list could be neither downloaded nor read from the cache.
        """
        path = self._optional(f"{runner}/{case}/{INDEX_FILE}")
        if path is None:
            return AcceptedIndex(case=case, runner=runner)
        return read_index(path, runner, case, remedy=self._remedy)

    def find(self, runner: str, case: str) -> tuple[Golden, ...]:
        """Return the accepted goldens of a case. Their parts are downloaded when they are opened.

        Raises:
            GoldenError: an accepted golden is missing, or its manifest was changed.
            InfraError: the network failed and the cache has no copy.
        """
        entries = self.index(runner, case).goldens
        return tuple(self.get(runner, case, entry.digest, reason=entry.reason) for entry in entries)

    def get(self, runner: str, case: str, digest: str, *, reason: str = "") -> Golden:
        """Return one golden by its digest (full, or at least its first 16 digits), accepted or not.

        Raises:
            GoldenError: it is not in the dataset at the pinned commit, or its manifest was changed.
            InfraError: the network failed and the cache has no copy.
        """
        folder = f"{runner}/{case}/{digest[:SHORT]}"
        try:
            manifest = read_manifest(
                self._download(f"{folder}/{MANIFEST_FILE}"), runner, case, digest, remedy=self._remedy
            )
        except GoldenError:
            if self._offline:
                raise
            with suppress(InfraError):  # replaces a damaged cache; without a network the damage itself is reported
                self._download(f"{folder}/{MANIFEST_FILE}", again=True)
            path = self._download(f"{folder}/{MANIFEST_FILE}")
            manifest = read_manifest(path, runner, case, digest, remedy=self._remedy)

        def fetch(part: Part, again: bool) -> Path:
            return self._download(f"{folder}/{part.path}", again=again)

        return Golden(
            manifest,
            manifest.digest(),
            reason or manifest.reason,
            f"{self.origin}/{folder}",
            fetch=fetch,
            refetches=not self._offline,
            remedy=self._remedy,
        )

    def cases(self) -> tuple[tuple[str, str], ...]:
        """Return every ``(runner, case)`` with goldens at the pinned commit, sorted. Uses the network."""
        return tuple(sorted({(parts[0], parts[1]) for parts in self._listing()}))

    def digests(self, runner: str, case: str) -> tuple[str, ...]:
        """Return the first 16 digits of every golden of a case, sorted. Uses the network."""
        # A golden's file has four path parts, runner/case/digest/file; with three it is the list of a case.
        return tuple(sorted({parts[2] for parts in self._listing() if parts[:2] == (runner, case) and len(parts) == 4}))

    def _listing(self) -> list[tuple[str, ...]]:
        with hub_errors(self.origin, "list the dataset"):
            paths = self._api.list_repo_files(self.repo_id, repo_type="dataset", revision=self.revision)
        split = [tuple(path.split("/")) for path in paths]
        return [parts for parts in split if len(parts) in (3, 4)]

    def head(self) -> str:
        """Return the newest commit of the branch.

        Raises:
            InfraError: the hub could not be reached.
        """
        with hub_errors(self.origin, "read the branch"):
            return str(self._api.dataset_info(self.repo_id, revision=self.branch).sha)

    def add(self, manifest: GoldenManifest, files: Mapping[str, Path]) -> Golden:
        """Upload a golden as one commit, and read this store at that commit from now on.

        Raises:
            GoldenError: a file differs from the manifest.
            InfraError: the upload failed; the branch is unchanged, and another try continues the upload.
        """
        self.revision = self.publish([Addition(manifest, files)], [])
        return self.get(manifest.runner, manifest.case, manifest.digest())

    def publish(
        self, additions: Iterable[Addition], indexes: Sequence[AcceptedIndex], *, message: str = "Add goldens"
    ) -> str:
        """Upload goldens and lists of accepted goldens, as one commit.

        Returns:
            The new commit. It is not pinned.

        Raises:
            GoldenError: a file differs from its manifest, or another commit changed one of the lists since the pin.
            InfraError: the upload failed; the branch is unchanged.
        """
        from huggingface_hub import CommitOperationAdd

        head, new_goldens = self.head(), list(additions)
        # The caller read the lists at the pin: if the branch moved since, a changed list must not be overwritten.
        if head != self.revision:
            self._refuse_lost_update(new_goldens, indexes, head)
        operations: list[CommitOperationAdd | CommitOperationDelete] = []
        for addition in new_goldens:
            manifest = addition.manifest
            folder = f"{manifest.runner}/{manifest.case}/{manifest.digest()[:SHORT]}"
            for name, part in manifest.parts.items():
                path = check_part(name, part, addition.files[name], remedy="run the case again")
                operations.append(CommitOperationAdd(f"{folder}/{part.path}", path))
            operations.append(CommitOperationAdd(f"{folder}/{MANIFEST_FILE}", manifest.to_json().encode()))
        for index in indexes:
            operations.append(  # noqa: PERF401 - reads as the loop above
                CommitOperationAdd(f"{index.runner}/{index.case}/{INDEX_FILE}", index.to_json().encode())
            )
        return self._commit(operations, head, message)

    def delete(self, folders: Sequence[str], *, message: str) -> str:
        """Remove goldens (``runner/case/digest16``) from the branch, as one commit. Older commits keep them.

        Raises:
            InfraError: the commit failed; the branch is unchanged.
        """
        from huggingface_hub import CommitOperationDelete

        operations = [CommitOperationDelete(f"{folder}/", is_folder=True) for folder in folders]
        return self._commit(operations, self.head(), message)

    def _commit(
        self, operations: Sequence[CommitOperationAdd | CommitOperationDelete], parent: str, message: str
    ) -> str:
        with hub_errors(self.origin, "upload"):
            info = self._api.create_commit(
                self.repo_id,
                list(operations),
                commit_message=message,
                repo_type="dataset",
                revision=self.branch,
                parent_commit=parent,  # the hub refuses the commit if the branch moved meanwhile, so nothing is lost
            )
        return str(info.oid)

    def _refuse_lost_update(self, additions: Sequence[Addition], indexes: Sequence[AcceptedIndex], head: str) -> None:
        newest = self.at(head)
        for index in indexes:
            runner, case = index.runner, index.case
            pinned, now = self.index(runner, case), newest.index(runner, case)
            if now in (pinned, index):
                continue
            new = [digest for digest in now.digests() if digest not in pinned.digests() + index.digests()]
            parts = [
                addition.manifest.parts
                for addition in additions
                if (addition.manifest.runner, addition.manifest.case) == (runner, case)
            ]
            if new and all(newest.get(runner, case, digest).manifest.parts in parts for digest in new):
                continue  # an interrupted earlier try of this very upload, before the pin moved
            raise GoldenError(
                f"the accepted goldens of {runner}/{case} changed on branch {self.branch} since the pin: "
                f"{[digest[:SHORT] for digest in now.digests()]} at {head[:12]}",
                place=self.origin,
                remedy="pull the commit that moved the pin, or move it yourself with `quantgate goldens pin`",
            )

    def _download(self, path: str, *, again: bool = False) -> Path:
        cached = self._optional(path, again=again)
        if cached is None:
            raise GoldenError(f"{path} is not in the dataset", place=self.origin, remedy=self._remedy)
        return cached

    def _optional(self, path: str, *, again: bool = False) -> Path | None:
        """Return the local copy of a file of the dataset, or ``None`` if the pinned commit has no such file."""
        from huggingface_hub import hf_hub_download, try_to_load_from_cache

        if not again:
            cached = try_to_load_from_cache(
                self.repo_id, path, cache_dir=self._cache, revision=self.revision, repo_type="dataset"
            )
            if isinstance(cached, str):
                return Path(cached)
            if cached is not None:
                return None  # the cache records that this commit, which cannot change, has no such file
        with hub_errors(self.origin, f"download {path}"):
            try:
                path_on_disk = hf_hub_download(
                    self.repo_id,
                    path,
                    repo_type="dataset",
                    revision=self.revision,
                    cache_dir=self._cache,
                    endpoint=self._endpoint,
                    force_download=again,
                    local_files_only=self._offline,
                )
            except ENTRY_MISSING:
                return None
        return Path(path_on_disk)
