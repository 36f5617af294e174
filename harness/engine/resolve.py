"""Find or download the folders of checkpoints. The only place at which a run may use the network."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from harness.definitions.case import UNRESOLVED, Case, CheckpointRef, ImageRef
from harness.definitions.validation import near_folder
from harness.errors import InfraError, InvalidCaseError
from harness.project import local_folder

ENGINE_ROLES = ("model", "transformer", "transformer_2")


def resolve_checkpoint(reference: CheckpointRef, root: Path, *, place: str = "") -> Path:
    """Return the folder of one checkpoint; download it at its pinned commit if it is on the hub and not cached.

    Args:
        reference: the case's reference to the checkpoint.
        root: the repository's root: ``./`` paths are relative to it.
        place: shown in errors.

    Raises:
        InvalidCaseError: the folder is absent, or the revision is not a commit yet.
        InfraError: kind ``download``: the hub cannot be reached.
    """
    if reference.is_local:
        folder = local_folder(reference.path, root)
        if not folder.is_dir():
            near = near_folder(folder)
            hint = f"; did you mean {_shown(near, root)}?" if near is not None else ""
            raise InvalidCaseError(
                f"there is no folder {_shown(folder, root)}{hint}",
                place=place,
                remedy=reference.made_by or "correct the path in the case, or make the folder",
            )
        return folder
    if reference.revision is None or reference.revision == UNRESOLVED:
        raise InvalidCaseError(
            f"{reference.path} has no commit to run at",
            place=place,
            remedy=f"quantgate resolve {place}".rstrip(),
        )
    from huggingface_hub import snapshot_download

    return _fetched(snapshot_download, (reference.path,), reference.revision, reference.path, place)


def resolve_image(image: ImageRef, root: Path, *, place: str = "") -> Path:
    """Return the file of one picture; download it at its pinned commit if it is on the hub and not cached.

    Args:
        image: the picture.
        root: the repository's root: ``./`` paths are relative to it.
        place: shown in errors.

    Raises:
        InvalidCaseError: the file is absent, or the revision is not a commit yet.
        InfraError: kind ``download``: the hub cannot be reached.
    """
    if image.is_local:
        file = (root / image.path).resolve()
        if not file.is_file():
            raise InvalidCaseError(f"there is no picture {image.path}", place=place, remedy="correct the path")
        return file
    if image.revision in (None, UNRESOLVED) or image.file is None:
        raise InvalidCaseError(
            f"{image.name} has no commit to take it at", place=place, remedy=f"quantgate resolve {place}".rstrip()
        )
    from huggingface_hub import hf_hub_download

    return _fetched(hf_hub_download, (image.path, image.file), str(image.revision), image.name, place)


def _shown(folder: Path, root: Path) -> str:
    top = root.resolve()
    return f"./{folder.relative_to(top).as_posix()}" if folder.is_relative_to(top) else str(folder)


def hub_is_offline() -> bool:
    """Return whether the environment forbids the hub, by huggingface_hub's rule for ``HF_HUB_OFFLINE``."""
    return os.environ.get("HF_HUB_OFFLINE", "").upper() in {"1", "ON", "YES", "TRUE"}


def resolve_cached(reference: CheckpointRef) -> Path:
    """Return the folder of a hub checkpoint in the local cache, without a request to the hub.

    Raises:
        FileNotFoundError: the checkpoint is not in the cache, or not complete.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        return Path(snapshot_download(reference.path, revision=reference.revision, local_files_only=True))
    except LocalEntryNotFoundError as error:
        raise FileNotFoundError(reference.path) from error


def resolve_case(case: Case, root: Path) -> dict[str, Path]:
    """Return all paths that the engine of ``case`` gets, by role.

    These are the folders of the checkpoints that it loads (without the ``base`` anchor), and the files of the
    request's pictures: ``image``, ``last_image``.
    """
    pictures = {field: resolve_image(image, root, place=case.id) for field, image in case.sampling.images().items()}
    return pictures | {
        role: resolve_checkpoint(reference, root, place=case.id)
        for role, reference in case.checkpoints().items()
        if role in ENGINE_ROLES
    }


def _fetched(download: Callable[..., str], of: tuple[str, ...], revision: str, name: str, place: str) -> Path:
    """Return what a function of the hub client downloads at a commit; offline, what is cached.

    Args:
        download: ``snapshot_download`` or ``hf_hub_download``.
        of: its positional arguments: the repository, and the file.
        revision: the commit.
        name: of the checkpoint or picture, for the error.
        place: shown in the error.

    Raises:
        InfraError: kind ``download``.
    """
    try:
        return Path(download(*of, revision=revision, local_files_only=hub_is_offline()))
    except Exception as error:
        raise InfraError(
            f"{name} at {revision[:12]} cannot be fetched: {type(error).__name__}: {error}",
            place=place,
            remedy=f"hf download {' '.join(of)} --revision {revision}",
            kind="download",
        ) from error
