"""Add the contents of the weights to goldens of an older version, without a run: ``quantgate goldens carry``.

An older golden names its weights by the sha256 of each file, so a resharded or reformatted copy looks like another
checkpoint. If the files that it names are on this machine, the golden was made from their contents: they are read once,
and golden, list and limits are written again under the golden's new name. Every part that a run made (frames, trace,
probes) keeps its bytes, and nothing is measured again.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from harness.definitions.case import Case, Located
from harness.engine.resolve import resolve_case
from harness.errors import QuantgateError
from harness.goldens.folder import SHORT, FolderStore
from harness.goldens.golden import Golden, describe
from harness.goldens.journal import committing
from harness.goldens.maintenance import Select, everything
from harness.goldens.workspace import Workspace
from harness.inspector.content import components_of, contents_of, file_digests
from harness.inspector.identity import DigestCache
from harness.project import Project
from harness.reading import read_text
from harness.records.base import Json
from harness.records.contents import CONTENTS, CONTENTS_FILE, WeightContents
from harness.records.golden import Accepted, AcceptedIndex, GoldenManifest, Part
from harness.records.identity import FILE, Identity, files_of, is_file
from harness.records.limits import LimitFile


@dataclass
class Carried:
    """Result of one command.

    Attributes:
        goldens: ``runner/case/old -> new`` per golden that was carried over.
        skipped: a sentence per golden that was not carried over, with the reason.
        changed: files and folders to commit, relative to the repository's root.
    """

    goldens: list[str] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)
    changed: list[Path] = field(default_factory=list)


def carry(workspace: Workspace, cases: Iterable[Located], select: Select = everything) -> Carried:
    """Carry over every accepted golden in the folder store that names files.

    Args:
        workspace: the project.
        cases: all cases of the case files.
        select: returns whether a runner and case are wanted.

    Raises:
        GoldenError: a list or a golden is damaged.
        InfraError: a file cannot be written. Goldens carried over before stay, and the next call continues.
    """
    store, carried = FolderStore(workspace.goldens), Carried()
    cases_by_id = {located.case.id: located.case for located in cases}
    reader = _Reader(workspace.root)
    for runner, name in store.cases():
        if not select(runner, name) or not any(_is_old(golden) for golden in store.find(runner, name)):
            continue
        case = cases_by_id.get(name)
        if case is None:
            carried.skipped.append(f"{runner}/{name}: no case file has this case")
            continue
        _carry_case(workspace, store, runner, case, reader, carried)
    return carried


def _is_old(golden: Golden) -> bool:
    return any(is_file(name) for name in golden.manifest.identity.weights)


def _carry_case(
    workspace: Workspace, store: FolderStore, runner: str, case: Case, reader: _Reader, carried: Carried
) -> None:
    index = store.index(runner, case.id)
    entries: list[Accepted] = []
    renamed: dict[str, str] = {}
    for entry, golden in zip(index.goldens, store.find(runner, case.id), strict=True):
        manifest = _carried(golden, case, reader, carried) if _is_old(golden) else None
        if manifest is None:
            entries.append(entry)
            continue
        files = {name: golden.open_part(name) for name in golden.manifest.parts}
        new = store.add(manifest, {**files, CONTENTS: reader.file(case)})
        renamed |= {golden.digest: new.digest, golden.manifest.identity.digest(): manifest.identity.digest()}
        entries.append(entry.model_copy(update={"digest": new.digest}))
        carried.goldens.append(f"{runner}/{case.id}/{golden.digest[:SHORT]} -> {new.digest[:SHORT]}")
        carried.changed += [store.folder(runner, case.id, golden.digest), store.folder(runner, case.id, new.digest)]
    if renamed:
        carried.changed += replace_goldens(workspace, store, index, entries, renamed)


def replace_goldens(
    workspace: Workspace,
    store: FolderStore,
    index: AcceptedIndex,
    entries: Iterable[Accepted],
    renamed: Mapping[str, str],
) -> list[Path]:
    """Put goldens that the store holds already in the place of others of the same frames: list and limits together.

    Args:
        workspace: the project.
        store: holds the old and the new goldens of the case.
        index: the case's present list.
        entries: its new list.
        renamed: new digest by old digest, of goldens and, if they changed, of identities.

    Returns:
        The files that were written. The old goldens are removed.
    """
    limits, listed = workspace.limits(index.runner, index.case), store.index_path(index.runner, index.case)
    written = [listed]
    with committing(workspace, f"replace goldens of {index.runner}/{index.case}") as transaction:
        transaction.write(listed, index.model_copy(update={"goldens": tuple(entries)}).to_json().encode())
        if limits.exists():
            transaction.write(limits, _renamed(read_text(limits), renamed).encode())
            written.append(limits)
    for digest in index.digests():
        if digest in renamed:
            store.remove(index.runner, index.case, digest)
    return written


def _renamed(text: str, renamed: Mapping[str, str]) -> str:
    """The text of a limit file with other digests. A seal that fitted fits again; one that was broken stays broken."""
    was_sealed = LimitFile.parse(text, "limits").is_sealed
    for old, new in renamed.items():
        text = text.replace(old, new)
    limits = LimitFile.parse(text, "limits")
    return limits.to_json() if was_sealed else text


def _carried(golden: Golden, case: Case, reader: _Reader, carried: Carried) -> GoldenManifest | None:
    """The manifest of a golden with contents, or ``None`` with a sentence why it stays as it is."""
    name = f"{golden.manifest.runner}/{golden.manifest.case}/{golden.digest[:SHORT]}"
    old = golden.manifest.identity
    try:
        files = reader.files(case)
        golden_files = {file: digest for group in files_of(old).values() for file, digest in group.items()}
        odd = sorted(file for file in golden_files.keys() | files.keys() if golden_files.get(file) != files.get(file))
        if odd:
            carried.skipped.append(f"{name}: not made from the files that are here ({', '.join(odd[:3])})")
            return None
        contents = reader.contents(case)
    except QuantgateError as error:
        carried.skipped.append(f"{name}: {error.what}")
        return None
    rest = {field: value for field, value in old.weights.items() if not is_file(field)}
    weights: dict[str, Json] = {**contents.digests(), **rest}
    subject: dict[str, Json] = {
        **old.subject,
        **{f"{FILE}{file}": digest for file, digest in sorted(golden_files.items())},
    }
    identity: Identity = old.model_copy(update={"weights": weights, "subject": subject})
    part: Part = describe(reader.file(case), "application/json", CONTENTS_FILE)
    fields = golden.manifest.model_dump()
    fields |= {"identity": identity, "parts": {**golden.manifest.parts, CONTENTS: part}, "previous": golden.digest}
    return GoldenManifest.model_validate(fields)


class _Reader:
    """Digests and contents of the checkpoints of cases; cases that share a checkpoint read it once."""

    def __init__(self, root: Path) -> None:
        self._root, self._cache = root, DigestCache()
        self._files: dict[str, dict[str, str]] = {}
        self._contents: dict[str, WeightContents] = {}

    def files(self, case: Case) -> dict[str, str]:
        paths = resolve_case(case, self._root)
        key = repr(sorted(paths.items()))
        if key not in self._files:
            self._files[key] = file_digests(paths, self._cache)
        return self._files[key]

    def contents(self, case: Case) -> WeightContents:
        paths = resolve_case(case, self._root)
        key = repr(sorted(paths.items()))
        if key not in self._contents:
            self._contents[key] = contents_of(components_of(paths), self._cache)
        return self._contents[key]

    def file(self, case: Case) -> Path:
        """Write the contents to a file that can be copied into a golden, and return its path."""
        return self.contents(case).write(Project(self._root).state / "carry" / CONTENTS_FILE)
