"""The manifest of a golden, and the index of goldens that a case accepts."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import Field, StringConstraints, model_validator

from harness.records.base import Record
from harness.records.identity import Fingerprint, Identity

Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
SafeName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,119}$")]
"""One path component that cannot leave its folder, hide, or be read as an option."""

CLIP = "clip"
"""Name of the part that holds the frames."""
LATENTS = "latents"
"""Name of the part that holds the last latents, which the VAE made the frames of."""

MANIFEST_FILE = "manifest.json"
INDEX_FILE = "accepted.json"
CANDIDATE_FILE = "candidate.json"
RESERVED = frozenset({MANIFEST_FILE, INDEX_FILE, CANDIDATE_FILE})
"""File names that no part may have."""


class Part(Record):
    """One file of a golden."""

    path: SafeName
    """File name beside the manifest."""
    sha256: Sha256
    bytes: int = Field(ge=0)
    media: str = Field(min_length=1)
    """Type of the bytes: ``application/json``, ``application/vnd.safetensors``, the clip codec's name."""


class Provenance(Record):
    """The run, code and machine that made a golden."""

    run: str = Field(min_length=1)
    code: str = ""
    """Commit of the code under test."""
    fingerprint: Fingerprint | None = None


class GoldenManifest(Record):
    """``<store>/<runner>/<case>/<digest16>/manifest.json``. Immutable: a change makes another golden."""

    schema_version: Literal[1] = 1
    case: SafeName
    runner: SafeName
    identity: Identity
    parts: dict[SafeName, Part] = Field(min_length=1)
    """Part by name: ``clip``, ``trace``, ``sketches``, ``probes``; later stages add further parts."""
    shape: tuple[int, int, int, int] | None = None
    """Frames, height, width, channels of the clip; ``None`` exactly if there is no clip."""
    created: str = Field(min_length=1)
    """UTC, ISO 8601."""
    author: str = Field(min_length=1)
    reason: str = Field(min_length=1)
    provenance: Provenance
    previous: Sha256 | None = None
    """Digest of the golden that this golden replaced."""

    @model_validator(mode="after")
    def _coherent(self) -> GoldenManifest:
        check_files(self.parts, self.shape)
        return self

    def digest(self) -> str:
        """Return the sha256 (hex) of the canonical manifest: the golden's name. It covers each part through its sha256.

        The canonical form is JSON with sorted keys and no spaces. So reformatting the file on disk (or a checkout with
        other line ends) keeps the digest, and any change of content changes it.
        """
        return canonical_sha256(self)


class Accepted(Record):
    """One golden that a case accepts."""

    digest: Sha256
    reason: str = Field(min_length=1)
    """Why this output is right; if a case accepts several goldens, why there are several."""
    author: str = Field(min_length=1)
    accepted: str = Field(min_length=1)
    """UTC, ISO 8601."""


class AcceptedIndex(Record):
    """``<store>/<runner>/<case>/accepted.json``: the only file in a case's folder that ever changes."""

    schema_version: Literal[1] = 1
    case: SafeName
    runner: SafeName
    goldens: tuple[Accepted, ...] = ()
    """Newest last. If there are several, the case is bistable and each golden is a right result."""

    @model_validator(mode="after")
    def _once_each(self) -> AcceptedIndex:
        digests = [entry.digest for entry in self.goldens]
        if len(set(digests)) != len(digests):
            raise ValueError("a golden is accepted twice")
        return self

    def digests(self) -> tuple[str, ...]:
        """Return the full digests, in the order of the file."""
        return tuple(entry.digest for entry in self.goldens)


def check_files(parts: Mapping[str, Part], shape: tuple[int, int, int, int] | None) -> None:
    """Check that the parts of a golden or a candidate fit together.

    Raises:
        ValueError: two parts share a file, a part has a reserved name, clip and shape do not go together, or a
            side of the shape is 0.
    """
    # lower case: on some file systems two names that differ only in case are one file
    paths = [part.path.lower() for part in parts.values()]
    if len(set(paths)) != len(paths):
        raise ValueError("two parts share one file (names that differ only in case count as one)")
    if taken := RESERVED.intersection(paths):
        raise ValueError(f"a part cannot be called {', '.join(sorted(taken))}")
    if (CLIP in parts) == (shape is None):
        raise ValueError("where there is a clip its shape is stated, and where there is none no shape is")
    if shape is not None and (min(shape) < 1 or shape[3] != 3):
        raise ValueError(f"a clip has frames, height and width of at least 1 and 3 channels, not {list(shape)}")


def canonical_sha256(record: Record) -> str:
    """Return the sha256 (hex) of a record's content: its JSON with sorted keys and no spaces."""
    body = record.as_json()
    text = json.dumps(body, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode("utf-8")).hexdigest()
