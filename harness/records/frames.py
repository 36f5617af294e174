"""What comparing two clips, and looking at one, brought to light."""

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
    """One metric over one pair of clips.

    ``worst`` is the value that gates: of a metric of scope ``frame`` the worst of all frames, of scope ``clip`` the
    one value there is. A metric that could not be computed says so in ``status`` and ``why``; its case fails.
    """

    name: str
    direction: MetricDirection
    unit: str
    scope: Literal["frame", "clip"] = "frame"
    status: Literal["computed", "not_computed"] = "computed"
    implementation: str = ""
    """``numba``, ``torch``, ``scikit-image``; ``digest`` where the clips were bit-exact and nothing was measured."""
    setting: str = ""
    """What the value depends on beside the frames, such as the window of SSIM or the cap of PSNR."""
    ideal: float
    """The value of two identical clips."""
    worst: float | None = None
    worst_frame: int | None = None
    worst_tile: Tile | None = None
    mean: float | None = None
    per_frame: tuple[float, ...] = ()
    """One value a frame; empty for scope ``clip``."""
    why: str = ""
    """Reason and remedy where the metric was not computed."""

    @model_validator(mode="after")
    def _value_or_reason(self) -> MetricResult:
        if self.status == "computed" and (self.worst is None or self.mean is None):
            raise ValueError(f"{self.name}: a computed metric has a value")
        if self.status == "not_computed" and (self.worst is not None or not self.why):
            raise ValueError(f"{self.name}: a metric that was not computed has a reason and no value")
        return self

    @property
    def gating_value(self) -> float | None:
        """``worst`` made one-sided: for a two-sided metric the distance from ``ideal``, of which less is better."""
        if self.worst is None or self.direction != "two_sided":
            return self.worst
        return math.fabs(self.worst - self.ideal)

    @property
    def gating_direction(self) -> Literal["higher_is_better", "lower_is_better"]:
        """The direction of ``gating_value``."""
        return "higher_is_better" if self.direction == "higher_is_better" else "lower_is_better"


class ComparisonEvidence(Record):
    """A candidate clip held against its golden."""

    bit_exact: bool
    golden_sha256: str
    candidate_sha256: str
    shape: Shape
    device: str
    """``cpu`` or ``cuda``: where the metrics ran."""
    metrics: tuple[MetricResult, ...]

    def get(self, name: str) -> MetricResult | None:
        """The result of ``name``, or ``None`` where it was not asked for."""
        return next((result for result in self.metrics if result.name == name), None)

    def distance(self) -> str:
        """How far the candidate is from the golden, for a sentence: ``ssim 0.26, psnr 4.8 dB`` of the worst frame."""
        if self.bit_exact:
            return "every frame is equal"
        rows = [result for result in self.metrics if result.name in ("ssim", "psnr") and result.worst is not None]
        rows = rows or [result for result in self.metrics if result.worst is not None][:2]
        return ", ".join(f"{row.name} {row.worst:.3g}{f' {row.unit}' if row.unit else ''}" for row in rows)

    def not_computed(self) -> tuple[MetricResult, ...]:
        """Results that must fail the case, because they were asked for and have no value."""
        return tuple(result for result in self.metrics if result.status == "not_computed")


class SanityCheck(Record):
    """One reference-free check: the measured value against its limit."""

    name: str
    """Stable machine name: ``nan``, ``inf``, ``shape``, ``flat``, ``noise``, ``speckle``, ``frozen``, ``clipped``,
    ``levels``, ``flicker``."""
    value: float | None
    """``None`` only where the check could not be made, which is not ``ok``."""
    limit: float
    direction: Literal["higher_is_better", "lower_is_better"]
    """``lower_is_better``: the limit is the largest healthy value."""
    unit: str
    ok: bool
    frame: int | None = None
    """The frame that decided, where one did."""
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
        """The check called ``name``, or ``None`` where it was not made."""
        return next((check for check in self.checks if check.name == name), None)
