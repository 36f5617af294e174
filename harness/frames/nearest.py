"""A run of a bistable case is held against the nearest of its goldens, in calibration as in judgement."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from harness.frames.clip import Clip
from harness.frames.compare import compare
from harness.records.frames import ComparisonEvidence

Hold = Callable[[Clip], ComparisonEvidence]


def nearest_of(goldens: Sequence[Clip], metrics: Sequence[str] | None) -> Hold:
    """How a clip is compared: with the golden whose pixels are nearest, and with that one by every metric.

    Args:
        goldens: at least one, all of one shape.
        metrics: names; ``None``: the gating set.
    """

    def hold(clip: Clip) -> ComparisonEvidence:
        first = goldens[0]
        near = first if len(goldens) == 1 else min(goldens, key=lambda golden: squared_error(golden, clip))
        return compare(near, clip, metrics)

    return hold


def squared_error(golden: Clip, clip: Clip) -> int:
    """Sum of squared differences in levels of 255, frame by frame, so that no whole clip is widened."""
    return sum(
        int(np.square(frame.astype(np.int32) - golden_frame).sum(dtype=np.int64))
        for frame, golden_frame in zip(golden.frames, clip.frames, strict=True)
    )
