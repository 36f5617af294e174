"""Find change points in the history of a measure: the first slower run, and the commits around it.

The segmentation is PELT of the `ruptures` library (Killick, Fearnhead, Eckley 2012) with a squared-error cost on
logarithms, after a median filter of five that removes transients, two in a row included. The noise is taken from the
differences of neighbours, which a step in the series barely moves; the penalty per change point is `PENALTY` times its
variance times the logarithm of the length. `benchmarks.perf_power --trend` prints how often it is wrong.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

LEAST_POINTS = 10
"""Runs below which no change point is looked for."""
LEAST_SEGMENT = 5
_FILTER = 5
PENALTY = 12.0
SMALLEST = 0.03
"""Least relative change of a segment's median that is reported."""
_NOISE_FLOOR = 1e-3


@dataclass(frozen=True)
class Change:
    """A change point.

    Attributes:
        index: the first value after it.
        ratio: median after it over median before it: 1.12 is 12 % more.
    """

    index: int
    ratio: float


def change_points(values: Sequence[float]) -> tuple[Change, ...]:
    """Find where the level of a series changed for good.

    Args:
        values: one positive value a run, oldest first, of one pool.

    Returns:
        The change points, oldest first; none with fewer than ``LEAST_POINTS`` values.
    """
    if len(values) < LEAST_POINTS or not all(math.isfinite(value) and value > 0 for value in values):
        return ()
    import ruptures
    from scipy.signal import medfilt

    logs = np.log(np.asarray(values, dtype=np.float64))
    half = _FILTER // 2
    smooth = medfilt(np.pad(logs, half, mode="reflect"), _FILTER)[half:-half]
    steps = np.abs(np.diff(logs))
    noise = max(float(np.median(steps)) / (0.6745 * math.sqrt(2)), _NOISE_FLOOR)
    signal = (smooth / noise).reshape(-1, 1)
    ends = (
        ruptures.Pelt(model="l2", min_size=LEAST_SEGMENT, jump=1)
        .fit(signal)
        .predict(pen=PENALTY * math.log(len(values)))
    )
    bounds = [0, *ends]
    medians = [float(np.median(logs[begin:end])) for begin, end in itertools.pairwise(bounds)]
    return tuple(
        Change(int(end), math.exp(after - before))
        for end, before, after in zip(ends, medians, medians[1:], strict=False)
        if abs(after - before) > math.log1p(SMALLEST)
    )
