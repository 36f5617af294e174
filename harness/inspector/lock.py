"""Lock the identity of every case's checkpoints and pictures in one committed file: no change goes without a diff."""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from harness.definitions.case import UNRESOLVED, Case, CheckpointRef
from harness.errors import InvalidCaseError
from harness.formats.errors import BadReferenceError, SourceError
from harness.inspector.assemble import assemble
from harness.inspector.content import components_of, contents_of
from harness.inspector.identity import DigestCache, component_digests
from harness.inspector.sources import LocalSource, Meter
from harness.reading import UnreadableError
from harness.records.inspection import CheckpointLock, LockedCheckpoint

LOCK_NAME = "checkpoints.lock.json"
NEXT = "quantgate lock"


@dataclass(frozen=True)
class LockDifference:
    """One difference between a case and its lock."""

    case: str
    role: str
    sentence: str

    def __str__(self) -> str:
        return f"{self.case}: {self.role}: {self.sentence}"


def identify(
    ref: CheckpointRef, root: Path | None, cache: DigestCache, locked: LockedCheckpoint | None = None
) -> LockedCheckpoint:
    """Return the identity of one reference: digests of its files and, for a local folder, of its contents.

    Args:
        ref: the checkpoint.
        root: the repository's root.
        cache: cache of digests by file stamp.
        locked: the checkpoint's entry in a lock: if the file digests are equal, its contents are taken, not read again.

    Raises:
        BadReferenceError, SourceError: the checkpoint contains no transformer, or a file cannot be read.
    """
    with ThreadPoolExecutor(8) as pool:
        subject = assemble(ref, Meter(), pool, root=root)
    digests = component_digests(subject.experts.values(), cache)
    contents: dict[str, str] = {}
    if locked is not None and locked.digests == digests:
        contents = locked.contents
    source = subject.sources["model"]
    if not contents and isinstance(source, LocalSource):
        experts = [item for item in components_of({"model": source.folder}) if item.name in subject.experts]
        contents = contents_of(experts, cache).digests()
    return LockedCheckpoint(source=subject.reference, digests=digests, contents=contents)


def make_lock(
    cases: Iterable[Case], root: Path | None = None, lock: CheckpointLock | None = None
) -> tuple[CheckpointLock, list[str]]:
    """Return the identities of all checkpoints and pictures of all cases.

    Args:
        cases: the cases.
        root: the repository's root.
        lock: the present lock, see :func:`identify`.

    Returns:
        The lock, and a sentence for each reference that could not be locked (unresolved, or its folder not made yet).
    """
    cache, identified, unlocked = DigestCache(), dict[str, LockedCheckpoint](), list[str]()
    locked: dict[str, dict[str, LockedCheckpoint]] = {}
    for case in sorted(cases, key=lambda item: item.id):
        for role, ref in case.checkpoints().items():
            key = f"{ref.path}@{ref.revision}"
            if ref.revision == UNRESOLVED:
                unlocked.append(f"{case.id}: {role}: {ref.path} has no resolved revision")
                continue
            if key not in identified:
                try:
                    before = lock.cases.get(case.id, {}).get(role) if lock is not None else None
                    identified[key] = identify(ref, root, cache, before)
                except BadReferenceError as error:
                    unlocked.append(f"{case.id}: {role}: {error.message} ({error.place})")
                    continue
                except SourceError as error:
                    if lock is None or ref.is_local:  # a check goes on: a commit names its bytes, reachable or not
                        raise
                    unlocked.append(f"{case.id}: {role}: {ref.path} could not be asked ({error.message})")
                    continue
            locked.setdefault(case.id, {})[role] = identified[key]
        for field, image in case.sampling.images().items():
            if image.sha256 is None:
                unlocked.append(f"{case.id}: sampling.{field}: {image.name} could not be read")
                continue
            source = image.path if image.is_local else f"{image.path}@{image.revision}"
            entry = LockedCheckpoint(source=source, digests={image.file or image.path: image.sha256})
            locked.setdefault(case.id, {})[f"sampling.{field}"] = entry
    return CheckpointLock(cases=locked), unlocked


def read_lock(path: Path) -> CheckpointLock:
    """Read a lock file.

    Raises:
        InvalidCaseError: the file is absent, or not a lock.
    """
    if not path.is_file():
        raise InvalidCaseError("there is no lock of the cases' checkpoints", place=str(path), remedy=NEXT)
    try:
        return CheckpointLock.read(path)
    except UnreadableError as error:
        raise InvalidCaseError(f"not a checkpoint lock: {error.message}", place=error.place, remedy=NEXT) from error


def differences(lock: CheckpointLock, current: CheckpointLock, cases: Iterable[Case]) -> list[LockDifference]:
    """Return the differences between the present cases and the committed lock; CI fails on any.

    If a reference cannot be identified here (unresolved revision, a folder not made yet), only its presence and a hub
    repository's name are compared, so that a machine without the generated folders can still check the rest.
    """
    problems: list[LockDifference] = []
    by_id = {case.id: case for case in cases}
    gone = sorted(set(lock.cases) - set(by_id))
    problems += [LockDifference(name, "-", "is in the lock and there is no such case") for name in gone]
    for name, case in sorted(by_id.items()):
        locked_roles, now = lock.cases.get(name, {}), current.cases.get(name, {})
        images = {f"sampling.{field}" for field in case.sampling.images()}
        for role in sorted(set(locked_roles) - set(case.checkpoints()) - images):
            kind = "picture" if role.startswith("sampling.") else "checkpoint"
            problems.append(LockDifference(name, role, f"is in the lock and the case names no such {kind}"))
        for role, present in sorted(now.items()):
            problems += _compare(name, role, locked_roles.get(role), present)
        for role, ref in case.checkpoints().items():
            if (
                role in locked_roles
                and role not in now
                and not ref.is_local
                and not locked_roles[role].source.startswith(ref.path)
            ):
                problems.append(
                    LockDifference(name, role, f"names {ref.path} and the lock {locked_roles[role].source}")
                )
    return problems


def _compare(case: str, role: str, locked: LockedCheckpoint | None, now: LockedCheckpoint) -> list[LockDifference]:
    if locked is None:
        return [LockDifference(case, role, f"{now.source} is not locked")]
    if locked.source != now.source:
        return [LockDifference(case, role, f"is {now.source} and the lock says {locked.source}")]
    return [
        LockDifference(case, role, f"{path} has another digest than the lock (or is new, or gone)")
        for path in sorted({*locked.digests, *now.digests})
        if locked.digests.get(path) != now.digests.get(path) and not _holds_the_same(path, locked, now)
    ]


def _holds_the_same(path: str, locked: LockedCheckpoint, now: LockedCheckpoint) -> bool:
    """Return whether the file's expert has the same content: then it was only resharded, reordered or reformatted."""
    expert = path.partition("/")[0]
    return expert in locked.contents and locked.contents[expert] == now.contents.get(expert)
