"""Read candidates from a downloaded CI artifact, as a folder or as the zip that CI made.

Nothing is unpacked by the names in the archive. ``candidate.json`` is read first; then exactly its parts are read, each
up to the size that it states, and written under names that quantgate chooses. So no entry can leave its folder, and no
archive can unpack into more bytes than its candidates state.
"""

from __future__ import annotations

import errno
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from harness.errors import GoldenError
from harness.goldens.pending import parse_candidate, part_files, read_candidate
from harness.records.candidate import CANDIDATE_FILE, Candidate
from harness.text import one_line

MAX_ENTRIES = 100_000
MAX_NAME = 1_000
"""Longest name of an entry in characters; zip allows 65,535, and an error shows the name."""
MAX_CANDIDATES = 5_000
"""Most ``candidate.json`` files of an archive: each is validated, and 100,000 broken ones would take minutes."""
MAX_MANIFEST_BYTES = 8 << 20
"""Most bytes of one ``candidate.json``, unpacked; the file of a case with 1,600 Linears is below 1 MiB."""
MAX_MANIFESTS_BYTES = 64 << 20
"""Most bytes of all ``candidate.json`` files: an archive of 2 MB can unpack into gigabytes."""
MAX_TOTAL_BYTES = 16 << 30
_CHUNK = 1 << 20
_AGAIN = "download the artifact again"
_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
DAMAGED = (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, ValueError, OSError)
"""Errors of zipfile on bad bytes, found by changing bytes at random: seeking to a wild offset is an OSError."""


@dataclass(frozen=True)
class LoadedCandidate:
    """One candidate in an artifact.

    Attributes:
        candidate: its content.
        files: path by part name, checked.
    """

    candidate: Candidate
    files: dict[str, Path]


def take(source: Path, case: str, runner: str, scratch: Path) -> LoadedCandidate:
    """Return the candidate of a case in an artifact.

    Args:
        source: a folder (searched at every depth) or a zip file.
        case: the case.
        runner: the runner, or ``""`` if the artifact holds the case of one runner only.
        scratch: an empty or absent folder for the parts of a zip.

    Raises:
        GoldenError: there is no such candidate, there are several, it was damaged or changed, or the archive is unsafe.
    """
    if source.is_dir():
        return _from_folder(source, case, runner)
    with _archive(source) as archive:
        return _from_zip(archive, source, case, runner, scratch)


def held_in(source: Path) -> tuple[tuple[str, str], ...]:
    """List runner and case of every candidate in an artifact, sorted, without damaged ones (:func:`take` names them).

    Raises:
        GoldenError: there is no such artifact, or the archive is damaged.
    """
    if source.is_dir():
        candidates, _ = _of_folder(source)
    else:
        with _archive(source) as archive:
            candidates, _ = _of_zip(archive, _entries(archive, source), source)
    return tuple(sorted({(candidate.runner, candidate.case) for candidate in candidates.values()}))


Candidates = tuple[dict[str, Candidate], list[GoldenError]]
"""Candidates by place, and the errors of those that cannot be read."""


def _of_folder(source: Path) -> Candidates:
    candidates: dict[str, Candidate] = {}
    faults: list[GoldenError] = []
    for folder in sorted(path.parent for path in source.rglob(CANDIDATE_FILE)):
        try:
            candidates[str(folder)] = read_candidate(folder)
        except GoldenError as error:
            faults.append(error)
    return candidates, faults


def _from_folder(source: Path, case: str, runner: str) -> LoadedCandidate:
    candidates, faults = _of_folder(source)
    place = _only_candidate(candidates, faults, case, runner, source)
    candidate = candidates[place]
    return LoadedCandidate(candidate, part_files(Path(place), candidate))


def _of_zip(archive: zipfile.ZipFile, entries: dict[str, zipfile.ZipInfo], source: Path) -> Candidates:
    candidates: dict[str, Candidate] = {}
    faults: list[GoldenError] = []
    remaining = MAX_MANIFESTS_BYTES
    names = sorted(name for name in entries if PurePosixPath(name).name == CANDIDATE_FILE)
    if len(names) > MAX_CANDIDATES:
        raise GoldenError(
            f"the archive has {len(names)} candidates, the bound is {MAX_CANDIDATES}",
            place=str(source),
            remedy="download the artifact of one run",
        )
    for name in names:
        try:
            data = _read_bounded(archive, entries[name], min(MAX_MANIFEST_BYTES, remaining), source)
            remaining -= len(data)
            candidates[str(PurePosixPath(name).parent)] = parse_candidate(data, f"{source}!{name}")
        except GoldenError as error:
            faults.append(error)
    return candidates, faults


def _from_zip(archive: zipfile.ZipFile, source: Path, case: str, runner: str, scratch: Path) -> LoadedCandidate:
    entries = _entries(archive, source)
    candidates, faults = _of_zip(archive, entries, source)
    place = _only_candidate(candidates, faults, case, runner, source)
    candidate = candidates[place]
    total = sum(part.bytes for part in candidate.parts.values())
    if total > MAX_TOTAL_BYTES:
        raise GoldenError(f"the parts would take {total} bytes, the bound is {MAX_TOTAL_BYTES}", place=str(source))
    scratch.mkdir(parents=True, exist_ok=True)
    for name, part in candidate.parts.items():
        entry = entries.get(str(PurePosixPath(place) / part.path))
        if entry is None:
            raise GoldenError(f"part {name!r} is missing", place=f"{source}!{place}/{part.path}", remedy=_AGAIN)
        _unpack(archive, entry, scratch / part.path, part.bytes)
    return LoadedCandidate(candidate, part_files(scratch, candidate))


def _entries(archive: zipfile.ZipFile, source: Path) -> dict[str, zipfile.ZipInfo]:
    infos = archive.infolist()
    if len(infos) > MAX_ENTRIES:
        raise GoldenError(f"the archive has {len(infos)} entries, the bound is {MAX_ENTRIES}", place=str(source))
    entries: dict[str, zipfile.ZipInfo] = {}
    for info in infos:
        # Backslashes count as separators too, so that no name escapes the checks below.
        if len(info.filename) > MAX_NAME:
            raise GoldenError(
                f"the name of an entry has {len(info.filename)} characters, the bound is {MAX_NAME}",
                place=str(source),
                remedy=_AGAIN,
            )
        path = PurePosixPath(info.filename.replace("\\", "/"))
        if not path.parts or "\0" in info.filename:
            raise GoldenError("an entry has no name", place=str(source), remedy=_AGAIN)
        if path.is_absolute() or ".." in path.parts or ":" in info.filename:
            raise GoldenError(f"entry {info.filename!r} leaves the archive's folder", place=str(source), remedy=_AGAIN)
        if str(path) in entries:
            raise GoldenError(f"entry {info.filename!r} is there twice", place=str(source), remedy=_AGAIN)
        if info.compress_type not in _METHODS:
            raise GoldenError(f"entry {info.filename!r} is packed in an unusual way", place=str(source), remedy=_AGAIN)
        if not info.is_dir():
            entries[str(path)] = info
    return entries


@contextmanager
def _archive(source: Path) -> Iterator[zipfile.ZipFile]:
    """Open a zip file; an error of its content in the block becomes a `GoldenError`.

    Raises:
        GoldenError: there is no such file, or it is damaged.
    """
    if not source.is_file():
        raise GoldenError("no such artifact", place=str(source), remedy=_AGAIN)
    try:
        with zipfile.ZipFile(source) as archive:
            yield archive
    except DAMAGED as error:
        if isinstance(error, OSError) and error.errno != errno.EINVAL:
            raise  # a fault of the disk, not of the archive
        raise GoldenError(f"the archive is damaged: {_damage(error)}", place=str(source), remedy=_AGAIN) from error


def _damage(error: Exception) -> str:
    """Return zipfile's message without the bytes of the archive that it quotes after a wrong name."""
    return one_line(str(error).partition(" and header ")[0], 160) or type(error).__name__


def _read_bounded(archive: zipfile.ZipFile, entry: zipfile.ZipInfo, bound: int, source: Path) -> bytes:
    with archive.open(entry) as stream:
        # One byte more than the bound shows that the entry is too long, whatever size the archive states.
        data = stream.read(bound + 1)
    if len(data) > bound:
        raise GoldenError(f"{entry.filename} is larger than {bound} bytes", place=str(source), remedy=_AGAIN)
    return data


def _unpack(archive: zipfile.ZipFile, entry: zipfile.ZipInfo, target: Path, size: int) -> None:
    """Write at most one byte more than ``size``: enough for the later check to detect that the part is too long."""
    remaining = size + 1
    with archive.open(entry) as stream, target.open("wb") as out:
        while remaining > 0 and (block := stream.read(min(_CHUNK, remaining))):
            out.write(block)
            remaining -= len(block)


def _only_candidate(
    candidates: dict[str, Candidate], faults: Sequence[GoldenError], case: str, runner: str, source: Path
) -> str:
    """Return the place of the requested candidate. A damaged one is an error only if no sound one matches."""
    matching = [
        place for place, candidate in candidates.items() if candidate.case == case and runner in ("", candidate.runner)
    ]
    if len(matching) == 1:
        return matching[0]
    names = ", ".join(sorted(f"{candidate.runner}/{candidate.case}" for candidate in candidates.values())) or "none"
    label = f"{runner}/{case}" if runner else case
    if not matching and faults:
        raise faults[0]
    if not matching:
        raise GoldenError(
            f"the artifact holds no candidate of {label} (it holds: {names})",
            place=str(source),
            remedy="name the artifact of the run that tested this case on this runner",
        )
    if len({candidates[place].seal for place in matching}) == 1:
        return matching[0]  # the same candidate twice: in the run's folder and in the pending folder
    raise GoldenError(
        f"the artifact holds {len(matching)} candidates of {label}: {', '.join(matching)}",
        place=str(source),
        remedy="name one with --runner, or name its folder with --from",
    )
