"""A checkpoint folder on this machine."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from harness.checkpoint.errors import BadReferenceError, SourceError
from harness.checkpoint.sources import FileInfo, Meter, Range, merge_ranges

MERGE_GAP = 4096
MAX_FILES = 100_000


class LocalSource:
    """Ranged reads from files below ``folder``; symbolic links (the hub's cache) are followed.

    Args:
        only: file names of ``folder`` that are the whole source; ``None``: everything below it.
    """

    is_local = True
    commit: str | None = None

    def __init__(self, folder: Path, meter: Meter, label: str = "", only: frozenset[str] | None = None) -> None:
        self.folder = folder
        self.label = label or str(folder)
        self._meter = meter
        self.files: dict[str, FileInfo] = {}
        if only is not None:
            self.files = {name: FileInfo(name, (folder / name).stat().st_size) for name in sorted(only)}
            return
        for parent, folders, names in os.walk(folder, followlinks=True):
            folders[:] = sorted(name for name in folders if not name.startswith("."))
            for name in sorted(names):
                full = Path(parent) / name
                relative = full.relative_to(folder).as_posix()
                if full.exists():
                    self.files[relative] = FileInfo(relative, full.stat().st_size)
                if len(self.files) > MAX_FILES:
                    raise BadReferenceError(f"more than {MAX_FILES} files", where=str(folder))

    def read(self, path: str, start: int, length: int) -> bytes:
        """Exactly ``length`` bytes from ``start``."""
        return self.read_ranges(path, [(start, length)])[0]

    def read_ranges(self, path: str, ranges: Sequence[Range]) -> list[bytes]:
        """Several ranges of one file, opened once."""
        found: list[bytes] = [b""] * len(ranges)
        try:
            with (self.folder / path).open("rb", buffering=0) as file:
                for start, length, members in merge_ranges(ranges, MERGE_GAP):
                    data = os.pread(file.fileno(), length, start)
                    while len(data) < length:
                        more = os.pread(file.fileno(), length - len(data), start + len(data))
                        if not more:
                            raise SourceError(
                                f"the file ends at byte {start + len(data)} and {start + length} were asked for",
                                where=str(self.folder / path),
                                remedy="is another process still writing it?",
                                kind="disk",
                            )
                        data += more
                    self._meter.count(length)
                    for index in members:
                        offset = ranges[index][0] - start
                        found[index] = data[offset : offset + ranges[index][1]]
        except OSError as error:
            raise SourceError(f"cannot read ({error})", where=str(self.folder / path), kind="disk") from error
        return found
