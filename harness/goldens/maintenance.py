"""Maintain a golden store: verify, delete unused goldens, copy between the folder and the hub."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence, Set
from dataclasses import dataclass
from pathlib import Path

from harness.errors import GoldenError
from harness.goldens.folder import SHORT, FolderStore
from harness.goldens.hub import Addition, HubStore
from harness.goldens.store import GoldenStore, RoutedStore
from harness.records.golden import INDEX_FILE, MANIFEST_FILE, AcceptedIndex

Select = Callable[[str, str], bool]
"""Returns whether a command applies to ``(runner, case)``."""


@dataclass(frozen=True)
class Stored:
    """One golden in a store."""

    runner: str
    case: str
    digest: str
    """First 16 digits, or ``accepted`` for the fault of a list."""
    accepted: bool
    faults: tuple[str, ...] = ()
    """Its faults, each a sentence that names the part."""

    @property
    def name(self) -> str:
        """Name for messages: ``runner/case/digest16``."""
        return f"{self.runner}/{self.case}/{self.digest}"


def everything(_runner: str, _case: str) -> bool:
    """Select every case."""
    return True


def verify(store: GoldenStore, select: Select = everything) -> tuple[Stored, ...]:
    """Check every byte of every golden, accepted or not, and that a folder holds nothing else.

    Damage is returned, not raised, so that all of it shows.

    Raises:
        InfraError: the store could not be reached.
    """
    return tuple(
        Stored(runner, case, digest, accepted, faults)
        for runner, case in store.cases()
        if select(runner, case)
        for digest, accepted, faults in _verify_case(store, runner, case)
    )


def _verify_case(store: GoldenStore, runner: str, case: str) -> Iterator[tuple[str, bool, tuple[str, ...]]]:
    try:
        accepted = {digest[:SHORT] for digest in store.index(runner, case).digests()}
    except GoldenError as error:
        yield "accepted", True, (str(error),)
        # Without its list, every golden of the case is still checked, as one that is not accepted.
        accepted = set()
    folder = store.route(runner) if isinstance(store, RoutedStore) else store
    if isinstance(folder, FolderStore) and (strange := _strangers(folder.folder(runner, case), {INDEX_FILE})):
        yield "accepted", True, strange
    for digest in sorted(accepted | set(store.digests(runner, case))):
        try:
            golden = store.get(runner, case, digest)
            faults = tuple(str(fault) for fault in golden.verify())
            if isinstance(folder, FolderStore):
                own_files = {MANIFEST_FILE, *(part.path for part in golden.manifest.parts.values())}
                faults += _strangers(folder.folder(runner, case, digest), own_files)
        except GoldenError as error:
            faults = (str(error),)
        yield digest, digest in accepted, faults


def _strangers(folder: Path, own_files: Set[str]) -> tuple[str, ...]:
    """Return a sentence per file of a golden's folder that nothing names: a proposal could bring anything in one.

    Hidden files are left out: editors, systems and git keep theirs there, and no proposal may hold one.
    """
    if not folder.is_dir():
        return ()
    return tuple(
        f"{path}: nothing names this file\n  next: git rm {path}"
        for path in sorted(folder.iterdir())
        if not path.name.startswith(".") and path.name not in own_files and not path.is_dir()
    )


def unused(store: GoldenStore, select: Select = everything) -> tuple[Stored, ...]:
    """Return the goldens that no list names.

    Raises:
        GoldenError: a list cannot be read, so that its goldens are unknown.
    """
    stored: list[Stored] = []
    for runner, case in store.cases():
        if select(runner, case):
            accepted = {digest[:SHORT] for digest in store.index(runner, case).digests()}
            stored += [
                Stored(runner, case, digest, False) for digest in store.digests(runner, case) if digest not in accepted
            ]
    return tuple(stored)


def collect_folder(store: FolderStore, listed: Sequence[Stored]) -> None:
    """Delete goldens that :func:`unused` listed; a golden that was accepted meanwhile is refused."""
    for item in listed:
        store.remove(item.runner, item.case, item.digest)


def collect_hub(store: HubStore, listed: Sequence[Stored]) -> str:
    """Delete goldens that :func:`unused` listed from the branch; return the new commit. Older pins still find them."""
    return store.delete([item.name for item in listed], message=f"Remove {len(listed)} goldens that no case accepts")


def push(source: FolderStore, target: HubStore, select: Select = everything, *, replace: bool = False) -> str:
    """Copy accepted goldens and their lists from the folder to the hub, as one commit.

    Returns:
        The commit to pin; the present pin if there was nothing to copy.

    Raises:
        GoldenError: a golden is damaged, or the hub accepts goldens that the folder does not (``replace`` drops them).
        InfraError: the upload failed.
    """
    additions: list[Addition] = []
    indexes: list[AcceptedIndex] = []
    for runner, case in source.cases():
        index = source.index(runner, case)
        if not index.goldens or not select(runner, case):
            continue
        accepted = target.index(runner, case)
        _no_loss(index, accepted, target.origin, replace)
        for golden in source.find(runner, case):
            if golden.digest not in accepted.digests():
                files = {name: golden.open_part(name) for name in golden.manifest.parts}
                additions.append(Addition(golden.manifest, files))
        if index != accepted:
            indexes.append(index)
    if not additions and not indexes:
        return target.revision
    return target.publish(additions, indexes, message=f"Push {len(additions)} goldens of {len(indexes)} cases")


def pull(source: HubStore, target: FolderStore, select: Select = everything, *, replace: bool = False) -> int:
    """Copy accepted goldens and their lists from the pinned commit into the folder. Return the number of new goldens.

    Raises:
        GoldenError: a golden is damaged, or the folder accepts goldens that the hub does not (``replace`` drops them).
        InfraError: a download failed; earlier downloads stay, and the next pull continues.
    """
    count = 0
    for runner, case in source.cases():
        index = source.index(runner, case)
        if not index.goldens or not select(runner, case):
            continue
        accepted = target.index(runner, case)
        _no_loss(index, accepted, target.origin, replace)
        for golden in source.find(runner, case):
            if golden.digest not in accepted.digests():
                target.add(golden.manifest, {name: golden.open_part(name) for name in golden.manifest.parts})
                count += 1
        # The list comes last: a store refuses a list that names a golden that it does not hold.
        if index != accepted:
            target.set_index(index)
    return count


def _no_loss(new: AcceptedIndex, old: AcceptedIndex, place: str, replace: bool) -> None:
    lost = [digest[:SHORT] for digest in old.digests() if digest not in new.digests()]
    if lost and not replace:
        raise GoldenError(
            f"{old.runner}/{old.case} accepts {lost} there, which the other side does not accept",
            place=place,
            remedy="add --replace to drop them from the list, or copy the other way first",
        )
