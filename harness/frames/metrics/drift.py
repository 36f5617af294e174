"""Statistics that hold while the picture drifts: they move with gross faults, and hardly with where an edge lies."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from harness.frames.metric import Measurement, Pair, per_frame
from harness.frames.statistics import ClipStatistics, Floats
from harness.records.frames import MetricDirection

LUMA = np.array([0.299, 0.587, 0.114])
"""ITU-R BT.601 weights of R, G and B."""
LEVEL = 1.0
"""Added to both sides of a ratio of standard deviations, in levels of 255: two flat frames are alike, not 0 / 0."""


def folded(ratio: Floats) -> Floats:
    """A ratio as what is kept of 1: 0.9 stands for 0.9 and for 1 / 0.9."""
    kept: Floats = np.minimum(ratio, 1.0 / ratio)
    return kept


def channel_means(clip: ClipStatistics, values: int) -> Floats:
    """Mean of each channel [T, 3], 0..255."""
    means: Floats = clip.sums / (values / 3)
    return means


def deviation(clip: ClipStatistics, values: int) -> Floats:
    """Standard deviation of each frame [T] around its channel means, all channels pooled, 0..127.5."""
    variance = clip.squares / values - (channel_means(clip, values) ** 2).mean(axis=1)
    spread: Floats = np.sqrt(np.maximum(variance, 0.0))
    return spread


@dataclass(frozen=True)
class Flicker:
    """Jumps of brightness against the golden: second difference in time of the difference of mean luma."""

    name: str = "flicker"
    direction: MetricDirection = "lower_is_better"
    scope: Literal["frame", "clip"] = "frame"
    unit: str = "levels of 255"
    ideal: float = 0.0
    valid_range: tuple[float, float] = (0.0, 1020.0)
    setting: str = "BT.601 luma; 0 in the first and last frame, and in clips of fewer than 3 frames"
    blind_to: str = "brightness that drifts steadily; local flicker that cancels out over the frame"
    source: str = "|d[t-1] - 2 d[t] + d[t+1]| of d = mean luma of candidate - golden"

    def measure(self, pair: Pair) -> Measurement:
        """Second difference at each inner frame."""
        stats = pair.statistics
        means = channel_means(stats.candidate, stats.values) - channel_means(stats.golden, stats.values)
        luma = means @ LUMA
        out = np.zeros(len(luma))
        if len(luma) >= 3:
            out[1:-1] = np.abs(np.diff(luma, n=2))
        return per_frame(out)


@dataclass(frozen=True)
class ChannelShift:
    """Largest shift of a channel's mean: a colour cast, swapped channels, a changed exposure."""

    name: str = "channel_shift"
    direction: MetricDirection = "lower_is_better"
    scope: Literal["frame", "clip"] = "frame"
    unit: str = "levels of 255"
    ideal: float = 0.0
    valid_range: tuple[float, float] = (0.0, 255.0)
    setting: str = "largest of R, G and B"
    blind_to: str = "everything that keeps each channel's mean"
    source: str = "max over channels of |mean(candidate) - mean(golden)|"

    def measure(self, pair: Pair) -> Measurement:
        """Shift of each frame."""
        stats = pair.statistics
        shift = channel_means(stats.candidate, stats.values) - channel_means(stats.golden, stats.values)
        return per_frame(np.abs(shift).max(axis=1))


@dataclass(frozen=True)
class ContrastRatio:
    """Contrast kept: the smaller of the two standard deviations over the larger."""

    name: str = "contrast_ratio"
    direction: MetricDirection = "higher_is_better"
    scope: Literal["frame", "clip"] = "frame"
    unit: str = ""
    ideal: float = 1.0
    valid_range: tuple[float, float] = (0.0, 1.0)
    setting: str = "folded: 0.9 is 10 % less, or 11 % more; one level is added to both sides"
    blind_to: str = "where the contrast lies"
    source: str = "(std + 1) of one over the other, pooled over channels, around each channel's mean"

    def measure(self, pair: Pair) -> Measurement:
        """Folded ratio of each frame."""
        stats = pair.statistics
        candidate, golden = deviation(stats.candidate, stats.values), deviation(stats.golden, stats.values)
        return per_frame(folded((candidate + LEVEL) / (golden + LEVEL)))


@dataclass(frozen=True)
class SharpnessRatio:
    """Fine detail kept: variance of the Laplacian, candidate over golden. Sharper than the golden counts as 1."""

    name: str = "sharpness_ratio"
    direction: MetricDirection = "higher_is_better"
    scope: Literal["frame", "clip"] = "frame"
    unit: str = ""
    ideal: float = 1.0
    valid_range: tuple[float, float] = (0.0, 1.0)
    setting: str = "4-neighbour Laplacian, all channels; one squared level is added to both sides; at most 1"
    blind_to: str = "added noise, which looks like detail; frames under 3x3 pixels, which have no Laplacian"
    source: str = "Pech-Pacheco et al. 2000, doi:10.1109/ICPR.2000.903548"

    def measure(self, pair: Pair) -> Measurement:
        """Ratio of each frame."""
        stats = pair.statistics
        ratio = (stats.candidate.laplacian + LEVEL) / (stats.golden.laplacian + LEVEL)
        return per_frame(np.minimum(ratio, 1.0))
