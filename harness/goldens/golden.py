"""One golden: its manifest, and its parts, checked every time before they are used."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import ValidationError

from harness.errors import GoldenError, InfraError
from harness.goldens.content import check_frames
from harness.goldens.files import check_part
from harness.records.golden import CLIP, AcceptedIndex, GoldenManifest, Part

Fetch = Callable[[Part, bool], Path]
"""Where a part lies on this machine; the flag says that a cached copy must not be trusted."""


@dataclass(frozen=True)
class Golden:
    """A golden of a store.

    Attributes:
        manifest: what made it, and its parts.
        digest: sha256 (hex) of the canonical manifest.
        reason: why it is accepted; for one that is not accepted, why it was made.
        origin: the folder or the hub repository, for messages.
    """

    manifest: GoldenManifest
    digest: str
    reason: str
    origin: str
    fetch: Fetch = field(repr=False, compare=False)
    refetches: bool = field(default=False, repr=False, compare=False)
    """Whether asking again may give other bytes (a download), so that a damaged cache mends itself."""
    remedy: str = field(default="", repr=False, compare=False)

    def open_part(self, name: str) -> Path:
        """Path of part ``name``, whose size and sha256 were just checked.

        Raises:
            GoldenError: the golden has no such part, or it is missing, truncated or changed.
        """
        part = self.manifest.parts.get(name)
        if part is None:
            raise GoldenError(
                f"golden {self.digest[:16]} has no part {name!r}, only {sorted(self.manifest.parts)}", where=self.origin
            )
        try:
            return check_part(name, part, self.fetch(part, False), remedy=self.remedy)
        except GoldenError:
            if not self.refetches:
                raise
            try:
                path = self.fetch(part, True)
            except InfraError:
                path = None
            if path is None:  # without a network the damage is the news
                raise
        return check_part(name, part, path, remedy=self.remedy)

    def verify(self) -> tuple[GoldenError, ...]:
        """Check every part against the manifest, and decode the clip.

        Returns:
            The error of every part that is not what the manifest says; nothing for a sound golden.
        """
        faults: list[GoldenError] = []
        for name in sorted(self.manifest.parts):
            try:
                path = self.open_part(name)
            except GoldenError as error:
                faults.append(error)
                continue
            if name == CLIP:
                try:
                    check_frames(path, self.manifest.shape, remedy=self.remedy)
                except GoldenError as error:
                    faults.append(error)
        return tuple(faults)


def read_manifest(path: Path, runner: str, case: str, digest: str, *, remedy: str) -> GoldenManifest:
    """The manifest at ``path``, once it is the one that ``digest`` (full, or its first 16 digits) names.

    Raises:
        GoldenError: the file is missing, is no manifest, belongs to another case, or its content was changed.
    """
    try:
        manifest = GoldenManifest.read(path)
    except OSError as error:
        raise GoldenError("the manifest is missing", where=str(path), remedy=remedy) from error
    except (ValidationError, UnicodeDecodeError) as error:
        raise GoldenError(f"this is not a golden's manifest: {error}", where=str(path), remedy=remedy) from error
    if not manifest.digest().startswith(digest):
        raise GoldenError(
            f"the manifest was changed: its digest is {manifest.digest()[:16]}…, not {digest[:16]}…",
            where=str(path),
            remedy=remedy,
        )
    if (manifest.runner, manifest.case) != (runner, case):
        raise GoldenError(
            f"this golden belongs to {manifest.runner}/{manifest.case}, not to {runner}/{case}",
            where=str(path),
            remedy=remedy,
        )
    return manifest


def read_index(path: Path, runner: str, case: str, *, remedy: str) -> AcceptedIndex:
    """The list of accepted goldens at ``path``; an empty one where there is no file.

    Raises:
        GoldenError: the file is damaged or belongs to another case.
    """
    if not path.exists():
        return AcceptedIndex(case=case, runner=runner)
    try:
        index = AcceptedIndex.read(path)
    except (OSError, ValidationError, UnicodeDecodeError) as error:
        raise GoldenError(
            f"the list of accepted goldens cannot be read: {error}", where=str(path), remedy=remedy
        ) from (error)
    if (index.runner, index.case) != (runner, case):
        raise GoldenError(
            f"this list belongs to {index.runner}/{index.case}, not to {runner}/{case}", where=str(path), remedy=remedy
        )
    return index
