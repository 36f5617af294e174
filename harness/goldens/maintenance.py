"""Care of a golden store: verify, collect garbage, move between the folder and the hub."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from harness.errors import GoldenError
from harness.goldens.folder import SHORT, FolderStore
from harness.goldens.hub import Addition, HubStore
from harness.goldens.store import GoldenStore
from harness.records.golden import AcceptedIndex

Select = Callable[[str, str], bool]
"""Which ``(runner, case)`` a command is about."""


@dataclass(frozen=True)
class Stored:
    """One golden as it lies in a store."""

    runner: str
    case: str
    digest: str
    """First 16 digits."""
    accepted: bool
    faults: tuple[str, ...] = ()
    """What is wrong with it, each as a sentence that names the part."""

    @property
    def name(self) -> str:
        """``runner/case/digest16``."""
        return f"{self.runner}/{self.case}/{self.digest}"


def everything(_runner: str, _case: str) -> bool:
    """Select every case."""
    return True


def verify(store: GoldenStore, select: Select = everything) -> tuple[Stored, ...]:
    """Check every byte of every golden, accepted or not. Damage is reported, not raised, so that all of it shows.

    Raises:
        InfraError: the store could not be asked.
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
        accepted = set()
    for digest in sorted(accepted | set(store.digests(runner, case))):
        try:
            faults = tuple(str(fault) for fault in store.get(runner, case, digest).verify())
        except GoldenError as error:
            faults = (str(error),)
        yield digest, digest in accepted, faults


def unused(store: GoldenStore, select: Select = everything) -> tuple[Stored, ...]:
    """Goldens that no list refers to.

    Raises:
        GoldenError: a list cannot be read, so that nobody knows what it refers to.
    """
    found: list[Stored] = []
    for runner, case in store.cases():
        if select(runner, case):
            accepted = {digest[:SHORT] for digest in store.index(runner, case).digests()}
            found += [
                Stored(runner, case, digest, False) for digest in store.digests(runner, case) if digest not in accepted
            ]
    return tuple(found)


def collect_folder(store: FolderStore, listed: Sequence[Stored]) -> None:
    """Delete goldens that :func:`unused` listed; one that was accepted since then is refused."""
    for item in listed:
        store.remove(item.runner, item.case, item.digest)


def collect_hub(store: HubStore, listed: Sequence[Stored]) -> str:
    """Delete goldens that :func:`unused` listed from the branch; returns the new commit. Older pins still find them."""
    return store.delete([item.name for item in listed], message=f"Remove {len(listed)} goldens that no case accepts")


def push(source: FolderStore, target: HubStore, select: Select = everything, *, replace: bool = False) -> str:
    """Copy accepted goldens and their lists from the folder to the hub, as one commit.

    Returns:
        The commit to pin; the one that is pinned already where there was nothing to copy.

    Raises:
        GoldenError: a golden is damaged, or the hub accepts goldens that the folder does not (``replace`` drops them).
        InfraError: the upload did not go through.
    """
    additions: list[Addition] = []
    indexes: list[AcceptedIndex] = []
    for runner, case in source.cases():
        index = source.index(runner, case)
        if not index.goldens or not select(runner, case):
            continue
        known = target.index(runner, case)
        _no_loss(index, known, target.origin, replace)
        for golden in source.find(runner, case):
            if golden.digest not in known.digests():
                files = {name: golden.open_part(name) for name in golden.manifest.parts}
                additions.append(Addition(golden.manifest, files))
        if index != known:
            indexes.append(index)
    if not additions and not indexes:
        return target.revision
    return target.publish(additions, indexes, message=f"Push {len(additions)} goldens of {len(indexes)} cases")


def pull(source: HubStore, target: FolderStore, select: Select = everything, *, replace: bool = False) -> int:
    """Copy accepted goldens and their lists from the pinned commit into the folder. Returns how many goldens came.

    Raises:
        GoldenError: a golden is damaged, or the folder accepts goldens that the hub does not (``replace`` drops them).
        InfraError: a download failed; what came before it stays, and the next pull goes on.
    """
    count = 0
    for runner, case in source.cases():
        index = source.index(runner, case)
        if not index.goldens or not select(runner, case):
            continue
        known = target.index(runner, case)
        _no_loss(index, known, target.origin, replace)
        for golden in source.find(runner, case):
            if golden.digest not in known.digests():
                target.add(golden.manifest, {name: golden.open_part(name) for name in golden.manifest.parts})
                count += 1
        if index != known:
            target.set_index(index)
    return count


def _no_loss(new: AcceptedIndex, old: AcceptedIndex, where: str, replace: bool) -> None:
    lost = [digest[:SHORT] for digest in old.digests() if digest not in new.digests()]
    if lost and not replace:
        raise GoldenError(
            f"{old.runner}/{old.case} accepts {lost} there, which the other side does not accept",
            where=where,
            remedy="add --replace to drop them from the list, or copy the other way first",
        )
