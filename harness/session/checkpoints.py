"""From a checkpoint reference to a folder on this machine."""

from __future__ import annotations

from pathlib import Path

from harness.definitions.case import Case, CheckpointRef
from harness.errors import InfraError, InvalidCaseError

ENGINE_ROLES = ("model", "transformer", "transformer_2")
"""Checkpoints that the engine loads; the base is only read by the inspector and the probes."""


def engine_paths(case: Case, root: Path) -> dict[str, Path]:
    """Folder by role of every checkpoint that the engine of ``case`` loads.

    Raises:
        InvalidCaseError: a local folder is absent, or a revision is unresolved.
        InfraError: kind ``download``: the hub did not deliver.
    """
    references = case.checkpoints()
    return {role: folder_of(references[role], case.id, root) for role in ENGINE_ROLES if role in references}


def folder_of(reference: CheckpointRef, case: str, root: Path) -> Path:
    """Folder of one checkpoint; a hub repository is downloaded, or found in the cache where the hub is offline."""
    if reference.is_local:
        path = (root / reference.path).resolve()
        if not path.is_dir():
            remedy = reference.made_by or f"put the checkpoint at {path}"
            raise InvalidCaseError(f"there is no folder {reference.path}", where=case, remedy=remedy)
        return path
    if reference.revision in (None, "unresolved"):
        raise InvalidCaseError(
            f"{reference.path} has no resolved revision, so a run would not know what it ran",
            where=case,
            remedy=f"quantgate resolve {case}",
        )
    return _snapshot(reference, case)


def _snapshot(reference: CheckpointRef, case: str) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(reference.path, revision=reference.revision))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        raise InfraError(
            f"{reference.path}@{reference.revision} could not be downloaded: {type(error).__name__}: {error}",
            where=case,
            kind="download",
            remedy=f"hf download {reference.path} --revision {reference.revision}",
        ) from error
