"""A metric: how much brighter or darker a frame is than the golden's, with its sign."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from harness.frames.metric import Measurement, Pair, per_frame
from harness.records.frames import MetricDirection


@dataclass(frozen=True)
class BrightnessBias:
    """Mean of candidate minus golden over all pixels and channels of a frame, in levels of 255."""

    name: str = "brightness_bias"
    gates: bool = True
    direction: MetricDirection = "two_sided"
    scope: Literal["frame", "clip"] = "frame"
    unit: str = "levels of 255"
    ideal: float = 0.0
    valid_range: tuple[float, float] = (-255.0, 255.0)
    setting: str = "mean of RGB, signed"
    blind_to: str = "any change that keeps the mean brightness: blur, order of frames, a moved object"
    source: str = "mean error; Chai and Draxler 2014, doi:10.5194/gmd-7-1247-2014"

    def measure(self, pair: Pair) -> Measurement:
        """Return one value per frame."""
        golden, candidate = pair.golden.frames, pair.candidate.frames  # uint8 [T, H, W, 3]
        # Means first: a difference of uint8 frames would wrap around at 0.
        difference = candidate.mean(axis=(1, 2, 3), dtype=np.float64) - golden.mean(axis=(1, 2, 3), dtype=np.float64)
        return per_frame(difference)
