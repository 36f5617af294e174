"""How `benchmarks.metrics` measures."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

from harness.frames.clip import Clip
from harness.frames.metric import Pair
from harness.frames.registry import GATING, find_metric
from harness.frames.statistics import PairStatistics


@dataclass(frozen=True)
class Timing:
    """Seconds for all frames, and of how many frames they were measured."""

    seconds: float
    frames: int


def best_of(function: Callable[[], object], runs: int, device: str) -> float:
    """Least of several runs: process seconds on the CPU, seconds by the clock on a GPU, which is waited for."""
    clock = time.process_time if device == "cpu" else time.perf_counter
    least = float("inf")
    for _ in range(runs):
        if device != "cpu":
            torch.cuda.synchronize()
        began = clock()
        function()
        if device != "cpu":
            torch.cuda.synchronize()
        least = min(least, clock() - began)
    return least


def scaled(function: Callable[[int], object], frames: int, count: int, device: str) -> Timing:
    """Time ``function`` on ``frames`` of ``count`` frames and scale to all."""
    function(1)
    return Timing(best_of(lambda: function(frames), 2, device) * count / frames, frames)


def gating_set(golden: Clip, candidate: Clip, statistics: Callable[[], PairStatistics]) -> None:
    """Every gating metric over one fresh pass."""
    pair = Pair(golden, candidate)
    pair.__dict__["statistics"] = statistics()
    for name in GATING:
        find_metric(name).measure(pair)
