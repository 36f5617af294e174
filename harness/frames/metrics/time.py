"""Faults in time: too much or too little motion, frames out of order, frames shown twice."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from harness.frames.metric import Measurement, Pair
from harness.frames.metrics.drift import folded
from harness.records.frames import MetricDirection

STILL = 0.5
"""Levels of 255 added to both sides of the motion ratio: two stills are alike, not 0 / 0, and grain is no motion."""
REACH = 8
"""How many frames before and after a frame its best match is looked for."""
CLEARLY = 0.5
"""Another frame is the better match only if its squared distance is under this share of the own frame's."""
NOTICEABLE = 0.05
"""Squared levels of 255: the own frame's distance below which no order can be told."""


@dataclass(frozen=True)
class MotionRatio:
    """Amount of motion kept: change from frame to frame, smaller over larger.

    Taken on 8-pixel block means: pixel by pixel, grain of two levels counts for more than a shape that crosses a wall.
    """

    name: str = "motion_ratio"
    direction: MetricDirection = "higher_is_better"
    scope: Literal["frame", "clip"] = "clip"
    unit: str = ""
    ideal: float = 1.0
    valid_range: tuple[float, float] = (0.0, 1.0)
    setting: str = "rms over 8-pixel block means, folded; half a level is added to both sides; 1 for a single frame"
    blind_to: str = "what moves, and where to"
    source: str = "rms of (frame - frame before) of one clip over the other's"

    def measure(self, pair: Pair) -> Measurement:
        """One ratio a clip."""
        change = pair.statistics.time
        ratio = (change.candidate_change + STILL) / (change.golden_change + STILL)
        return Measurement(value=float(folded(np.array(ratio))))


@dataclass(frozen=True)
class FrameOrder:
    """Frames that match another moment of the golden clearly better than their own."""

    name: str = "frame_order"
    direction: MetricDirection = "lower_is_better"
    scope: Literal["frame", "clip"] = "clip"
    unit: str = "frames"
    ideal: float = 0.0
    valid_range: tuple[float, float] = (0.0, float(2**31))
    setting: str = "8-pixel block means less each clip's mean over time; within 8 frames; half the squared distance"
    blind_to: str = "clips that hardly move; shifts of more than 8 frames, where the content does not repeat"
    source: str = "nearest neighbour in time"

    def measure(self, pair: Pair) -> Measurement:
        """Number of misplaced frames, and the first of them."""
        distance = pair.statistics.time.distance
        count = len(distance)
        own = np.diagonal(distance).copy()
        offset = np.abs(np.arange(count)[:, None] - np.arange(count)[None, :])
        others = np.where((offset > 0) & (offset <= REACH), distance, np.inf)
        misplaced = (own > NOTICEABLE) & (others.min(axis=1) < CLEARLY * own)
        found = np.flatnonzero(misplaced)
        return Measurement(value=float(len(found)), frame=int(found[0]) if len(found) else None)


@dataclass(frozen=True)
class NewDuplicates:
    """Frames equal, bit by bit, to the one before, where the golden's are not."""

    name: str = "new_duplicates"
    direction: MetricDirection = "lower_is_better"
    scope: Literal["frame", "clip"] = "clip"
    unit: str = "frames"
    ideal: float = 0.0
    valid_range: tuple[float, float] = (0.0, float(2**31))
    setting: str = "exact equality"
    blind_to: str = "a freeze with any noise on it, which motion_ratio sees"
    source: str = "sum |frame - frame before| = 0"

    def measure(self, pair: Pair) -> Measurement:
        """Number of new duplicates, and the first of them."""
        stats = pair.statistics
        found = 1 + np.flatnonzero((stats.candidate.motion[1:] == 0) & (stats.golden.motion[1:] != 0))
        return Measurement(value=float(len(found)), frame=int(found[0]) if len(found) else None)
