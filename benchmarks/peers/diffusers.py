"""diffusers' pipeline tests: sixteen values of the output."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from benchmarks.peers.base import PeerResult
from harness.frames.clip import Clip


@dataclass(frozen=True)
class Diffusers:
    """The first eight and the last eight values of the video [T, C, H, W] in [0, 1]: max abs difference <= 1e-3."""

    limit: float = 1e-3
    name: str = "diffusers, 16 values"
    left_out: str = "the slow tests' cosine distance, whose limit changes from test to test"

    def judge(self, golden: Clip, candidate: Clip) -> PeerResult:
        """Largest difference of the sixteen values."""
        slices = []
        for clip in (golden, candidate):
            first, last = (clip.frames[index].transpose(2, 0, 1).ravel() for index in (0, -1))
            slices.append(np.concatenate([first[:8], last[-8:]]) / 255.0)
        largest = float(np.abs(slices[0] - slices[1]).max())
        return PeerResult(largest <= self.limit, {"max_abs_difference": largest})
