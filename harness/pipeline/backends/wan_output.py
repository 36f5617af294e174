"""What comes out of the decoder: its floats before anything clamps them, and the frames that they are rounded to."""

from __future__ import annotations

import math
from typing import Any

import torch

from harness.frames.clip import Clip
from harness.records.generation import FloatStats


def rounded(video: torch.Tensor) -> Clip:
    """Round video [T, 3, H, W] in [0, 1] to a clip, bit by bit as `round_video` does, where it lies.

    A quarter of the bytes leaves the device, and no core is busy with arithmetic on every pixel.
    """
    healthy = video.float().nan_to_num(nan=0.0, posinf=1.0, neginf=0.0).clamp_(0.0, 1.0)
    frames = healthy.mul_(255).round_().to(torch.uint8).permute(0, 2, 3, 1).contiguous()
    return Clip(frames.cpu().numpy())


class FloatWatch:
    """Looks at what the VAE's decoder gives, before diffusers clamps and rounds it.

    ``AutoencoderKLWan`` decodes a few frames at a time and clamps their concatenation to [-1, 1]. A clamp hides
    infinities and out-of-range values, so the watch is a forward hook on the decoder itself. Values are mapped to
    [0, 1] as the video processor does, ``x / 2 + 0.5``.
    """

    def __init__(self) -> None:
        self._nan = self._inf = 0
        self._minimum, self._maximum = float("inf"), float("-inf")
        self._frames = 0
        self._first_bad: int | None = None
        self._sum, self._values = 0.0, 0

    def __call__(self, _module: torch.nn.Module, _inputs: Any, output: torch.Tensor) -> None:
        """Take [B, C, T, H, W] of the next frames into account."""
        finite = torch.isfinite(output)
        if bool(finite.all()):
            low, high = torch.aminmax(output)
            self._spread(float(low), float(high))
            # mapped as `rounded` maps it: a flat frame's own fraction of a level is no bias then
            levels = output.float().clamp(-1.0, 1.0).div_(2).add_(0.5).mul_(255).round_()
            self._sum += float(levels.sum(dtype=torch.float64))
            self._values += output.numel()
        else:
            self._nan += int(torch.isnan(output).sum())
            self._inf += int(torch.isinf(output).sum())
            bad = (~finite).any(dim=1).flatten(2).any(dim=2).any(dim=0)
            if self._first_bad is None:
                self._first_bad = self._frames + int(bad.to(torch.int8).argmax())
            if bool(finite.any()):
                low, high = torch.aminmax(output[finite])
                self._spread(float(low), float(high))
        self._frames += output.shape[2]

    def rounding_bias(self, clip: Clip) -> float | None:
        """Mean of the frames' 8-bit values less that of the decoded values when rounded: 0, or -0.5 if truncated.

        ``None`` where the decoder gave another number of values than the clip has (tiles that overlap), or a NaN.
        """
        if self._values != clip.frames.size:
            return None
        bias = float(clip.frames.mean(dtype="float64")) - self._sum / self._values
        return bias if math.isfinite(bias) else None

    def _spread(self, low: float, high: float) -> None:
        self._minimum, self._maximum = min(self._minimum, low), max(self._maximum, high)

    def stats(self) -> FloatStats:
        """What was seen. Minimum and maximum are those of the finite values, 0 where there is none."""
        seen = self._minimum <= self._maximum
        return FloatStats(
            nan=self._nan,
            inf=self._inf,
            minimum=self._minimum / 2 + 0.5 if seen else 0.0,
            maximum=self._maximum / 2 + 0.5 if seen else 0.0,
            first_bad_frame=self._first_bad,
        )
