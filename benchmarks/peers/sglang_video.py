"""SGLang's consistency check, video defaults: three key frames, each above fixed limits."""

from __future__ import annotations

from dataclasses import dataclass

from benchmarks.peers.base import PeerResult, frame_quality, key_frames
from harness.frames.clip import Clip


@dataclass(frozen=True)
class SglangVideo:
    """Frames 0, n // 2 and n - 1: SSIM >= .92, PSNR >= 24 dB, mean absolute difference <= 10, each frame."""

    ssim: float = 0.92
    psnr: float = 24.0
    mad: float = 10.0
    name: str = "SGLang, video defaults"
    left_out: str = "CLIP >= .90, which needs weights; SGLang looks at frames of a lossy mp4"

    def judge(self, golden: Clip, candidate: Clip) -> PeerResult:
        """Every key frame must keep every limit."""
        chosen = key_frames(golden.shape[0])
        quality = frame_quality(Clip(golden.frames[chosen]), Clip(candidate.frames[chosen]))
        worst = {"ssim": min(quality["ssim"]), "psnr": min(quality["psnr"]), "mad": max(quality["mad"])}
        passed = worst["ssim"] >= self.ssim and worst["psnr"] >= self.psnr and worst["mad"] <= self.mad
        return PeerResult(passed, worst)
