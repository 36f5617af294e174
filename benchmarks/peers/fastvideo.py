"""FastVideo's video check: mean MS-SSIM over all frames."""

from __future__ import annotations

from dataclasses import dataclass

from benchmarks.peers.base import PeerResult
from harness.frames.clip import Clip


@dataclass(frozen=True)
class FastVideo:
    """Mean over all frames of MS-SSIM against a limit set by hand: .93 is typical, .70 low."""

    limit: float = 0.93
    name: str = "FastVideo, MS-SSIM"
    left_out: str = ""

    def judge(self, golden: Clip, candidate: Clip) -> PeerResult:
        """MS-SSIM by ``pytorch_msssim``.

        Raises:
            ValueError: frames of 160 pixels or less a side, for which five scales do not exist.
        """
        import torch
        from pytorch_msssim import ms_ssim

        if min(golden.shape[1:3]) <= 160:
            raise ValueError("MS-SSIM needs more than 160 pixels a side")
        values = []
        for golden_frame, other_frame in zip(golden.frames, candidate.frames, strict=True):
            pair = [torch.tensor(frame).permute(2, 0, 1)[None].float() for frame in (golden_frame, other_frame)]
            values.append(float(ms_ssim(*pair, data_range=255)))
        mean = sum(values) / len(values)
        return PeerResult(mean >= self.limit, {"ms_ssim": mean})
