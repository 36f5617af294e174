"""``thresholds/<runner>/<case>.json``: limits, and the measurements that support them."""

from __future__ import annotations

from typing import Literal

from pydantic import ConfigDict, Field, model_validator

from harness.records.base import Json, Record, SealedRecord

Direction = Literal["higher_is_better", "lower_is_better"]


class Sample(Record):
    """One measured value behind a limit."""

    value: float
    run: str
    """The run that gave the value: ``repeat-1``, ``isa-AVX2``, ``nibble_swap@1.0``."""
    side: Literal["benign", "faulty"]
    fingerprint: dict[str, Json] = {}
    clip: str = ""
    """sha256 of the frames that were measured; runs with equal frames count as one run. Empty: not known."""
    drawn: bool = False
    """Whether the sample was computed from the golden's frames without a run: it gives a floor of the limit, and is no
    evidence of spread."""
    fault: str = ""
    """The fault that was injected into a faulty sample."""
    strength: float | None = None
    """Strength of a faulty sample's fault, in (0, 1]; 1 is the strongest of its kind."""


class ControlResult(Record):
    """Whether the gate with these limits detects one injected fault."""

    # committed limit files are sealed with the key `found`
    model_config = ConfigDict(validate_by_name=True, serialize_by_alias=True)

    fault: str
    detected: dict[str, float] = Field(alias="found")
    """Share of runs in which some gating metric detected the fault, by strength."""
    runs: int
    strength_50: float | None
    """Least tried strength from which on the fault is detected in half of the runs; ``None``: never."""
    strength_95: float | None
    metrics: tuple[str, ...] = ()
    """Gating metrics that detect the fault at its greatest strength."""


class Limit(Record):
    """The limit of one metric in one case."""

    metric: str
    direction: Direction
    gates: bool
    """False: the metric is measured and shown, and its value never fails the case (``why`` gives the reason)."""
    limit: float | None
    """Worst value that still passes. ``None`` exactly if ``gates`` is false."""
    unit: str = ""
    samples: tuple[Sample, ...] = Field(min_length=1)
    method: str
    """Name of the rule that placed the limit, such as ``repeats`` or ``tolerance_bound``."""
    parameters: dict[str, Json] = {}
    margin_benign: float | None = None
    """Distance from the limit to the worst benign sample, in the metric's unit; positive is room to move."""
    margin_faulty: float | None = None
    why: str = ""

    @model_validator(mode="after")
    def _limit_where_it_gates(self) -> Limit:
        if self.gates == (self.limit is None):
            raise ValueError(f"{self.metric}: a gating metric has a limit and a metric that does not gate has none")
        if not self.gates and not self.why:
            raise ValueError(f"{self.metric}: state in `why` the reason for which this metric does not gate")
        return self

    def admits(self, value: float) -> bool:
        """Return whether ``value`` lies inside the limit. A metric that does not gate admits every value."""
        if self.limit is None:
            return True
        return value >= self.limit if self.direction == "higher_is_better" else value <= self.limit


class LimitFile(SealedRecord):
    """All limits of one case on one runner."""

    schema_version: Literal[1] = 1
    case: str
    runner: str
    golden_digest: str
    """Digest of the golden that the samples were measured against."""
    also: tuple[str, ...] = ()
    """Digests of further accepted goldens for which these limits hold: a bistable case has several right results, and
    the noise around each result is the noise of the configuration."""
    identity_digest: str
    limits: tuple[Limit, ...]
    repeats: int
    fingerprints: tuple[dict[str, Json], ...] = ()
    controls: tuple[ControlResult, ...] = ()
    """Negative controls that were injected into this very case."""
    notes: tuple[str, ...] = ()
    """Sentences: promises that these limits do not make, and faults that the gate cannot see here."""
    author: str
    reason: str
    created: str
    """UTC, ISO 8601."""
    seal: str = ""
    """sha256 (hex) over all other fields, see `expected_seal`. Every command that writes the file sets it, and an edit
    by hand breaks it. It is no signature: it protects against edits that nobody notices."""

    @property
    def goldens(self) -> tuple[str, ...]:
        """Digests of all goldens that these limits hold for."""
        return (self.golden_digest, *self.also)

    def get(self, metric: str) -> Limit | None:
        """Return the limit of ``metric``, or ``None`` if the file has no entry for it."""
        return next((limit for limit in self.limits if limit.metric == metric), None)


class LimitCheck(Record):
    """One measured value compared with its limit."""

    metric: str
    value: float | None
    """Worst value over the frames; ``None`` if it could not be computed, which never passes."""
    limit: float | None
    direction: Direction
    gates: bool
    passed: bool
    frame: int | None = None
    margin_consumed: float | None = None
    """Share of the way from the best possible value to the limit that is used up: 1 is at the limit."""
