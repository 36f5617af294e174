"""Give a runtime a view of a checkpoint in which it can change nothing: links to the weights, copies of the settings.

SGLang writes into the checkpoint that it loads: every version from 0.5.12 to 0.5.23 rewrites ``config.json`` of a
transformer with a flat ModelOpt declaration, to add ``quant_type`` (``prepare_diffusers_component_path_for_loading``).
The record of a run must describe the files as they were given, and the next run must load the same files.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path

from harness.engine.pictures import split
from harness.errors import InfraError
from harness.records.temporary import temporary_folder

COPIED = (".json", ".txt", ".model", ".jinja")
"""Endings of the small files that are copied. Everything else is weights or documentation, and is linked."""
LARGEST_COPY = 64 << 20
KEPT_NAMES = 3
"""Last parts of a folder's path that the view keeps: a runtime may recognise ``models--owner--name/snapshots/commit``,
and any other folder by its name."""


class CheckpointView:
    """A temporary copy of a checkpoint's folders, without its weights. ``close`` removes it."""

    def __init__(self) -> None:
        self._place: Path | None = None

    def open(self, paths: Mapping[str, Path]) -> dict[str, Path]:
        """Make the view and return its folders by role. A path that is a file, and pictures, stay as they are.

        Args:
            paths: checkpoint folder, picture or file by role.

        Raises:
            InfraError: kind ``disk``: the view cannot be written.
        """
        self.close()
        folders, pictures = split(paths)
        try:
            self._place = temporary_folder(Path(tempfile.gettempdir()), "quantgate-view-")
            made: dict[Path, Path] = {}
            for number, source in enumerate(sorted({path.absolute() for path in folders.values() if path.is_dir()})):
                target = self._place.joinpath(str(number), *source.parts[1:][-KEPT_NAMES:])
                _copy(source, target, frozenset())
                made[source] = target
        except OSError as error:
            raise InfraError(
                f"the view of the checkpoint cannot be written: {error}",
                remedy="make room in the folder that TMPDIR names",
                kind="disk",
            ) from error
        return {**{role: made.get(path.absolute(), path) for role, path in folders.items()}, **pictures}

    def close(self) -> None:
        """Remove the view. The checkpoint's own files are only linked, and stay."""
        place, self._place = self._place, None
        if place is not None:
            shutil.rmtree(place, ignore_errors=True)


def _copy(source: Path, target: Path, above: frozenset[tuple[int, int]]) -> None:
    state = source.stat()
    key = (state.st_dev, state.st_ino)
    if key in above:  # a link to a folder above itself
        return
    target.mkdir(parents=True)
    for entry in os.scandir(source):
        path = Path(entry.path)
        if entry.is_dir():
            _copy(path, target / entry.name, above | {key})
        elif not path.exists():  # a dangling link counts as absent
            continue
        elif entry.name.endswith(COPIED) and entry.stat().st_size <= LARGEST_COPY:
            # the content alone: a read-only original must not make a copy that the view cannot remove
            shutil.copyfile(path, target / entry.name)
        else:
            (target / entry.name).symlink_to(path.resolve())
