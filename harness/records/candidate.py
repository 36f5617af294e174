"""``candidate.json``: the output that a run proposes as golden, with everything that accepting needs."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, model_validator

from harness.outcomes import Outcome
from harness.records.base import Record
from harness.records.golden import (
    CANDIDATE_FILE,
    CLIP,
    Part,
    Provenance,
    SafeName,
    Sha256,
    canonical_sha256,
    check_files,
)
from harness.records.identity import FieldChange, Identity
from harness.records.limits import LimitFile

__all__ = ["CANDIDATE_FILE", "SHOWN_FILE", "Candidate"]

SHOWN_FILE = "shown-candidates.json"
"""File in a report's folder: the page of each candidate that the report shows, by the candidate's seal."""


class Candidate(Record):
    """A proposed golden. It lies beside its parts: in the run's folder, among pending candidates or in an artifact."""

    schema_version: Literal[1] = 1
    case: SafeName
    runner: SafeName
    identity: Identity
    parts: dict[SafeName, Part] = Field(min_length=1)
    shape: tuple[int, int, int, int] | None = None
    """Frames, height, width, channels of the clip."""
    created: str
    """UTC, ISO 8601."""
    provenance: Provenance
    outcome: Outcome
    summary: str
    """The verdict's sentence."""
    golden: Sha256 | None = None
    """Digest of the golden that the run was judged against. Accepting replaces this golden, and goldens of another
    configuration."""
    changes: tuple[FieldChange, ...] = ()
    """Fields that differ from that golden's identity."""
    limits: LimitFile | None = None
    """Limits that were measured against this candidate. Their ``golden_digest`` is the sha256 of the candidate's clip
    until the candidate is accepted, since only then the golden has a name."""
    seal: str = ""
    """sha256 (hex) over all other fields. It shows damage and hand-made changes; it is not a signature."""

    @model_validator(mode="after")
    def _coherent(self) -> Candidate:
        check_files(self.parts, self.shape)
        limits = self.limits
        if limits is None:
            return self
        if (limits.case, limits.runner) != (self.case, self.runner):
            raise ValueError(f"the limits belong to {limits.runner}/{limits.case}")
        if limits.identity_digest != self.identity.digest():
            raise ValueError("the limits were measured for another identity")
        if CLIP not in self.parts or limits.golden_digest != self.parts[CLIP].sha256:
            raise ValueError("the limits were measured against another clip")
        return self

    def expected_seal(self) -> str:
        """Compute the seal of these fields."""
        return canonical_sha256(self.model_copy(update={"seal": ""}))

    @classmethod
    def sealed(cls, **fields: Any) -> Candidate:
        """Create a candidate and set its seal."""
        bare = cls(**fields)
        return bare.model_copy(update={"seal": bare.expected_seal()})
