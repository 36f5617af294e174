"""Hand a request's pictures to the engine: copy them beside its log under their sha256, and read them from there.

One engine serves cases with different pictures, so a picture is not part of the engine's load. The checked copy is
used, so that a later change of the original file has no effect.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from harness.definitions.image import PictureError, decode, digest, read_picture
from harness.errors import InvalidCaseError
from harness.records.base import write_bytes_atomic

if TYPE_CHECKING:
    from PIL.Image import Image

    from harness.definitions.case import Case

ROLES = ("image", "last_image")
FOLDER = "pictures"
"""Name of the folder below the engine's working folder."""


def split(paths: Mapping[str, Path]) -> tuple[dict[str, Path], dict[str, Path]]:
    """Split paths by role into checkpoint folders and picture files."""
    pictures = {role: Path(path) for role, path in paths.items() if role in ROLES}
    return {role: Path(path) for role, path in paths.items() if role not in ROLES}, pictures


def hand_over(case: Case, pictures: Mapping[str, Path], workdir: Path) -> None:
    """Copy the pictures of ``case`` to the place where its engine reads them.

    Args:
        case: the resolved case.
        pictures: file by role.
        workdir: the engine's working folder.

    Raises:
        InvalidCaseError: a file cannot be read, or changed since the case was loaded.
    """
    for role, image in case.sampling.images().items():
        if role not in pictures:
            continue
        data = _read(pictures[role], image.name, case.id)
        if image.sha256 != digest(data):
            raise InvalidCaseError(
                f"sampling.{role}: {image.name} has sha256 {digest(data)}, and the case says {image.sha256}",
                place=case.id,
                remedy="restore the picture, or run again with the new one",
            )
        target = workdir / FOLDER / image.sha256
        if not target.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            write_bytes_atomic(target, data)


def place_of(case: Case, role: str, pictures: Mapping[str, Path], workdir: Path | None = None) -> Path | None:
    """Return the file of one picture: the copy in the engine's working folder, else the file that its load was given.
    ``None`` if there is neither, or if the case has no such picture.
    """
    image = case.sampling.images().get(role)
    if image is None:
        return None
    copy = (workdir or Path.cwd()) / FOLDER / str(image.sha256)
    return copy if copy.is_file() else pictures.get(role)


def pictures_of(case: Case, pictures: Mapping[str, Path], workdir: Path | None = None) -> dict[str, Image]:
    """Return the decoded pictures of ``case`` by role, RGB, in the size of the video.

    Args:
        case: the resolved case.
        pictures: file by role, for an engine without a working folder of its own.
        workdir: the engine's working folder; by default the current one.

    Raises:
        InvalidCaseError: a picture is missing, has another sha256 than the case states, or cannot be decoded.
    """
    images: dict[str, Image] = {}
    for role, image in case.sampling.images().items():
        path = place_of(case, role, pictures, workdir)
        if path is None:
            raise InvalidCaseError(f"sampling.{role}: {image.name} was not handed to the engine", place=case.id)
        data = _read(path, image.name, case.id)
        if image.sha256 not in (None, digest(data)):
            raise InvalidCaseError(
                f"sampling.{role}: {image.name} has sha256 {digest(data)}, and the case says {image.sha256}",
                place=case.id,
                remedy="restore the picture, or state its new sha256",
            )
        try:
            images[role] = decode(data, case.sampling.width, case.sampling.height)
        except PictureError as error:
            raise InvalidCaseError(
                f"sampling.{role}: {image.name} {error}", place=case.id, remedy="replace the picture in the case"
            ) from error
    return images


def _read(path: Path, name: str, place: str) -> bytes:
    try:
        return read_picture(path)
    except PictureError as error:
        raise InvalidCaseError(f"{name} {error}", place=place, remedy="correct the path, or restore it") from error
