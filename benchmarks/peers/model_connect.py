"""TensorRT-Model-Connect's sanity checks, which need no golden."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from benchmarks.peers.base import PeerResult
from harness.frames.clip import Clip


@dataclass(frozen=True)
class ModelConnect:
    """Of the candidate alone, values in [0, 1]: mean within [.02, .98], standard deviation >= .01, and some motion."""

    low: float = 0.02
    high: float = 0.98
    deviation: float = 0.01
    name: str = "Model-Connect, sanity"
    left_out: str = "the limits of its motion checks, which are not described: here, not all frames are equal"

    def judge(self, golden: Clip, candidate: Clip) -> PeerResult:  # noqa: ARG002 - the golden is not looked at
        """Checks over the whole clip."""
        frames = candidate.frames
        mean, spread = float(frames.mean() / 255.0), float(frames.std() / 255.0)
        moves = len(frames) == 1 or bool((np.diff(frames.astype(np.int16), axis=0) != 0).any())
        passed = self.low <= mean <= self.high and spread >= self.deviation and moves
        return PeerResult(passed, {"mean": mean, "deviation": spread, "moves": float(moves)})
