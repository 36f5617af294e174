"""The interface of a metric.

A metric is one class with the members of `Metric`. The package's own are in `harness.frames.metrics`; a third party
lists its class in the entry point group ``quantgate.metrics`` (see `harness.frames.registry`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, Protocol, runtime_checkable

import numpy as np

from harness.frames.clip import Clip
from harness.frames.statistics import Floats, PairStatistics, pair_statistics, require_same_shape
from harness.records.frames import MetricDirection, Tile


@dataclass(frozen=True)
class Pair:
    """A golden and a candidate of the same shape.

    Raises:
        ClipMismatchError: the shapes differ.
    """

    golden: Clip
    candidate: Clip
    threads: int | None = None
    """CPU threads of the pass over the pixels, by default `harness.frames.statistics.usable_threads`."""

    def __post_init__(self) -> None:
        require_same_shape(self.golden, self.candidate)

    @cached_property
    def statistics(self) -> PairStatistics:
        """Sums of one pass over both clips. Computed for the first metric that needs them and shared by all."""
        return pair_statistics(self.golden, self.candidate, self.threads)


@dataclass(frozen=True)
class Measurement:
    """The result of a metric: one value per frame, or one value per clip."""

    per_frame: Floats | None = None
    """[T], for scope ``frame``."""
    value: float | None = None
    """For scope ``clip``."""
    frame: int | None = None
    """The frame to look at, for scope ``clip``."""
    tiles: Sequence[Tile] | None = None
    """[T], for scope ``frame``: the tile of each frame that the value is of."""
    implementation: str = ""
    """Name and version of the code or weights that computed it; empty for the shared pass over the pixels."""


@runtime_checkable
class Metric(Protocol):
    """One metric. Stateless: the same pair always gives the same measurement."""

    @property
    def name(self) -> str:
        """Stable name in case files, limit files and records, for example ``ssim``."""

    @property
    def gates(self) -> bool:
        """Whether the metric gates a case whose ``metrics`` field names none. Limits are then measured for it, too."""

    @property
    def direction(self) -> MetricDirection:
        """Which values are better; ``two_sided``: those nearer to ``ideal``."""

    @property
    def scope(self) -> Literal["frame", "clip"]:
        """``frame``: one value per frame, of which the worst gates. ``clip``: one value per clip."""

    @property
    def unit(self) -> str:
        """Unit of the value; empty for a pure number."""

    @property
    def ideal(self) -> float:
        """The value of any two identical clips."""

    @property
    def valid_range(self) -> tuple[float, float]:
        """Smallest and largest possible value. A value outside, or NaN, counts as not computed."""

    @property
    def setting(self) -> str:
        """Settings that the value depends on: window, cap, network."""

    @property
    def blind_to(self) -> str:
        """Faults that this metric cannot see, in a sentence."""

    @property
    def source(self) -> str:
        """Source of the formula."""

    def measure(self, pair: Pair) -> Measurement:
        """Measure a pair.

        Raises:
            MetricUnavailableError: the metric cannot be computed here; the message gives reason and remedy.
        """


def per_frame(values: Floats) -> Measurement:
    """Return a measurement of scope ``frame`` from values [T]."""
    return Measurement(per_frame=np.asarray(values, dtype=np.float64))
