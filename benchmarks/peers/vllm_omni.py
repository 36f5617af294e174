"""vLLM-Omni's check of a served video against diffusers run live."""

from __future__ import annotations

from dataclasses import dataclass

from benchmarks.peers.base import PeerResult, frame_quality
from harness.frames.clip import Clip


@dataclass(frozen=True)
class VllmOmni:
    """Mean over all frames: SSIM >= .94 and PSNR >= 28 dB (.97 and 30 in its strict cases)."""

    ssim: float = 0.94
    psnr: float = 28.0
    name: str = "vLLM-Omni"
    left_out: str = "LPIPS <= .20 for quantized models, which needs weights; it looks at frames of a lossy mp4"

    def judge(self, golden: Clip, candidate: Clip) -> PeerResult:
        """Means over all frames."""
        quality = frame_quality(golden, candidate)
        means = {name: sum(quality[name]) / len(quality[name]) for name in ("ssim", "psnr")}
        return PeerResult(means["ssim"] >= self.ssim and means["psnr"] >= self.psnr, means)
