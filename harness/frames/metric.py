"""What a metric is. A third party writes one such class and names it in the entry point group ``quantgate.metrics``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, Protocol, runtime_checkable

import numpy as np

from harness.frames.clip import Clip
from harness.frames.statistics import (
    Floats,
    Implementation,
    PairStatistics,
    default_implementation,
    pair_statistics,
    require_same_shape,
)
from harness.records.frames import MetricDirection, Tile


@dataclass(frozen=True)
class Pair:
    """A golden, a candidate of the same shape, and where to compute.

    Raises:
        ClipMismatchError: the shapes differ.
    """

    golden: Clip
    candidate: Clip
    device: str = "cpu"
    implementation: Implementation | None = None
    threads: int | None = None

    def __post_init__(self) -> None:
        require_same_shape(self.golden, self.candidate)

    @cached_property
    def statistics(self) -> PairStatistics:
        """One pass over both clips, made when the first metric asks and shared by all."""
        return pair_statistics(self.golden, self.candidate, self.implementation, self.device, self.threads)

    @property
    def implementation_used(self) -> str:
        """Name of the implementation behind ``statistics``."""
        return self.implementation or default_implementation(self.device)


@dataclass(frozen=True)
class Measurement:
    """What a metric measured: one value a frame, or one a clip."""

    per_frame: Floats | None = None
    """[T], for scope ``frame``."""
    value: float | None = None
    """For scope ``clip``."""
    frame: int | None = None
    """The frame to look at, for scope ``clip``."""
    tiles: Sequence[Tile] | None = None
    """[T], for scope ``frame``: where in each frame the value was found."""
    implementation: str = ""
    """What measured, where it was not the shared pass over the pixels."""


@runtime_checkable
class Metric(Protocol):
    """One metric. Stateless: the same pair always gives the same measurement."""

    @property
    def name(self) -> str:
        """Stable name in case files, limit files and records."""

    @property
    def direction(self) -> MetricDirection:
        """Which way is better; ``two_sided``: nearer to ``ideal`` is."""

    @property
    def scope(self) -> Literal["frame", "clip"]:
        """One value a frame, of which the worst gates, or one a clip."""

    @property
    def unit(self) -> str:
        """Unit of the value; empty for a pure number."""

    @property
    def ideal(self) -> float:
        """The value of two identical clips, whatever they show."""

    @property
    def valid_range(self) -> tuple[float, float]:
        """Smallest and largest value there can be. A value outside, or a NaN, counts as not computed."""

    @property
    def setting(self) -> str:
        """What the value depends on beside the frames: window, cap, network."""

    @property
    def blind_to(self) -> str:
        """What this metric cannot see, in a sentence."""

    @property
    def source(self) -> str:
        """Where the formula comes from."""

    def measure(self, pair: Pair) -> Measurement:
        """Measure a pair.

        Raises:
            MetricUnavailableError: it cannot be computed here; the message says why and what to do.
        """


def per_frame(values: Floats) -> Measurement:
    """A measurement of scope ``frame`` from values [T]."""
    return Measurement(per_frame=np.asarray(values, dtype=np.float64))
