"""Evidence from frames: the comparison of two clips, and the reference-free checks of one clip."""

from __future__ import annotations

import math
from typing import Literal

from pydantic import model_validator

from harness.records.base import Record

MetricDirection = Literal["higher_is_better", "lower_is_better", "two_sided"]
Shape = tuple[int, int, int, int]
"""Frames, height, width, channels."""


class Tile(Record):
    """A rectangle of the picture, in pixels from its top left corner."""

    x: int
    y: int
    width: int
    height: int


class MetricResult(Record):
    """The result of one metric over one pair of clips.

    ``worst`` is the value that gates: for scope ``frame`` the worst of all frames, for scope ``clip`` the only value.
    If the metric could not be computed, ``status`` and ``why`` record it, and its case fails.
    """

    name: str
    direction: MetricDirection
    unit: str
    scope: Literal["frame", "clip"] = "frame"
    status: Literal["computed", "not_computed"] = "computed"
    implementation: str = ""
    """``numba``, ``torch``, ``scikit-image``; ``digest`` if the clips were bit-exact and nothing was measured."""
    setting: str = ""
    """Settings that the value depends on, such as the window of SSIM or the cap of PSNR."""
    ideal: float
    """The value of two identical clips."""
    worst: float | None = None
    worst_frame: int | None = None
    worst_tile: Tile | None = None
    mean: float | None = None
    per_frame: tuple[float, ...] = ()
    """One value per frame; empty for scope ``clip``."""
    why: str = ""
    """Reason and remedy if the metric was not computed."""

    @model_validator(mode="after")
    def _value_or_reason(self) -> MetricResult:
        if self.status == "computed" and (self.worst is None or self.mean is None):
            raise ValueError(f"{self.name}: a computed metric has a value")
        if self.status == "not_computed" and (self.worst is not None or not self.why):
            raise ValueError(f"{self.name}: a metric that was not computed has a reason and no value")
        return self

    @property
    def gating_value(self) -> float | None:
        """``worst`` as a one-sided value: for a two-sided metric its distance from ``ideal``, where less is better."""
        if self.worst is None or self.direction != "two_sided":
            return self.worst
        return math.fabs(self.worst - self.ideal)

    @property
    def gating_direction(self) -> Literal["higher_is_better", "lower_is_better"]:
        """The direction of ``gating_value``."""
        return "higher_is_better" if self.direction == "higher_is_better" else "lower_is_better"


class ComparisonEvidence(Record):
    """A candidate clip compared with its golden."""

    bit_exact: bool
    golden_sha256: str
    candidate_sha256: str
    shape: Shape
    device: str
    """``cpu`` or ``cuda``: where the metrics ran."""
    metrics: tuple[MetricResult, ...]

    def get(self, name: str) -> MetricResult | None:
        """Return the result of metric ``name``, or ``None`` if it was not requested."""
        return next((result for result in self.metrics if result.name == name), None)

    def distance(self) -> str:
        """Return the distance from the golden for a sentence: ``ssim 0.26, psnr 4.8 dB`` of the worst frame."""
        if self.bit_exact:
            return "every frame is equal"
        rows = [result for result in self.metrics if result.name in ("ssim", "psnr") and result.worst is not None]
        rows = rows or [result for result in self.metrics if result.worst is not None][:2]
        return ", ".join(f"{row.name} {row.worst:.3g}{f' {row.unit}' if row.unit else ''}" for row in rows)

    def not_computed(self) -> tuple[MetricResult, ...]:
        """Return the results that must fail the case, because they were requested and have no value."""
        return tuple(result for result in self.metrics if result.status == "not_computed")


class SanityCheck(Record):
    """One reference-free check: the measured value against its limit."""

    name: str
    """Stable machine name: ``nan``, ``inf``, ``shape``, ``flat``, ``noise``, ``speckle``, ``frozen``, ``clipped``,
    ``levels``, ``flicker``."""
    value: float | None
    """``None`` only if the check could not be made; such a check is not ``ok``."""
    limit: float
    direction: Literal["higher_is_better", "lower_is_better"]
    """``lower_is_better``: the limit is the largest healthy value."""
    unit: str
    ok: bool
    frame: int | None = None
    """The frame that decided, if a single frame did."""
    message: str


class SanityEvidence(Record):
    """All reference-free checks of one clip."""

    checks: tuple[SanityCheck, ...]

    @property
    def ok(self) -> bool:
        """Whether every check passed."""
        return all(check.ok for check in self.checks)

    @property
    def failures(self) -> tuple[SanityCheck, ...]:
        """The checks that did not pass."""
        return tuple(check for check in self.checks if not check.ok)

    def get(self, name: str) -> SanityCheck | None:
        """Return the check called ``name``, or ``None`` if it was not made."""
        return next((check for check in self.checks if check.name == name), None)
