"""SGLang's rule for publishing a new golden over an old one."""

from __future__ import annotations

from dataclasses import dataclass

from benchmarks.peers.base import PeerResult, frame_quality, key_frames
from harness.frames.clip import Clip


@dataclass(frozen=True)
class SglangPublishing:
    """Refused only where a key frame has SSIM < .20 AND mean absolute difference > 45."""

    ssim: float = 0.20
    mad: float = 45.0
    name: str = "SGLang, golden publishing"
    left_out: str = "its heuristics for flat and noisy pictures, whose limits are not described"

    def judge(self, golden: Clip, candidate: Clip) -> PeerResult:
        """A frame is refused when both limits are broken in it."""
        chosen = key_frames(golden.shape[0])
        quality = frame_quality(Clip(golden.frames[chosen]), Clip(candidate.frames[chosen]))
        pairs = list(zip(quality["ssim"], quality["mad"], strict=True))
        passed = not any(ssim < self.ssim and mad > self.mad for ssim, mad in pairs)
        return PeerResult(passed, {"ssim": min(quality["ssim"]), "mad": max(quality["mad"])})
