"""Store goldens in a folder, such as ``goldens/`` in the repository.

::

    <root>/<runner>/<case>/accepted.json            which goldens the case accepts, and why
    <root>/<runner>/<case>/<digest16>/manifest.json immutable, as is everything beside it
    <root>/<runner>/<case>/<digest16>/<part>

A golden's folder holds all its parts: two goldens with equal bytes do not share a file. So one rename publishes or
removes a golden as a whole, a damaged file damages one golden, and no references need counting. Git and the hub store
equal files once in any case, since both address content by digest.
"""

from __future__ import annotations

import shutil
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock
from pydantic import TypeAdapter, ValidationError

from harness.errors import GoldenError, disk_error
from harness.goldens.golden import (
    NOTHING_CHANGED,
    Golden,
    copy_parts,
    read_index,
    read_manifest,
    require_writable,
    sync_folder,
)
from harness.inside import require_inside
from harness.records.golden import INDEX_FILE, MANIFEST_FILE, AcceptedIndex, GoldenManifest, Part, SafeName

SHORT = 16
"""Hex digits of a digest in a folder's name: 64 bits; the full digest is checked after reading the manifest."""

_NAME = TypeAdapter(SafeName)


class FolderStore:
    """A golden store in a local folder. Safe for several writing processes at once.

    Args:
        root: the folder; created at the first write.
    """

    def __init__(self, root: Path) -> None:
        self.root = Path(root)
        self._remedy = f"restore it (`git checkout -- {self.root}`), or accept a new golden"

    @property
    def origin(self) -> str:
        """Address of this store, for messages."""
        return str(self.root)

    def folder(self, runner: str, case: str, digest: str = "") -> Path:
        """Return the folder of a case, or of one of its goldens.

        Raises:
            GoldenError: ``runner`` or ``case`` cannot be a folder's name.
        """
        try:
            base = self.root / _NAME.validate_python(runner) / _NAME.validate_python(case)
        except ValidationError as error:
            raise GoldenError(f"{runner!r}/{case!r} cannot be a golden's name", place=self.origin) from error
        return base / digest[:SHORT] if digest else base

    def index_path(self, runner: str, case: str) -> Path:
        """Return the path of the file that lists the accepted goldens of a case."""
        return self.folder(runner, case) / INDEX_FILE

    def index(self, runner: str, case: str) -> AcceptedIndex:
        """Return the accepted goldens of a case; empty if it has none.

        Raises:
            GoldenError: the list is damaged or belongs to another case.
        """
        return read_index(self.index_path(runner, case), runner, case, remedy=self._remedy)

    def set_index(self, index: AcceptedIndex) -> None:
        """Write the list of goldens that a case accepts.

        Raises:
            GoldenError: a golden of the list is not in the store, or a link leads out of the store.
        """
        with self._locked():
            self._set_index(index)

    def find(self, runner: str, case: str) -> tuple[Golden, ...]:
        """Return the accepted goldens of a case, in the order of the list; empty if it has none.

        Raises:
            GoldenError: an accepted golden is missing, or its manifest was changed.
        """
        entries = self.index(runner, case).goldens
        return tuple(self.get(runner, case, entry.digest, reason=entry.reason) for entry in entries)

    def get(self, runner: str, case: str, digest: str, *, reason: str = "") -> Golden:
        """Return one golden by its digest (full, or at least its first 16 digits), accepted or not.

        Raises:
            GoldenError: the golden is missing, or its manifest was changed.
        """
        folder = self.folder(runner, case, digest)
        manifest = read_manifest(folder / MANIFEST_FILE, runner, case, digest, remedy=self._remedy)

        def fetch(part: Part, _again: bool) -> Path:
            require_inside(self.root, folder / part.path)
            return folder / part.path

        return Golden(
            manifest, manifest.digest(), reason or manifest.reason, str(folder), fetch=fetch, remedy=self._remedy
        )

    def cases(self) -> tuple[tuple[str, str], ...]:
        """Return every ``(runner, case)`` that has a folder, sorted."""
        folders = (path for path in self.root.glob("*/*") if path.is_dir() and not path.parent.name.startswith("."))
        return tuple(sorted((path.parent.name, path.name) for path in folders))

    def digests(self, runner: str, case: str) -> tuple[str, ...]:
        """Return the folder names (first 16 digits of the digest) of all goldens of a case, accepted or not, sorted."""
        return tuple(sorted(path.name for path in self.folder(runner, case).glob("*/") if path.is_dir()))

    def add(self, manifest: GoldenManifest, files: Mapping[str, Path]) -> Golden:
        """Add a golden to the store; it is not accepted yet. Adding the same golden again changes nothing.

        Args:
            manifest: the manifest, with sha256 and size of every part.
            files: path by part name, exactly the parts of the manifest. They are copied.

        Raises:
            GoldenError: a file differs from the manifest, or the golden under this digest is damaged.
        """
        with self._locked():
            return self._add(manifest, files)

    def install(self, manifest: GoldenManifest, files: Mapping[str, Path], index: AcceptedIndex) -> Golden:
        """Call :meth:`add` and :meth:`set_index` under one lock: no clean-up in between can remove the golden again.

        Raises:
            GoldenError: as for :meth:`add` and :meth:`set_index`.
        """
        with self._locked():
            golden = self._add(manifest, files)
            self._set_index(index)
        return golden

    def require_writable(self, runner: str, case: str) -> None:
        """Check that a golden of this case can be written: take the lock, and create a file where it would be.

        Raises:
            InfraError: it cannot be written; nothing was changed.
        """
        try:
            with self._locked():
                require_writable(self.index_path(runner, case))
        except OSError as error:
            raise disk_error(error, NOTHING_CHANGED) from error

    def remove(self, runner: str, case: str, digest: str) -> None:
        """Delete a golden that no list names.

        Raises:
            GoldenError: the golden is accepted.
        """
        with self._locked():
            if any(entry.startswith(digest[:SHORT]) for entry in self.index(runner, case).digests()):
                raise GoldenError(f"golden {digest[:SHORT]} is accepted", place=str(self.folder(runner, case)))
            target = self.folder(runner, case, digest)
            require_inside(self.root, target)
            stage = self._work() / uuid.uuid4().hex
            target.rename(stage)  # one rename before the slow deletion: a reader never sees half a golden
            shutil.rmtree(stage)
            if not any(target.parent.iterdir()):
                target.parent.rmdir()

    def _add(self, manifest: GoldenManifest, files: Mapping[str, Path]) -> Golden:
        digest = manifest.digest()
        target = self.folder(manifest.runner, manifest.case, digest)
        require_inside(self.root, target)
        if target.exists():
            return self._same(manifest, digest)
        stage = self._work() / uuid.uuid4().hex
        try:
            copy_parts(manifest.parts, files, stage)
            manifest.write(stage / MANIFEST_FILE)
            # The files must be on the disk before the rename publishes them, and the rename before a list names them.
            sync_folder(stage)
            target.parent.mkdir(parents=True, exist_ok=True)
            stage.rename(target)
            sync_folder(target.parent)
        finally:
            shutil.rmtree(stage, ignore_errors=True)
        return self.get(manifest.runner, manifest.case, digest)

    def _set_index(self, index: AcceptedIndex) -> None:
        require_inside(self.root, self.index_path(index.runner, index.case))
        for entry in index.goldens:
            self.get(index.runner, index.case, entry.digest)
        index.write(self.index_path(index.runner, index.case))

    def _same(self, manifest: GoldenManifest, digest: str) -> Golden:
        """Return the golden that exists under ``digest`` if it is undamaged; raise its first fault otherwise."""
        present = self.get(manifest.runner, manifest.case, digest)
        faults = present.verify()
        if faults:
            raise faults[0]
        return present

    def _work(self) -> Path:
        """Return a scratch folder on the store's file system (a rename must not cross two) that git ignores."""
        work = self.root / ".work"
        require_inside(self.root, work)  # its content is deleted, so it must not be a link to another folder
        work.mkdir(parents=True, exist_ok=True)
        ignore = work / ".gitignore"
        if not ignore.exists():
            ignore.write_text("*\n", encoding="utf-8")
        return work

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Hold the store's lock. Folders that are in the scratch folder then belong to a writer that died."""
        work = self._work()
        with FileLock(work / "lock"):
            for entry in work.iterdir():
                if entry.is_dir():
                    shutil.rmtree(entry, ignore_errors=True)
            yield
