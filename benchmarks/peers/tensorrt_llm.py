"""TensorRT-LLM's visual generation check: mean LPIPS over nine frames."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from benchmarks.peers.base import PeerResult
from harness.frames.clip import Clip

Frame = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class TensorRtLlm:
    """Mean of LPIPS (alex) over nine frames spread evenly, against .05 to .25 by hand.

    ``lpips`` takes two uint8 frames [H, W, 3] and gives their distance. It needs weights, so none is built in.
    """

    lpips: Callable[[Frame, Frame], float]
    limit: float = 0.05
    frames: int = 9
    name: str = "TensorRT-LLM, LPIPS"
    left_out: str = ""

    def judge(self, golden: Clip, candidate: Clip) -> PeerResult:
        """Clips of fewer than nine frames are looked at whole."""
        count = golden.shape[0]
        chosen = sorted({round(place) for place in np.linspace(0, count - 1, min(self.frames, count))})
        mean = float(np.mean([self.lpips(golden.frames[index], candidate.frames[index]) for index in chosen]))
        return PeerResult(mean <= self.limit, {"lpips": mean})
