"""Timing and the table's entries of `benchmarks.metrics`."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from harness.frames.clip import Clip
from harness.frames.metric import Pair
from harness.frames.registry import find_metric, gating_names


@dataclass(frozen=True)
class Timing:
    """Process seconds for all frames, and the number of frames that were measured."""

    seconds: float
    frames: int


def best_of(function: Callable[[], object], runs: int) -> float:
    """Return the least process seconds of several runs."""
    least = float("inf")
    for _ in range(runs):
        began = time.process_time()
        function()
        least = min(least, time.process_time() - began)
    return least


def scaled(function: Callable[[int], object], frames: int, count: int) -> Timing:
    """Time ``function`` on ``frames`` of ``count`` frames, and scale the result to all of them."""
    function(1)
    return Timing(best_of(lambda: function(frames), 2) * count / frames, frames)


def gating_set(golden: Clip, candidate: Clip) -> None:
    """Measure every gating metric over one fresh pass, with one thread."""
    pair = Pair(golden, candidate, threads=1)
    for name in gating_names():
        find_metric(name).measure(pair)
