"""Change several files together or not at all, also if the process dies in between.

A redo log. Everything new is staged under ``.quantgate/transactions/<id>/``. Then ``journal.json`` is renamed into
place: from here on the changes are certain. Then every operation is applied; each can be repeated without harm. Last,
the journal is removed. A folder without a journal has changed nothing and is deleted; the next command finishes a
folder with a journal. All of it happens under the workspace's lock.
"""

from __future__ import annotations

import hashlib
import shutil
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from harness.errors import GoldenError, disk_error
from harness.goldens.folder import FolderStore
from harness.goldens.golden import copy_parts, require_writable, sync_folder
from harness.goldens.workspace import Workspace
from harness.inside import read_inside, relative_parts, remove_inside, require_inside, write_inside
from harness.project import HERE
from harness.reading import UnreadableError, reason
from harness.records.base import Record, write_bytes_atomic
from harness.records.candidate import CANDIDATE_FILE, Candidate
from harness.records.golden import AcceptedIndex, GoldenManifest, SafeName

JOURNAL_FILE = "journal.json"
WRITTEN = tuple(path.name for path in (HERE.goldens, HERE.thresholds, HERE.cases))
"""Folders of the project that a journal may change; ``recover`` refuses a journal that names another file."""
Hook = Callable[[str], None]
"""Called before and after every step with the step's name; tests stop the process in it."""


class Install(Record):
    """Put a golden into a folder store and accept it."""

    kind: Literal["install"] = "install"
    store: str
    staged: SafeName
    manifest: GoldenManifest
    before: AcceptedIndex
    after: AcceptedIndex
    later: tuple[AcceptedIndex, ...] = ()
    """Lists that later steps of the same command leave."""


class Write(Record):
    """Write other bytes to a file, or delete it (``staged`` is ``None``)."""

    kind: Literal["write"] = "write"
    target: str
    staged: SafeName | None
    before: str | None
    """sha256 (hex) of the bytes to replace; ``None``: there is no file."""
    after: str | None
    """sha256 (hex) of the new bytes; ``None``: the file is deleted."""


class Discard(Record):
    """Delete a pending candidate, if it still has this seal."""

    kind: Literal["discard"] = "discard"
    folder: str
    seal: str


Operation = Annotated[Install | Write | Discard, Field(discriminator="kind")]


class Journal(Record):
    """Content of ``journal.json``."""

    schema_version: Literal[1] = 1
    message: str
    """One sentence that describes the change to the person who finds it unfinished."""
    operations: tuple[Operation, ...]


class Transaction:
    """Collect changes, then make them. :func:`committing` creates it.

    Args:
        workspace: the project.
        title: one sentence that describes the change.
        hook: see :data:`Hook`.
        recovered: sentences on interrupted commands that were finished or undone before.
    """

    def __init__(self, workspace: Workspace, title: str, hook: Hook, recovered: tuple[str, ...]) -> None:
        self.workspace, self.message, self._hook, self.recovered = workspace, title, hook, recovered
        self.folder = workspace.transactions / uuid.uuid4().hex
        self.folder.mkdir(parents=True)
        self._operations: list[Install | Write | Discard] = []

    def install(
        self,
        store: FolderStore,
        manifest: GoldenManifest,
        files: Mapping[str, Path],
        after: AcceptedIndex,
        *,
        before: AcceptedIndex | None = None,
        later: tuple[AcceptedIndex, ...] = (),
    ) -> None:
        """Add a golden and accept it. The parts are copied and checked now, so that later steps cannot fail on them.

        Args:
            store: the store.
            manifest: of the golden.
            files: path by part name.
            after: the list of accepted goldens afterwards.
            before: the list that an earlier step of this transaction leaves; by default the present one.
            later: the lists that later steps of this transaction leave.

        Raises:
            GoldenError: a part differs from the manifest, or the store leaves the project.
        """
        staged = self._name()
        relative = self._relative(store.root)
        require_inside(self.workspace.root, store.index_path(manifest.runner, manifest.case))
        copy_parts(manifest.parts, files, self.folder / staged)
        old = store.index(manifest.runner, manifest.case) if before is None else before
        self._operations.append(
            Install(store=relative, staged=staged, manifest=manifest, before=old, after=after, later=later)
        )
        self._hook("staged golden")

    def write(self, target: Path, data: bytes | None) -> None:
        """Write ``data`` to ``target``; ``None`` deletes it.

        Raises:
            GoldenError: ``target`` is outside of the folders that a journal may change.
        """
        relative = self._relative(target)
        _require_written(relative, self.workspace.root)
        before = _sha256_inside(self.workspace.root, relative)
        if data is None and before is None:
            return
        staged = None
        if data is not None:
            staged = self._name()
            write_bytes_atomic(self.folder / staged, data)
        after = hashlib.sha256(data).hexdigest() if data is not None else None
        self._operations.append(Write(target=relative, staged=staged, before=before, after=after))
        self._hook(f"staged {target.name}")

    def discard(self, folder: Path, seal: str) -> None:
        """Delete a pending candidate, as the last step."""
        self._operations.append(Discard(folder=self._relative(folder), seal=seal))

    def commit(self) -> None:
        """Make the changes. Once the journal is written they happen, now or with the next command.

        Raises:
            InfraError: a target cannot be written. Nothing was changed, unless the message states it.
        """
        journal = Journal(message=self.message, operations=tuple(self._operations))
        for operation in journal.operations:
            _require_writable(self.workspace, operation)
        self._hook("before journal")
        journal.write(self.folder / JOURNAL_FILE)
        sync_folder(self.folder)
        self._hook("journal written")
        finish(self.workspace, self.folder, journal, self._hook)

    def abandon(self) -> None:
        """Drop the changes, if the journal is not written yet."""
        if not (self.folder / JOURNAL_FILE).exists():
            shutil.rmtree(self.folder, ignore_errors=True)

    def _name(self) -> str:
        return f"{len(self._operations):02d}"

    def _relative(self, path: Path) -> str:
        """Return ``path`` as the journal names it: relative to the project, with no link on the way."""
        return require_inside(self.workspace.root, path)


@contextmanager
def committing(workspace: Workspace, title: str, hook: Hook = lambda _step: None) -> Iterator[Transaction]:
    """Lock the project, finish interrupted commands, and make the changes that the block collects when it ends.

    If the block raises, nothing is changed.

    Args:
        workspace: the project.
        title: one sentence that describes the change.
        hook: see :data:`Hook`.

    Raises:
        GoldenError: as for :func:`recover`.
        InfraError: as for :meth:`Transaction.commit`.
    """
    with workspace.locked():
        transaction = Transaction(workspace, title, hook, recover(workspace, hook))
        try:
            yield transaction
            transaction.commit()
        except Exception:
            transaction.abandon()
            raise


def recover(workspace: Workspace, hook: Hook = lambda _step: None) -> tuple[str, ...]:
    """Finish or undo the work of interrupted commands; call it under the lock, before anything else.

    Returns:
        A sentence per command that was finished or undone.

    Raises:
        GoldenError: a target of an interrupted command was changed since, or its journal cannot be used.
    """
    sentences: list[str] = []
    folders = sorted(workspace.transactions.iterdir()) if workspace.transactions.is_dir() else []
    for folder in folders:
        path = folder / JOURNAL_FILE
        # The journal is written last: without it no operation was applied.
        if not path.exists():
            shutil.rmtree(folder)
            sentences.append("an interrupted command had changed nothing yet; its scratch files were removed")
            continue
        try:
            journal = Journal.read(path)
        except (OSError, UnreadableError) as error:
            raise GoldenError(
                f"an interrupted command cannot be finished: {reason(error)}",
                place=str(path),
                remedy=f"delete {folder}",
            ) from error
        # The journal is a file that another program may have written, so its paths are checked before they are used.
        _check_places(workspace, folder, journal)
        finish(workspace, folder, journal, hook)
        sentences.append(f"an interrupted command was finished: {journal.message}")
    return tuple(sentences)


def finish(workspace: Workspace, folder: Path, journal: Journal, hook: Hook) -> None:
    """Apply every operation of a journal, whether or not it was applied before, and remove the journal.

    Raises:
        GoldenError: a target was changed by another program since.
        InfraError: a file cannot be written; the journal stays, and the next command finishes it.
    """
    for number, operation in enumerate(journal.operations):
        hook(f"before {number} {operation.kind}")
        try:
            _apply(workspace, folder, operation)
        except OSError as error:
            raise disk_error(error, f"begun, and finished by the next command: {journal.message}") from error
        hook(f"after {number} {operation.kind}")
    # The journal goes first: a folder without it counts as scratch, so a stop in rmtree is harmless.
    (folder / JOURNAL_FILE).unlink()
    hook("journal removed")
    shutil.rmtree(folder)


def _check_places(workspace: Workspace, folder: Path, journal: Journal) -> None:
    """Refuse a journal that would touch files other than goldens, limits, cases and pending candidates.

    Raises:
        GoldenError: it would touch another file. Nothing was changed.
    """
    root = workspace.root
    try:
        for operation in journal.operations:
            if isinstance(operation, Install):
                _require(operation.store == WRITTEN[0], operation.store, root)
                manifest = operation.manifest
                require_inside(root, FolderStore(root / operation.store).index_path(manifest.runner, manifest.case))
            elif isinstance(operation, Write):
                _require_written(operation.target, root)
                require_inside(root, root / operation.target)
            else:
                parts = relative_parts(operation.folder, root)
                place = parts[:-2] == workspace.pending_root.relative_to(root).parts
                _require(place, operation.folder, root)
                require_inside(root, root / operation.folder)
    except GoldenError as error:
        raise GoldenError(
            f"this journal was not written by a command of this project: {error.message}",
            place=str(folder / JOURNAL_FILE),
            remedy=f"look who wrote it, then delete {folder}",
        ) from error


def _require(holds: bool, path: str, root: Path) -> None:
    if not holds:
        raise GoldenError(f"{path!r} is none of the files that a journal changes", place=str(root))


def _require_written(path: str, root: Path) -> None:
    parts = relative_parts(path, root)
    _require(len(parts) > 1 and parts[0] in WRITTEN, path, root)


def _sha256_inside(root: Path, path: str) -> str | None:
    data = read_inside(root, path)
    return None if data is None else hashlib.sha256(data).hexdigest()


def _require_writable(workspace: Workspace, operation: Operation) -> None:
    """Check the target before the journal is written: its operations are applied later even if the command fails."""
    if isinstance(operation, Install):
        manifest = operation.manifest
        FolderStore(workspace.root / operation.store).require_writable(manifest.runner, manifest.case)
    elif isinstance(operation, Write):
        require_writable(workspace.root / operation.target)


def _apply(workspace: Workspace, folder: Path, operation: Install | Write | Discard) -> None:
    if isinstance(operation, Install):
        _apply_install(workspace, folder, operation)
    elif isinstance(operation, Write):
        _apply_write(workspace, folder, operation)
    else:
        _apply_discard(workspace, folder, operation)


def _apply_install(workspace: Workspace, folder: Path, operation: Install) -> None:
    store = FolderStore(workspace.root / operation.store)
    manifest = operation.manifest
    require_inside(workspace.root, store.index_path(manifest.runner, manifest.case))
    now = store.index(manifest.runner, manifest.case)
    # The list is the old one, or already the new one if an earlier try came this far, or that of a later golden of the
    # same command; any other list is a conflict.
    if now not in (operation.before, operation.after, *operation.later):
        raise _conflict(store.index_path(manifest.runner, manifest.case), folder)
    files = {name: folder / operation.staged / part.path for name, part in manifest.parts.items()}
    store.install(manifest, files, now if now in operation.later else operation.after)


def _apply_write(workspace: Workspace, folder: Path, operation: Write) -> None:
    root = workspace.root
    now = _sha256_inside(root, operation.target)
    # The operation was applied before the interruption.
    if now == operation.after:
        return
    if now != operation.before:
        raise _conflict(root / operation.target, folder)
    if operation.staged is None:
        remove_inside(root, operation.target)
        return
    data = read_inside(folder, operation.staged)
    if data is None or hashlib.sha256(data).hexdigest() != operation.after:
        raise GoldenError(
            "the staged file of an interrupted command differs from its journal",
            place=str(folder / operation.staged),
            remedy=f"delete {folder}, and type the command again",
        )
    write_inside(root, operation.target, data)


def _apply_discard(workspace: Workspace, scratch: Path, operation: Discard) -> None:
    folder = workspace.root / operation.folder
    require_inside(workspace.root, folder)
    try:
        seal = Candidate.read(folder / CANDIDATE_FILE).seal
    except (OSError, UnreadableError):
        return  # already removed, or replaced by a newer candidate that was not accepted
    if seal == operation.seal:
        folder.rename(scratch / "discarded")  # one rename, so never half a candidate; deleted with the transaction


def _conflict(path: Path, folder: Path) -> GoldenError:
    return GoldenError(
        "an interrupted command was to change this file, and somebody else changed it since",
        place=str(path),
        remedy=f"put it back (`git checkout -- {path}`) and type the command again, or delete {folder} to give it up",
    )
