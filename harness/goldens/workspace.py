"""Paths of the files that the review of a project changes, and their lock."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock
from pydantic import TypeAdapter, ValidationError

from harness.errors import GoldenError
from harness.inside import require_inside
from harness.project import Project
from harness.records.golden import SafeName

_NAME = TypeAdapter(SafeName)


@dataclass(frozen=True)
class Workspace:
    """The folders of a project.

    Attributes:
        root: the repository's root.
    """

    root: Path

    @property
    def goldens(self) -> Path:
        """The folder store, which also holds ``store.json``."""
        return Project(self.root).goldens

    @property
    def state(self) -> Path:
        """Folder that is never committed: pending candidates, unfinished transactions, the lock."""
        return Project(self.root).state

    @property
    def transactions(self) -> Path:
        """Folder with one folder per unfinished transaction."""
        return self.state / "transactions"

    @property
    def pending_root(self) -> Path:
        """Folder of all pending candidates."""
        return Project(self.root).pending

    def pending(self, runner: str, case: str) -> Path:
        """Return the folder of the pending candidate of a case.

        Raises:
            GoldenError: ``runner`` or ``case`` cannot be a folder's name.
        """
        return self.pending_root / self._named(runner) / self._named(case)

    def limits(self, runner: str, case: str) -> Path:
        """Return the path of the limits of a case: ``thresholds/<runner>/<case>.json``."""
        return Project(self.root).thresholds / self._named(runner) / f"{self._named(case)}.json"

    def _named(self, name: str) -> str:
        try:
            return _NAME.validate_python(name)
        except ValidationError as error:
            raise GoldenError(f"{name!r} cannot be a runner's or a case's name", place=str(self.root)) from error

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the lock of all files that the review changes: one accept, reject or recovery at a time.

        Raises:
            GoldenError: ``.quantgate`` or a folder in it is a link: a clean-up would delete other files behind it.
        """
        for folder in (self.transactions, self.pending_root, self.state / "leaving"):
            require_inside(self.root, folder)
        self.state.mkdir(parents=True, exist_ok=True)
        ignore = self.state / ".gitignore"
        # The folder ignores itself, so that git never lists it, whatever the project's .gitignore holds.
        if not ignore.exists():
            ignore.write_text("*\n", encoding="utf-8")
        with FileLock(self.state / "review.lock"):
            yield
