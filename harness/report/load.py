"""Load the records of a run from disk as a `Run`. HTML, Markdown, JSON and terminal output all start from it."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from harness.errors import GoldenError, QuantgateError
from harness.goldens.store import GoldenStore, open_store
from harness.outcomes import Outcome
from harness.project import HERE, Project
from harness.reading import UnreadableError, reason
from harness.records.candidate import CANDIDATE_FILE, Candidate
from harness.records.case_record import CaseRecord
from harness.records.run_folder import RECORD_FILE
from harness.records.verdict import worst
from harness.report.redact import redact_record, redact_text
from harness.report.text import is_red, worst_first
from harness.text import one_line

# Errors of making a report.


class ReportError(QuantgateError):
    """A report cannot be made: there is no record, or no place to write it to."""


@dataclass(frozen=True)
class Entry:
    """One case of a run: its redacted record and its folder."""

    folder: Path
    record: CaseRecord
    slug: str
    """File name of its page, unique in the run."""
    candidate: Candidate | None = None
    """The golden that the run proposes, if it left one."""
    elsewhere: Mapping[str, Path] = field(default_factory=dict)
    """Artifacts that were found outside the folder, such as the golden of a pending candidate."""

    def artifact(self, *names: str) -> Path | None:
        """Return the first named artifact that exists; a path in the record never leads outside its folder."""
        for name in names:
            if name in self.elsewhere:
                return self.elsewhere[name]
            path = self.folder / self.record.artifacts.get(name, name)
            # a record is untrusted: its artifact paths and links must stay in its folder
            if path.is_file() and path.resolve().is_relative_to(self.folder.resolve()):
                return path
        return None


@dataclass(frozen=True)
class Unreadable:
    """A record that cannot be read. It never counts as green."""

    path: str
    why: str


@dataclass(frozen=True)
class Run:
    """All records under one folder, worst first."""

    folder: Path
    name: str
    entries: tuple[Entry, ...]
    unreadable: tuple[Unreadable, ...] = ()

    @property
    def red(self) -> tuple[Entry, ...]:
        """The cases that keep the run from being green, worst first."""
        return tuple(entry for entry in self.entries if is_red(entry.record))

    @property
    def green(self) -> bool:
        """Whether every record could be read and every case is green."""
        return not self.red and not self.unreadable

    @property
    def outcome(self) -> Outcome:
        """The worst outcome; ``not_run`` without any record. A damaged record counts as ``infra``."""
        outcomes = [entry.record.verdict.outcome for entry in self.entries]
        return worst([*outcomes, Outcome.INFRA] if self.unreadable else outcomes)


def load_run(folder: Path) -> Run:
    """Read every ``record.json`` under ``folder``: a run, one case of a run, or several joined shards.

    Raises:
        ReportError: the folder is absent, or holds no record.
    """
    if not folder.is_dir():
        raise ReportError("there is no such folder", place=str(folder), remedy="ls runs")
    paths = sorted(path for path in folder.rglob(RECORD_FILE) if not _hidden(path.relative_to(folder)))
    if not paths:
        raise ReportError(
            f"there is no {RECORD_FILE} in this folder or below it",
            place=str(folder),
            remedy="pytest cases",
        )
    entries: list[Entry] = []
    unreadable: list[Unreadable] = []
    taken: set[str] = set()
    for path in paths:
        try:
            record = redact_record(CaseRecord.read(path))
        except (OSError, UnreadableError) as error:
            unreadable.append(Unreadable(str(path.relative_to(folder)), redact_text(one_line(reason(error)))))
            continue
        slug = _slug(path.parent, folder, record.case)
        # lower case: two pages must not share a file on a file system that ignores case
        if slug.lower() in taken:
            slug = f"{slug}-{hashlib.sha256(str(path.relative_to(folder)).encode()).hexdigest()[:8]}"
        taken.add(slug.lower())
        entries.append(Entry(path.parent, record, slug, _candidate(path.parent, record)))
    entries.sort(key=lambda entry: worst_first(entry.record))
    names = {entry.record.run for entry in entries}
    # joined shards have several run ids: then the folder names the run
    return Run(folder, names.pop() if len(names) == 1 else folder.name, tuple(entries), tuple(unreadable))


def _candidate(folder: Path, record: CaseRecord) -> Candidate | None:
    """Return the candidate beside a record; ``None`` if unreadable or another case's: ``accept`` refuses those."""
    path = folder / CANDIDATE_FILE
    try:
        candidate = Candidate.read(path) if path.is_file() else None
    except (OSError, UnreadableError):
        return None
    return candidate if candidate and (candidate.case, candidate.runner) == (record.case, record.runner) else None


def _hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)


def _slug(folder: Path, root: Path, case: str) -> str:
    name = folder.name if folder != root else case
    return re.sub(r"[^A-Za-z0-9_-]", "_", name)[:100] or "case"


# Pending candidates as a run: the same pages, golden beside candidate, before a candidate is accepted.


_PARTS = {"clip": "golden", "trace": "golden_trace"}
"""Part of a golden to the name of the artifact that a page shows."""


def is_pending(folder: Path) -> bool:
    """Return whether a folder holds a project's pending candidates."""
    return folder.resolve().parts[-2:] == HERE.pending.parts


def load_pending(folder: Path) -> Run:
    """Load the candidates under ``<root>/.quantgate/pending``, each with the golden that it was judged against.

    A golden that lies only on a hub, and was never fetched, is left out: this function does not use the network.

    Raises:
        ReportError: no candidate is pending.
    """
    run = load_run(folder)
    store = open_store(Project(folder.resolve().parent.parent).goldens, offline=True)
    return replace(run, name="pending candidates", entries=tuple(_with_golden(entry, store) for entry in run.entries))


def _with_golden(entry: Entry, store: GoldenStore) -> Entry:
    record, candidate = entry.record, entry.candidate
    slug = f"{record.runner}-{entry.slug}"
    if candidate is None or candidate.golden is None:
        return replace(entry, slug=slug)
    paths: dict[str, Path] = {}
    try:
        golden = store.get(candidate.runner, candidate.case, candidate.golden)
        for part, name in _PARTS.items():
            if part in golden.manifest.parts:
                paths[name] = golden.open_part(part)
    except GoldenError:
        return replace(entry, slug=slug)
    return replace(entry, slug=slug, elsewhere=paths)
